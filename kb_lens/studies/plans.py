"""What each of the paper's studies varies: plans of conditions, from attributions computed once.

A plan is a list of cases: conditions of the model, each with the labels of its row. `experiments`
does the units of work and makes the tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd

from kb_lens.interventions.scaling import Positions
from kb_lens.neurons.selection import select_neurons
from kb_lens.neurons.sets import NeuronSet
from kb_lens.studies.lab import Case, Lab, Plan

LAMBDAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
"""The paper's range of factors, 2 to 3.5, and factors on either side."""
GRID = (0.05, 0.10, 0.15, 0.20, 0.25)
"""Values of both thresholds, on either side of the default."""
SIZES = (1, 2, 3, 5, 10, 15, 20, 25)
"""Questions per dimension and kind: with the paper's nine combinations 9 to 225 in all."""


def as_draw(case: Case, control_of: Case, draw: int, test: str) -> Case:
    """A case as one of the random draws that another case is tested against."""
    name = control_of.condition.name
    condition = replace(case.condition, role="control", control_of=name, draw=draw)
    return replace(case, condition=condition, test=test)


def question_types(lab: Lab) -> Plan:
    """Each kind of question alone, each left out, all together; the whole bank (paper, RQ3)."""
    scores = lab.attributions(lab.bank)
    all_kinds = list(dict.fromkeys(question.kind for question in lab.bank))
    if len(all_kinds) < 2:
        raise ValueError(f"all questions are of the kind {all_kinds[0]!r}: give more kinds.")

    def case(kinds: Sequence[str], label: str) -> Case:
        # Takes rows of the whole bank's scores, so that no question is attributed twice.
        rows = [i for i, question in enumerate(scores.questions) if question.kind in kinds]
        return lab.case(lab.union(scores.subset(rows)), questions=label)

    alone = [case([kind], f"only {kind}") for kind in all_kinds]
    without = [case([k for k in all_kinds if k != kind], f"without {kind}") for kind in all_kinds]
    cases = [*alone, *without, case(all_kinds, "all kinds")]
    return Plan(cases, settings={"n_questions": len(scores)})


def question_counts(lab: Lab) -> Plan:
    """The number of questions: 9 to 225, each set containing the smaller ones."""
    scores = lab.attributions(lab.bank)
    row_of = {question.text: row for row, question in enumerate(scores.questions)}
    cells = Counter((question.dimension, question.kind) for question in lab.bank)
    counts = [len(cells) * size for size in SIZES if size <= min(cells.values())]
    cases = []
    for n in counts:
        rows = [row_of[question.text] for question in lab.asking.load_questions(n)]
        cases.append(lab.case(lab.union(scores.subset(rows)), n_questions=n))
    return Plan(cases, settings={"n_questions": None})


def transfer(lab: Lab) -> Plan:
    """Neurons of one dimension, measured on all dimensions: do they help the others?"""
    sets = lab.by_dimension(lab.default())
    cases = [lab.case(neurons, source=dimension) for dimension, neurons in sets.items()]
    return Plan([*cases, lab.case(NeuronSet.union(sets.values()), source="union")])


def thresholds(lab: Lab) -> Plan:
    """Every pair of tau and beta from 5 to 25 %."""
    by_dimension = lab.default().by_dimension().values()
    cases = []
    for tau, beta in product(GRID, GRID):
        neurons = NeuronSet.union(select_neurons(scores, tau, beta) for scores in by_dimension)
        cases.append(lab.case(neurons, tau=tau, beta=beta))
    return Plan(cases, settings={"tau": None, "beta": None})


def factors(lab: Lab) -> Plan:
    """Lambda from 1 to 5, for the neurons and for random neurons of like influence."""
    neurons = lab.union(lab.default())
    # The same draws at every lambda, so that rows differ only in lambda.
    random_sets = lab.random_sets(neurons)
    cases = []
    for lam in LAMBDAS:
        method = lab.case(neurons, lam=lam, set="know-bias")
        cases.append(method)
        if lam == 1:  # the identity, for any neurons
            continue
        for draw, control in random_sets.items():
            case = lab.case(control, lam=lam, set=f"random {draw}")
            cases.append(as_draw(case, method, draw, f"lambda {lam:g}"))
    return Plan(cases, settings={"lam": None})


def aggregation(lab: Lab) -> Plan:
    """How the sets of the dimensions are joined."""
    scores = lab.default()
    sets = lab.by_dimension(scores).values()
    joined = {
        "union": NeuronSet.union(sets),
        "at least two": NeuronSet.at_least(sets, 2),
        "intersection": NeuronSet.intersection(sets),
        "pooled": select_neurons(scores, lab.tau, lab.beta),
    }
    return Plan([lab.case(neurons, aggregation=name) for name, neurons in joined.items()])


def site(lab: Lab) -> Plan:
    """The activations that are read and scaled, and the positions."""
    sets = {"post": lab.union(lab.default()), "pre": lab.union(lab.default(site="pre"))}
    positions: tuple[Positions, ...] = ("all", "last")
    cases = [
        lab.case(neurons, positions=position, site=name, at=position)
        for name, neurons in sets.items()
        for position in positions
    ]
    return Plan(cases)


def quadrature(lab: Lab) -> Plan:
    """The release's 20 points and converged integrals, in both spellings of the answer."""
    rules: dict[str, dict[str, Any]] = {
        "converged": {"rule": "adaptive", "n_steps": None},
        "20 points": {"rule": "riemann", "n_steps": 20},
    }
    # Both spellings: the rules differ more for an answer with little probability.
    sets = {
        (rule, style): lab.union(lab.default(answer_style=style, **options))
        for style in ("model", "release")
        for rule, options in rules.items()
    }
    rows = []
    cases = []
    for (rule, style), neurons in sets.items():
        converged = sets["converged", style]
        rows.append(
            {
                "rule": rule,
                "spelling": style,
                "n_neurons": len(neurons),
                "jaccard_with_converged": neurons.jaccard(converged),
                "jaccard_with_default": neurons.jaccard(sets["converged", "model"]),
                "gained": _written(neurons - converged),
                "lost": _written(converged - neurons),
            }
        )
        cases.append(lab.case(neurons, rule=rule, spelling=style))
    return Plan(cases, {"sets": pd.DataFrame(rows)})


def right_answers(lab: Lab) -> Plan:
    """Neurons of the questions that the model answers right, compared with those of all questions.

    As controls, at the same lambda: random neurons of like influence for each of the two sets, and
    the neurons of plain factual questions.
    """
    scores = lab.attributions(lab.bank)
    right = lab.knowledge.table["right"].to_numpy().nonzero()[0].tolist()
    if not right:
        raise ValueError("the model answers no question right: there is nothing to compare.")
    # Any yes/no question selects these neurons: their effect has nothing to do with bias.
    plain = lab.attributions(lab.plain_facts(scores.yes_no_questions))
    sets = {
        "right": lab.union(scores.subset(right)),
        "all": lab.union(scores),
        "plain facts": select_neurons(plain, lab.tau, lab.beta),
    }
    methods = {name: lab.case(neurons, set=name) for name, neurons in sets.items()}
    cases = list(methods.values())
    for name in ("right", "all"):
        for draw, control in lab.random_sets(sets[name]).items():
            case = lab.case(control, set=f"random {draw}, like {name}")
            cases.append(as_draw(case, methods[name], draw, f"influence, {name}"))
    kinds = pd.Series([scores.questions[row].kind for row in right]).value_counts()
    answered = pd.DataFrame({"kind": kinds.index, "answered_right": kinds.to_numpy()})
    return Plan(cases, {"answered_right": answered}, {"n_questions": len(scores)})


def _written(neurons: NeuronSet) -> str:
    return " ".join(neuron.name for neuron in neurons)


STUDIES: dict[str, Callable[[Lab], Plan]] = {
    "question-types": question_types,
    "questions": question_counts,
    "transfer": transfer,
    "thresholds": thresholds,
    "lambda": factors,
    "aggregation": aggregation,
    "site": site,
    "quadrature": quadrature,
    "right-answers": right_answers,
}
"""Name -> the study's plan."""
