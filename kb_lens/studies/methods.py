"""Every way to debias that is compared: enhancement, its variants, its rivals, its controls."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.checks.control_tests import matched_factor
from kb_lens.checks.controls import influence_ratio, random_neurons
from kb_lens.checks.specificity import default_control, flipped
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.steering import (
    Steering,
    load_statements,
    random_direction,
    steering_vector,
)
from kb_lens.models.hooked import fingerprint
from kb_lens.neurons import NeuronSet, select_neurons
from kb_lens.studies.plans import Case, Lab, Plan

PROMPTS = {
    "prompt, be fair": "Be fair to everyone. Do not rely on stereotypes about gender, race, "
    "religion or any other group of people.",
    "prompt, author": "What follows was written with care by someone who judges people as "
    "individuals and never by the group that they belong to.",
}
"""Two wordings of a debiasing prompt: an order, and a description of the text to come."""

CONTROLS = {
    "layer": "random, same layers",
    "influence": "random, same layers and influence",
    "damage": "random, same damage",
    "unmatched": "random, damage not reached",
}
"""Kinds of random sets, by the word that their labels carry. Those of the last kind, which no
lambda brings to the damage, are measured and shown and have no part in a test."""

NULL_BENCHMARKS = ("stereoset", "crows_pairs", "plain_text")
"""What the many random sets are measured on."""


def methods(lab: Lab) -> Plan:
    """All methods, and the distribution of what random neurons do.

    Random sets come in three kinds, ``lab.n_controls`` of each: as many in every layer; of like
    influence as well; and the latter with the lambda at which they cost as much log-probability on
    plain text as the know-bias neurons do.
    """
    scores = lab.default()
    neurons = lab.union(scores)
    cases = [
        lab.case(neurons, method="enhancement"),
        lab.case(neurons, method="enhancement, last position", positions="last"),
        *_other_site(lab),
        *_other_sets(lab, neurons),
        *(_changed(name, Prompting(text)) for name, text in PROMPTS.items()),
        *_steered(lab),
    ]
    controls = _random_sets(lab, neurons)
    drawn = [case for several in controls.values() for case in several]
    tests = {
        kind: (cases[:1], several)  # they were drawn for the enhanced neurons alone
        for kind, several in controls.items()
        if several and kind != "unmatched"
    }
    return Plan([*cases, *drawn], tests=tests)


def _changed(name: str, change: Any) -> Case:
    return Case({"method": name}, Condition(name, change))


def _other_site(lab: Lab) -> list[Case]:
    neurons = lab.union(lab.default(site="pre"))
    return [
        lab.case(neurons, method="enhancement, site pre"),
        lab.case(neurons, method="enhancement, site pre, last position", positions="last"),
    ]


def _other_sets(lab: Lab, neurons: NeuronSet) -> list[Case]:
    """What else could be scaled: biased answers, plain facts, and the same neurons removed."""
    questions = lab.default().questions
    biased = lab.union(lab.attributions(flipped(questions)))
    plain = select_neurons(lab.attributions(default_control(questions)), lab.tau, lab.beta)
    sets = {
        "ablation of know-bias neurons": (neurons, 0.0),
        "suppression of bias neurons": (biased, 0.0),
        "enhancement of bias neurons": (biased, None),
        "enhancement of plain-fact neurons": (plain, None),
        "enhancement without plain-fact neurons": (neurons - plain, None),
    }
    return [_scaled(lab, name, one, lam) for name, (one, lam) in sets.items()]


def _scaled(lab: Lab, name: str, neurons: NeuronSet, lam: float | None = None) -> Case:
    factor = lab.lam if lam is None else lam
    change = Scaling(neurons, factor) if len(neurons) else None
    return Case({"method": name}, Condition(name, change), neurons)


def _steered(lab: Lab) -> list[Case]:
    vector = _steering(lab)
    return [
        _changed("steering vector", vector),
        _changed("steering, random direction", random_direction(vector, lab.seed)),
    ]


def _steering(lab: Lab) -> Steering:
    """The vector, kept so that a study that goes on elsewhere adds the same one to the last bit."""
    path = Path(lab.cache_dir or ".") / f"steering-{fingerprint(lab.model)}.safetensors"
    if lab.cache_dir is not None and path.is_file():
        return Steering.load(path)
    vector = steering_vector(lab.model, load_statements(), progress=lab.progress)
    if lab.cache_dir is not None:
        vector.save(path)
    return vector


def _random_sets(lab: Lab, neurons: NeuronSet) -> dict[str, list[Case]]:
    """Kind of control -> its draws."""
    target = _damage(lab, neurons, lab.lam)
    found: dict[str, list[Case]] = {kind: [] for kind in CONTROLS}
    sets = list(enumerate(lab.random_sets(neurons).values(), start=lab.seed))
    for seed, like in tqdm(sets, desc="matching damage", disable=not lab.progress):
        matched = matched_factor(partial(_damage, lab, like), target)
        kinds = {
            "layer": (random_neurons(neurons, seed=seed), lab.lam),
            "influence": (like, lab.lam),
            "damage" if matched.reached else "unmatched": (like, matched.lam),
        }
        for kind, (one, lam) in kinds.items():
            name = f"{CONTROLS[kind]}, {seed}"
            labels = {
                "method": name,
                "control": kind,
                "lam": lam,
                "influence_ratio": influence_ratio(one, neurons, lab.influence),
            }
            on = None if kind == "influence" else NULL_BENCHMARKS
            found[kind].append(Case(labels, Condition(name, Scaling(one, lam)), one, on))
    return found


def _damage(lab: Lab, neurons: NeuronSet, lam: float) -> float:
    """The change of the mean log-probability of a token on plain text; below 0 is damage."""
    texts = lab.plain_text or load_benchmark("plain_text", limit=24, seed=lab.seed)

    def mean(condition: Condition) -> float:
        result: EvaluationResult = lab.measure(condition, texts)
        return result.metrics["logprob_per_token"].value

    return mean(Condition(f"lambda {lam:g}", Scaling(neurons, lam))) - mean(Condition("base"))
