"""The methods that are compared: enhancement, its variants, other methods, random controls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pandas as pd

from kb_lens.checks.controls import influence_ratio
from kb_lens.checks.matched_factor import Matched
from kb_lens.checks.specificity import flipped
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.prompting import Prompting
from kb_lens.interventions.scaling import Scaling
from kb_lens.neurons.selection import select_neurons
from kb_lens.neurons.sets import NeuronSet
from kb_lens.runs.same_damage import Search, at_same_damage, damage, damage_texts
from kb_lens.studies.asked_otherwise import asked_otherwise
from kb_lens.studies.baselines import baselines, changed
from kb_lens.studies.lab import Case, Lab, Plan

PROMPTS = {
    "prompt, be fair": "Be fair to everyone. Do not rely on stereotypes about gender, race, "
    "religion or any other group of people.",
    "prompt, author": "What follows was written with care by someone who judges people as "
    "individuals and never by the group that they belong to.",
}
"""Two wordings of a debiasing prompt: an order, and a description of the text to come."""

CONTROLS = {
    "influence": "random, same layers and influence",
    "damage": "random, same damage",
}
"""Kind of random set -> the name in its label."""

NULL_BENCHMARKS = ("stereoset", "crows_pairs", "plain_text")
"""The benchmarks for the sets of the same damage."""
# A draw may reach the damage at no lambda; without spare draws there would be too few for a p.
_DRAWS_A_SPARE = 10
"""One spare draw per this many draws."""


def methods(lab: Lab) -> Plan:
    """All methods, and random sets of neurons.

    There are two kinds of random sets, ``lab.n_controls`` of each: as many neurons of like
    influence in every layer, at the same lambda; and the same sets at the lambda at which they
    cost as much log-probability on plain text as the know-bias neurons do.
    """
    neurons = lab.union(lab.default())
    if not len(neurons):
        raise ValueError(
            f"no neuron passes tau {lab.tau:g} and beta {lab.beta:g}: there is nothing to compare. "
            "Lower them; scores are kept."
        )
    enhancement = lab.case(neurons, method="enhancement")
    cases = [
        enhancement,
        lab.case(neurons, method="enhancement, last position", positions="last"),
        *_other_site(lab),
        *_other_sets(lab, neurons),
        *baselines(lab),
        *without_neurons(lab),
    ]
    random_sets = lab.random_sets(neurons, -(-lab.n_controls // _DRAWS_A_SPARE))
    first = dict(list(random_sets.items())[: lab.n_controls])
    alike = [
        _control(lab, enhancement, "influence", draw, control, lab.lam)
        for draw, control in first.items()
    ]
    damaging, table = _same_damage(lab, enhancement, random_sets)
    return Plan([*cases, *alike, *damaging], {"damage": table})


def without_neurons(lab: Lab) -> list[Case]:
    """Methods that need no neurons: prompts, other ways to ask, other checkpoints."""
    return [
        *(changed(name, Prompting(text)) for name, text in PROMPTS.items()),
        *asked_otherwise(lab),
        *(changed(name, change) for name, change in lab.also.items()),
    ]


def _other_site(lab: Lab) -> list[Case]:
    neurons = lab.union(lab.default(site="pre"))
    return [
        lab.case(neurons, method="enhancement, site pre"),
        lab.case(neurons, method="enhancement, site pre, last position", positions="last"),
    ]


def _other_sets(lab: Lab, neurons: NeuronSet) -> list[Case]:
    """Other sets and factors: neurons of biased answers, of plain facts, and ablation."""
    questions = lab.default().yes_no_questions
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
    """Neurons times a factor that has no column of its own: the method's name tells it."""
    change = Scaling(neurons, lam) if len(neurons) else None
    return Case({"method": name}, Condition(name, change, "method"), neurons)


def _same_damage(
    lab: Lab, method: Case, random_sets: dict[int, NeuronSet]
) -> tuple[list[Case], pd.DataFrame]:
    """The first draws that reach the method's damage, and one row about the search."""
    texts = lab.plain_text or damage_texts(lab.seed)
    assert method.neurons is not None  # it is the enhancement
    target = damage(lab.measure, texts, method.neurons, lab.lam)
    cases: list[Case] = []
    tried: list[Matched] = []
    draws = iter(random_sets.items())
    # Only as many draws as are still needed.
    while batch := list(islice(draws, lab.n_controls - len(cases))):
        searches = [Search(control, target) for _, control in batch]
        found = at_same_damage(
            lab.model, searches, lab.measure, texts, lab.store, progress=lab.progress
        )
        tried += found
        cases += [
            _control(lab, method, "damage", draw, control, matched.lam)
            for (draw, control), matched in zip(batch, found, strict=True)
            if matched.reached
        ]
    return cases, _damage_table(target, tried)


def _damage_table(target: float, tried: Sequence[Matched]) -> pd.DataFrame:
    lams = [matched.lam for matched in tried if matched.reached]
    row = {
        "damage": target,
        "tried": len(tried),
        "matched": len(lams),
        "least_lam": min(lams, default=None),
        "largest_lam": max(lams, default=None),
    }
    return pd.DataFrame([row])


def _control(lab: Lab, method: Case, kind: str, draw: int, control: NeuronSet, lam: float) -> Case:
    """One random set as a control of one kind."""
    assert method.neurons is not None  # it is the enhancement
    name = f"{CONTROLS[kind]}, {draw}"
    labels: dict[str, Any] = {
        "method": name,
        "control": kind,
        "lam": lam,
        "influence_ratio": influence_ratio(control, method.neurons, lab.influence),
    }
    condition = Condition(name, Scaling(control, lam), "control", method.condition.name, draw)
    # Sets of like influence are in the rank table too, which needs every benchmark.
    benchmarks = None if kind == "influence" else NULL_BENCHMARKS
    return Case(labels, condition, control, benchmarks, test=kind)
