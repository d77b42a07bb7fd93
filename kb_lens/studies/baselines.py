"""Baselines that use the model's activations: steering, projections, FairSteer, CRISPR.

They are fitted to the bank's statements and questions, and see no item of a benchmark. The fits are
kept, so that a study that is resumed elsewhere changes the model in exactly the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from kb_lens.interventions.bias_neurons import (
    BiasNeuronSettings,
    statement_questions,
    top_neurons,
)
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.fairsteer import FairSteer, fair_steer
from kb_lens.interventions.group_texts import load_group_texts
from kb_lens.interventions.inlp import inlp
from kb_lens.interventions.projection import Projection
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.sentence_debias import sentence_debias
from kb_lens.interventions.steering import (
    Steering,
    load_statements,
    random_direction,
    steering_vector,
)
from kb_lens.models.hooked import weights_digest
from kb_lens.studies.lab import Case, Lab

FAMILIES = ("steering", "projection", "FairSteer", "CRISPR")
"""First words of the names of these conditions."""


_Found = TypeVar("_Found", Steering, Projection, FairSteer)


def baselines(lab: Lab) -> list[Case]:
    """All of these baselines, and steering with a random direction as a control."""
    model, progress, statements = lab.model, lab.progress, load_statements()
    texts = load_group_texts()
    find_steering = partial(steering_vector, model, statements, progress=progress)
    steering = _kept(lab, "steering", Steering.load, find_steering)
    find_fairsteer = partial(fair_steer, model, statements, seed=lab.seed, progress=progress)
    fairsteer = _kept(lab, f"fairsteer-{lab.seed}", FairSteer.load, find_fairsteer)
    projections = {
        "SentenceDebias": partial(sentence_debias, model, texts, progress=progress),
        "INLP": partial(inlp, model, texts, progress=progress),
    }
    return [
        changed("steering vector", steering),
        changed("steering, random direction", random_direction(steering, lab.seed)),
        *(
            changed(f"projection, {name}", _kept(lab, name.lower(), Projection.load, find))
            for name, find in projections.items()
        ),
        changed("FairSteer", fairsteer),
        _without_bias_neurons(lab),
    ]


def changed(name: str, change: Change) -> Case:
    """A case of a method without settings in the table."""
    return Case({"method": name}, Condition(name, change))


def _without_bias_neurons(lab: Lab) -> Case:
    """CRISPR, from the lab's cached attributions of the lab's answers."""
    settings = BiasNeuronSettings()
    questions = statement_questions(load_statements())
    found = [
        lab.attributions(questions, template=template)
        for template in settings.templates(lab.template)
    ]
    neurons = top_neurons(found, settings.n_neurons)
    return Case({"method": "CRISPR"}, Condition("CRISPR", Scaling(neurons, 0.0)), neurons)


def _kept(
    lab: Lab, name: str, load: Callable[[Path], _Found], find: Callable[[], _Found]
) -> _Found:
    """The fit for the lab's model, from the cache or computed now."""
    if lab.cache_dir is None:
        return find()
    path = Path(lab.cache_dir) / f"{name}-{weights_digest(lab.model)}.safetensors"
    if not path.is_file():
        find().save(path)
    return load(path)
