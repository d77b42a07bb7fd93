"""What all studies share: the model, the settings, and the parts of a plan."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_seed
from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.checks.controls import influence, random_neurons
from kb_lens.checks.specificity import default_control
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.scaling import Positions, Scaling, check_factor
from kb_lens.knowledge.check import check_knowledge
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.prompts import PromptTemplate
from kb_lens.neurons.selection import select_neurons
from kb_lens.neurons.sets import NeuronSet, check_thresholds
from kb_lens.questions import Question
from kb_lens.runs.asking import Asking
from kb_lens.runs.units import Unit
from kb_lens.store import Store


@dataclass(frozen=True)
class Case:
    """One row of a study."""

    labels: Mapping[str, Any]
    """Its labels, which distinguish it from other rows: column -> value."""
    condition: Condition
    """The change of the model, and whether it is a method or a control."""
    neurons: NeuronSet | None = None
    """The scaled neurons, if any."""
    benchmarks: tuple[str, ...] | None = None
    """Names or keys (with a protocol) of its benchmarks; None for all."""
    test: str | None = None
    """For a random control: the test that it is a draw of, against the case in ``control_of``."""

    def row(self) -> dict[str, Any]:
        """The columns that identify its rows in a table: its labels and the size of its set."""
        if self.neurons is None:
            return dict(self.labels)
        return {**self.labels, "n_neurons": len(self.neurons)}


@dataclass(frozen=True)
class Plan:
    """The conditions of a study."""

    cases: Sequence[Case]
    """Its rows; the base model is not one of them but is always measured."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Tables that need no evaluation: which sets agree, which answers are right."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the lab's; None for a setting that the study varies."""

    def __post_init__(self) -> None:
        counts = Counter(case.condition.name for case in self.cases)
        name, count = counts.most_common(1)[0] if counts else ("", 0)
        if count > 1:
            raise ValueError(f"the plan has the condition {name!r} {count} times: rename them.")

    def tests(self) -> dict[str, list[Case]]:
        """Test -> its random draws, in order."""
        draws: dict[str, list[Case]] = {}
        for case in self.cases:
            if case.test is not None:
                draws.setdefault(case.test, []).append(case)
        return draws


@dataclass(frozen=True)
class Lab:
    """The model and the settings that all studies share."""

    model: Any
    """A ``TransformerBridge`` or ``HookedTransformer``."""
    asking: Asking = field(default_factory=Asking)
    """The questions on which neurons are found, unless the study varies them."""
    control: Sequence[Question] | None = None
    """Plain factual questions; None for the package's own."""
    tau: float = 0.10
    """Saliency threshold."""
    beta: float = 0.10
    """Consistency threshold."""
    lam: float = 2.0
    """The factor."""
    # enough to show a spread, too few for a p
    n_controls: int = 3
    """Random sets of each kind."""
    seed: int = 0
    """Seed of the random sets."""
    cache_dir: str | os.PathLike[str] | None = None
    """The folder of the attributions."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `attribute`, such as a faster rule."""
    plain_text: Benchmark | None = None
    """The passages on which damage is matched; default 24 of the package."""
    batch_tokens: int | None = None
    """At most this many tokens in one forward pass when evaluating; default by device."""
    store: Store | None = None
    """The store of finished units; None keeps nothing."""
    progress: bool = True
    """Whether to show progress bars."""
    also: Mapping[str, Change] = field(default_factory=dict[str, Change])
    """Further methods of the study ``methods``, by name."""

    def __post_init__(self) -> None:
        check_thresholds(self.tau, self.beta)
        check_factor(self.lam, self.model.cfg.dtype)
        check_seed(self.seed)
        if self.n_controls < 1:
            raise ValueError(f"n_controls is {self.n_controls}: a study needs at least 1.")
        self.questions  # noqa: B018 - raises now for a number that cannot be balanced

    def unit(self, condition: Condition, benchmark: Benchmark) -> Unit:
        """The unit of one condition on one benchmark."""
        return Unit(condition, benchmark, self.seed, self.batch_tokens)

    def measure(self, condition: Condition, benchmark: Benchmark) -> EvaluationResult:
        """The result of one condition on one benchmark, for plans that depend on a result."""
        unit = self.unit(condition, benchmark)
        if self.store is None:
            return unit.work(self.model)
        return unit.measured(self.model, self.store)

    @cached_property
    def questions(self) -> list[Question]:
        """The default questions on which neurons are found."""
        return self.asking.load_questions()

    @cached_property
    def template(self) -> PromptTemplate:
        """The words around a question."""
        return self.asking.template()

    @property
    def n_questions(self) -> int:
        """The number of these questions."""
        return len(self.questions)

    @cached_property
    def bank(self) -> list[Question]:
        """All questions of these dimensions: 225 for the package's three."""
        return self.asking.load_questions(0)

    def plain_facts(self, questions: Sequence[Question]) -> list[Question]:
        """Plain factual questions to compare `questions` with."""
        return default_control(questions) if self.control is None else list(self.control)

    @cached_property
    def knowledge(self) -> Knowledge:
        """The model's answers to the whole bank, which fix the spelling of yes and no."""
        return check_knowledge(
            self.model, self.bank, template=self.template, forms=(), progress=self.progress
        )

    def attributions(self, questions: Sequence[Question], **options: Any) -> Attributions:
        """Scores of the right answers, from the cache if they are there."""
        given: dict[str, Any] = {"cache_dir": self.cache_dir, "progress": self.progress}
        given |= {"template": self.template, **self.options, **options}
        # Another answer style has another spelling, which `attribute` finds itself. Otherwise all
        # questions, plain facts too, use the spelling of the bank.
        if given.get("answer_style", "model") == "model":
            given["spelling"] = self.knowledge.spelling
        return attribute(self.model, questions, **given)

    def default(self, **options: Any) -> Attributions:
        """Scores of the default questions."""
        return self.attributions(self.questions, **options)

    def by_dimension(self, scores: Attributions) -> dict[str, NeuronSet]:
        """The neurons of each dimension."""
        return {
            dimension: select_neurons(attributions, self.tau, self.beta)
            for dimension, attributions in scores.by_dimension().items()
        }

    def union(self, scores: Attributions) -> NeuronSet:
        """The paper's set: the union of the sets of all dimensions."""
        return NeuronSet.union(self.by_dimension(scores).values())

    @cached_property
    def influence(self) -> Float[Tensor, "layer d_mlp"]:
        """Each neuron's influence, see `kb_lens.checks.controls.influence`."""
        return influence(self.model, cache_dir=self.cache_dir, progress=self.progress)

    def random_sets(self, neurons: NeuronSet, n_spare: int = 0) -> dict[int, NeuronSet]:
        """Random sets of like influence, some of them spare: draw -> set. The draw is the seed."""
        draws = range(self.seed, self.seed + self.n_controls + n_spare)
        return {
            draw: random_neurons(neurons, seed=draw, influence=self.influence) for draw in draws
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
        """A case of scaled neurons; an empty set leaves the model unchanged."""
        factor = self.lam if lam is None else lam
        if lam is not None:
            labels["lam"] = float(lam)
        # `scale_neurons` refuses an empty set, but high thresholds give some.
        change = Scaling(neurons, factor, positions) if len(neurons) else None
        name = " ".join(map(str, labels.values()))
        return Case(labels, Condition(name, change, "method"), neurons, benchmarks)
