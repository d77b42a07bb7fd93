"""Every way to debias that is compared: enhancement, its variants, its rivals, its controls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.checks.controls import influence_ratio, random_neurons
from kb_lens.checks.matched_factor import matched_factor
from kb_lens.checks.specificity import flipped
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.interventions.steering import (
    Steering,
    load_statements,
    random_direction,
    steering_vector,
)
from kb_lens.models.hooked import weights_digest
from kb_lens.neurons import NeuronSet, select_neurons
from kb_lens.studies.lab import Case, Lab, Plan

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
# Every step of the bisection scores them all, for every draw: so few, and always the same.
N_DAMAGE_TEXTS = 24


def methods(lab: Lab) -> Plan:
    """All methods, and the distribution of what random neurons do.

    Random sets come in three kinds, ``lab.n_controls`` of each: as many in every layer; of like
    influence as well; and the latter with the lambda at which they cost as much log-probability on
    plain text as the know-bias neurons do.
    """
    neurons = lab.union(lab.default())
    enhancement = lab.case(neurons, method="enhancement")
    cases = [
        enhancement,
        lab.case(neurons, method="enhancement, last position", positions="last"),
        *_other_site(lab),
        *_other_sets(lab, neurons),
        *(_changed(name, Prompting(text)) for name, text in PROMPTS.items()),
        *_steered(lab),
    ]
    # Kind after kind, as the rows of the tables are: the draws themselves are made side by side.
    controls = list(_random_sets(lab, neurons, enhancement))
    controls.sort(key=lambda case: list(CONTROLS).index(case.labels["control"]))
    return Plan([*cases, *controls])


def _changed(name: str, change: Change) -> Case:
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
    plain = select_neurons(lab.attributions(lab.plain_facts(questions)), lab.tau, lab.beta)
    factors = {
        "ablation of know-bias neurons": (neurons, 0.0),
        "suppression of bias neurons": (biased, 0.0),
        "enhancement of bias neurons": (biased, lab.lam),
        "enhancement of plain-fact neurons": (plain, lab.lam),
        "enhancement without plain-fact neurons": (neurons - plain, lab.lam),
    }
    return [_scaled(name, scaled, lam) for name, (scaled, lam) in factors.items()]


def _scaled(name: str, neurons: NeuronSet, lam: float) -> Case:
    """Neurons times a factor that is no label of its own: it belongs to the method's name."""
    change = Scaling(neurons, lam) if len(neurons) else None
    return Case({"method": name}, Condition(name, change, "method"), neurons)


def _steered(lab: Lab) -> list[Case]:
    vector = _steering(lab)
    return [
        _changed("steering vector", vector),
        _changed("steering, random direction", random_direction(vector, lab.seed)),
    ]


def _steering(lab: Lab) -> Steering:
    """The vector, kept so that a study that goes on elsewhere adds the same one to the last bit."""
    if lab.cache_dir is None:
        return steering_vector(lab.model, load_statements(), progress=lab.progress)
    path = Path(lab.cache_dir) / f"steering-{weights_digest(lab.model)}.safetensors"
    if not path.is_file():
        vector = steering_vector(lab.model, load_statements(), progress=lab.progress)
        vector.save(path)
    return Steering.load(path)


def _random_sets(lab: Lab, neurons: NeuronSet, method: Case) -> Iterator[Case]:
    """The draws, each as a control of three kinds."""
    target = _damage(lab, neurons, lab.lam)
    draws = lab.random_sets(neurons).items()
    for draw, alike in tqdm(draws, desc="matching damage", disable=not lab.progress):
        matched = matched_factor(partial(_damage, lab, alike), target)
        same_damage = "damage" if matched.reached else "unmatched"
        layers = random_neurons(neurons, seed=draw)
        yield _control(lab, neurons, method, "layer", draw, layers, lab.lam)
        yield _control(lab, neurons, method, "influence", draw, alike, lab.lam)
        yield _control(lab, neurons, method, same_damage, draw, alike, matched.lam)


def _control(
    lab: Lab,
    neurons: NeuronSet,
    method: Case,
    kind: str,
    draw: int,
    control: NeuronSet,
    lam: float,
) -> Case:
    """One random set as a control of one kind."""
    name = f"{CONTROLS[kind]}, {draw}"
    labels: dict[str, Any] = {
        "method": name,
        "control": kind,
        "lam": lam,
        "influence_ratio": influence_ratio(control, neurons, lab.influence),
    }
    change = Scaling(control, lam)
    condition = Condition(name, change, "control", method.condition.name, draw)
    # Those of like influence stand in the rank table too, which needs every benchmark.
    benchmarks = None if kind == "influence" else NULL_BENCHMARKS
    test = None if kind == "unmatched" else kind
    return Case(labels, condition, control, benchmarks, test)


def _damage(lab: Lab, neurons: NeuronSet, lam: float) -> float:
    """The change of the mean log-probability of a token on plain text; below 0 is damage."""
    texts = lab.plain_text
    if texts is None:
        texts = load_benchmark("plain_text", limit=N_DAMAGE_TEXTS, seed=lab.seed)
    scaled = Condition(f"lambda {lam:g}", Scaling(neurons, lam))
    before = lab.measure(Condition("base"), texts).metrics["logprob_per_token"].value
    after = lab.measure(scaled, texts).metrics["logprob_per_token"].value
    return after - before
