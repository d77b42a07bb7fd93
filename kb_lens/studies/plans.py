"""What each of the paper's studies varies: a plan of conditions, from attributions done once.

A study here is only a list of cases, each a condition of the model with the labels of its row.
Which unit of work was done already, on which machine it runs and how tables come about is the
business of `experiments`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.checks.controls import influence, random_neurons
from kb_lens.checks.specificity import default_control
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Positions, Scaling, check_factor
from kb_lens.knowledge import Knowledge, check_knowledge
from kb_lens.neurons import NeuronSet, check_thresholds, select_neurons
from kb_lens.questions import KINDS, Question, load_questions
from kb_lens.runs.unit_store import UnitStore
from kb_lens.runs.units import Unit

LAMBDAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
GRID = (0.05, 0.10, 0.15, 0.20, 0.25)
COUNTS = (9, 18, 27, 45, 90, 135, 180, 225)
WHOLE_BANK = 225


@dataclass(frozen=True)
class Case:
    """One row of a study."""

    labels: Mapping[str, Any]
    """What tells it from the study's other rows: column -> value."""
    condition: Condition
    """What is done to the model."""
    neurons: NeuronSet | None = None
    """The neurons that are scaled, if any."""
    benchmarks: tuple[str, ...] | None = None
    """Names of the benchmarks that it is measured on; None for all."""


@dataclass(frozen=True)
class Plan:
    """What a study measures."""

    cases: Sequence[Case]
    """Its rows; the base model is not one of them, it is always measured."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """What can be said without evaluating: which sets agree, which controls were drawn."""
    tests: Mapping[str, tuple[Sequence[Case], Sequence[Case]]] = field(default_factory=dict)
    """Kind of control -> the cases that it was drawn for, and the random draws."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the lab's; None where the study varies one."""


@dataclass(frozen=True)
class Lab:
    """The model and the settings that all studies share."""

    model: Any
    """A ``TransformerBridge`` or ``HookedTransformer``."""
    n_questions: int = 45
    """Questions that the neurons are found on, where a study does not vary that."""
    tau: float = 0.10
    """Saliency threshold."""
    beta: float = 0.10
    """Consistency threshold."""
    lam: float = 2.0
    """The factor."""
    n_controls: int = 3
    """Random sets of each kind."""
    seed: int = 0
    """Of the random sets."""
    cache_dir: str | os.PathLike[str] | None = None
    """Where attributions are kept."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `attribute`, such as a quicker rule."""
    plain_text: Benchmark | None = None
    """What damage is matched on; default 24 passages of the package's own."""
    batch_tokens: int | None = None
    """At most this many tokens in one forward pass when evaluating; default by device."""
    store: UnitStore | None = None
    """Where finished units are kept; None for nowhere."""
    progress: bool = True
    """Whether to show progress bars."""

    def __post_init__(self) -> None:
        check_thresholds(self.tau, self.beta)
        check_factor(self.lam)
        if self.n_controls < 1:
            raise ValueError(f"n_controls is {self.n_controls}: a study needs at least 1.")
        load_questions(self.n_questions)  # refuses what cannot be balanced

    def unit(self, condition: Condition, benchmark: Benchmark) -> Unit:
        """One condition on one benchmark."""
        return Unit(condition, benchmark, self.seed, self.batch_tokens)

    def measure(self, condition: Condition, benchmark: Benchmark) -> EvaluationResult:
        """One condition on one benchmark, where the plan itself depends on a result."""
        unit = self.unit(condition, benchmark)
        return (
            unit.work(self.model) if self.store is None else unit.measured(self.model, self.store)
        )

    @cached_property
    def knowledge(self) -> Knowledge:
        """What the model answers to the whole bank: it fixes how yes and no are spelled."""
        return check_knowledge(self.model, load_questions(WHOLE_BANK), progress=self.progress)

    def attributions(self, questions: Sequence[Question], **options: Any) -> Attributions:
        """Scores of the right answers, from the cache where they were found before."""
        own = options.get("answer_style", "model") != "model"
        given = {} if own else {"knowledge": self.knowledge}
        shared: dict[str, Any] = {"cache_dir": self.cache_dir, "progress": self.progress}
        return attribute(self.model, questions, **given, **shared, **{**self.options, **options})

    def default(self, **options: Any) -> Attributions:
        """Scores of the default questions."""
        return self.attributions(load_questions(self.n_questions), **options)

    def union(self, scores: Attributions) -> NeuronSet:
        """The paper's set: selected in each dimension, joined."""
        return NeuronSet.union(self.by_dimension(scores).values())

    def by_dimension(self, scores: Attributions) -> dict[str, NeuronSet]:
        """The neurons of each dimension."""
        parts = scores.by_dimension().items()
        return {name: select_neurons(part, self.tau, self.beta) for name, part in parts}

    @cached_property
    def influence(self) -> Float[Tensor, "layer d_mlp"]:
        """What each neuron can do, see `kb_lens.checks.controls.influence`."""
        return influence(self.model, progress=self.progress)

    def random_sets(self, neurons: NeuronSet) -> dict[str, NeuronSet]:
        """Random sets of like influence."""
        seeds = range(self.seed, self.seed + self.n_controls)
        return {
            f"random {seed}": random_neurons(neurons, seed=seed, influence=self.influence)
            for seed in seeds
        }

    def case(
        self,
        neurons: NeuronSet,
        *,
        lam: float | None = None,
        positions: Positions = "all",
        benchmarks: tuple[str, ...] | None = None,
        **labels: Any,
    ) -> Case:
        """Neurons scaled; an empty set leaves the model as it is."""
        factor = self.lam if lam is None else lam
        labels |= {} if lam is None else {"lam": float(lam)}
        change = Scaling(neurons, factor, positions) if len(neurons) else None
        name = " ".join(str(label) for label in labels.values())
        return Case(labels, Condition(name, change), neurons, benchmarks)


def question_types(lab: Lab) -> Plan:
    """Each kind of question alone, each left out, and all mixed; the whole bank (paper, RQ3)."""
    scores = lab.attributions(load_questions(WHOLE_BANK))
    kinds = [question.kind for question in scores.questions]

    def of(wanted: Sequence[str]) -> NeuronSet:
        return lab.union(scores.subset(i for i, kind in enumerate(kinds) if kind in wanted))

    alone = [lab.case(of([kind]), questions=f"only {kind}") for kind in KINDS]
    without = [
        lab.case(of([k for k in KINDS if k != kind]), questions=f"without {kind}") for kind in KINDS
    ]
    cases = [*alone, *without, lab.case(of(KINDS), questions="all kinds")]
    return Plan(cases, settings={"n_questions": len(scores)})


def question_counts(lab: Lab) -> Plan:
    """How many questions it takes: 9 to 225, each set containing the smaller ones."""
    scores = lab.attributions(load_questions(WHOLE_BANK))
    texts = [question.text for question in scores.questions]
    rows = {n: [texts.index(question.text) for question in load_questions(n)] for n in COUNTS}
    cases = [lab.case(lab.union(scores.subset(rows[n])), n_questions=n) for n in COUNTS]
    return Plan(cases, settings={"n_questions": None})


def transfer(lab: Lab) -> Plan:
    """Neurons of one dimension alone, measured on all: do they help the others?"""
    sets = lab.by_dimension(lab.default())
    cases = [lab.case(one, source=name) for name, one in sets.items()]
    return Plan([*cases, lab.case(NeuronSet.union(sets.values()), source="union")])


def thresholds(lab: Lab) -> Plan:
    """Every pair of tau and beta from 5 to 25 %."""
    parts = lab.default().by_dimension().values()
    cases = []
    for tau, beta in product(GRID, GRID):
        neurons = NeuronSet.union(select_neurons(part, tau, beta) for part in parts)
        cases.append(lab.case(neurons, tau=tau, beta=beta))
    return Plan(cases, settings={"tau": None, "beta": None})


def factors(lab: Lab) -> Plan:
    """Lambda from 1 to 5, beside random neurons of like influence."""
    neurons = lab.union(lab.default())
    sets = lab.random_sets(neurons)
    cases, tests = [], {}
    for lam in LAMBDAS:
        own = lab.case(neurons, lam=lam, set="know-bias")
        drawn = [lab.case(one, lam=lam, set=name) for name, one in sets.items()]
        cases += [own, *drawn]
        tests[f"lambda {lam:g}"] = [own], drawn
    return Plan(cases, tests=tests, settings={"lam": None})


def aggregation(lab: Lab) -> Plan:
    """How the dimensions are joined."""
    scores = lab.default()
    sets = lab.by_dimension(scores).values()
    joined = {
        "union": NeuronSet.union(sets),
        "at least two": NeuronSet.at_least(sets, 2),
        "intersection": NeuronSet.intersection(sets),
        "pooled": select_neurons(scores, lab.tau, lab.beta),
    }
    return Plan([lab.case(one, aggregation=name) for name, one in joined.items()])


def site(lab: Lab) -> Plan:
    """Which activations are read and scaled, and at which positions."""
    sets = {"post": lab.union(lab.default()), "pre": lab.union(lab.default(site="pre"))}
    ways: tuple[Positions, ...] = ("all", "last")
    return Plan([lab.case(one, positions=p, site=s, at=p) for s, one in sets.items() for p in ways])


def quadrature(lab: Lab) -> Plan:
    """The release's 20 points against converged integrals, in both spellings of the answer."""
    rules: dict[str, dict[str, Any]] = {
        "converged": {"rule": "adaptive", "n_steps": None},
        "20 points": {"rule": "riemann", "n_steps": 20},
    }
    sets = {
        (rule, style): lab.union(lab.default(answer_style=style, **options))
        for style in ("model", "release")
        for rule, options in rules.items()
    }
    rows = []
    for (rule, style), one in sets.items():
        reference = sets["converged", style]
        rows.append(
            {
                "rule": rule,
                "spelling": style,
                "n_neurons": len(one),
                "jaccard_with_converged": one.jaccard(reference),
                "jaccard_with_default": one.jaccard(sets["converged", "model"]),
                "gained": _written(one - reference),
                "lost": _written(reference - one),
            }
        )
    cases = [lab.case(one, rule=rule, spelling=style) for (rule, style), one in sets.items()]
    return Plan(cases, {"sets": pd.DataFrame(rows)})


def right_answers(lab: Lab) -> Plan:
    """Neurons found on the questions that the model answers right, against those found on all.

    Beside them, for the same lambda: random neurons of like influence for each of the two, and the
    neurons of plain factual questions.
    """
    scores = lab.attributions(load_questions(WHOLE_BANK))
    knowledge = lab.knowledge
    right = [i for i, correct in enumerate(knowledge.table["right"]) if correct]
    if not right:
        raise ValueError("the model answers no question right: there is nothing to compare.")
    chosen = lab.union(scores.subset(right))
    plain = lab.attributions(default_control(scores.questions))
    sets = {
        "right": chosen,
        "all": lab.union(scores),
        "plain facts": select_neurons(plain, lab.tau, lab.beta),
    }
    kinds = pd.Series([scores.questions[i].kind for i in right]).value_counts()
    asked = pd.DataFrame({"kind": kinds.index, "answered_right": kinds.to_numpy()})
    cases = {name: lab.case(one, set=name) for name, one in sets.items()}
    drawn = {
        name: [
            lab.case(one, set=f"{draw}, like {name}")
            for draw, one in lab.random_sets(sets[name]).items()
        ]
        for name in ("right", "all")
    }
    tests = {f"influence, {name}": ([cases[name]], drawn[name]) for name in drawn}
    settings = {"n_questions": len(scores)}
    every = [*cases.values(), *drawn["right"], *drawn["all"]]
    return Plan(every, {"answered_right": asked}, tests, settings)


def _written(neurons: NeuronSet) -> str:
    return " ".join(f"L{layer}.N{index}" for layer, index in neurons)


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
