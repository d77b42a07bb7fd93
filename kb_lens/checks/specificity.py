"""Are these neurons about bias? What else selects them, and how stable are they?

Neurons that raise P(right answer) may simply say yes or no, whatever the question. So the set is
compared with sets that should differ from it: those of the wrong answer, of plain factual questions
(``question_bank/control.csv``), and of the difference of the two answers' logits, in which the
parts common to yes and no cancel. And the questions are split at random into halves: a set is
stable only if both halves select it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kb_lens.arguments import check_count, check_seed
from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.agreed_spelling import agreed_spelling
from kb_lens.knowledge.check import check_knowledge
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.selection import salient, select_neurons
from kb_lens.neurons.sets import NeuronSet
from kb_lens.questions import Question, load_questions
from kb_lens.records.tables import Belongs, Kind, read_table_of, write_csv

# half of the paper's threshold, the threshold, and twice of it
TAUS = (0.05, 0.10, 0.20)
"""The saliency thresholds that sets are compared at."""
KNOW_BIAS, WRONG, CONTROL = "know-bias", "wrong answer", "control questions"
LOGITS, CONTRASTIVE = "logit difference", "know-bias minus control"
"""The names of the sets in tables."""

Halves = tuple[Bool[Tensor, " neuron"], Bool[Tensor, " neuron"]]
"""The neurons that each of two halves of the questions selects."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The attributions that `specificity` compares."""

    bias: Attributions
    """Attributions of the right answers to the bias-knowledge questions."""
    wrong: Attributions
    """Attributions of the wrong answers to the same questions."""
    control: Attributions
    """Attributions of the right answers to plain factual questions."""
    logits: Attributions
    """Attributions of the logit difference, right minus wrong, for the bias-knowledge questions."""
    control_knowledge: Knowledge
    """The model's answers to the factual questions."""


@dataclass(frozen=True, eq=False)
class Specificity:
    """The result of `specificity`."""

    overlaps: pd.DataFrame
    """One row per tau and set: tau, set, size, know_bias_size, shared, jaccard (with the know-bias
    set) and contained (share of the know-bias set that is in this set)."""
    stability: pd.DataFrame
    """One row per tau and dimension (and ``all``, their union): tau, dimension, n_questions,
    jaccard (mean over random halves), low, high (middle 95 % of the halves), n_halves."""
    control_knowledge: Knowledge
    """The model's answers to the factual questions."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``specificity.csv``, ``stability.csv`` and ``control_knowledge.json``."""
        knowledge = self.control_knowledge
        whose = Belongs.of(knowledge)
        write_csv(Path(folder) / "specificity.csv", self.overlaps, whose)
        write_csv(Path(folder) / "stability.csv", self.stability, whose)
        knowledge.save(Path(folder) / "control_knowledge.json")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], whose: Belongs | None = None) -> Specificity:
        """Read what `save` wrote.

        Args:
            folder: The folder.
            whose: The model that it must belong to; default that of ``control_knowledge.json``.

        Raises:
            ValueError: If a file is missing, damaged, of another kind or of another model.
        """
        folder = Path(folder)
        path = folder / "control_knowledge.json"
        knowledge = Knowledge.load(path)
        stated = Belongs.of(knowledge)
        stated.check(whose or stated, f"'{path}'")
        overlaps = read_table_of(folder / "specificity.csv", _OVERLAPS, stated, path.name)
        stability = read_table_of(folder / "stability.csv", _STABILITY, stated, path.name)
        return cls(overlaps, stability, knowledge)


_OVERLAPS: dict[str, Kind] = {
    "set": "text",
    **dict.fromkeys(("tau", "size", "know_bias_size", "shared", "jaccard", "contained"), "number"),
}
_STABILITY: dict[str, Kind] = {
    "dimension": "text",
    **dict.fromkeys(("tau", "n_questions", "jaccard", "low", "high", "n_halves"), "number"),
}
"""The columns of the tables."""


def gather(
    model: HookedModel,
    questions: Sequence[Question],
    control: Sequence[Question] | None = None,
    *,
    bias: Attributions | None = None,
    knowledge: Knowledge | None = None,
    **options: Any,
) -> Evidence:
    """Compute all attributions that `specificity` compares.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        questions: The bias-knowledge questions.
        control: Plain factual questions; default as many concepts of the control bank as a
            dimension of `questions` has.
        bias: The result of `attribute` for `questions`, if there is one already.
        knowledge: The result of `check_knowledge` for them; asked here if neither this nor `bias`
            is given.
        options: Further arguments of `attribute` (``cache_dir``, ``site``, ``rule`` ...).

    Raises:
        ValueError: As `attribute`.
    """
    how_asked = ("template", "answer_style", "progress")
    asking = {name: option for name, option in options.items() if name in how_asked}
    # all sets use the same two answer tokens: otherwise they would differ for that reason
    options["spelling"] = agreed_spelling(model, questions, bias, knowledge, options)
    control = default_control(questions) if control is None else list(control)
    control_knowledge = check_knowledge(model, control, forms=(), **asking)
    of_logits: dict[str, Any] = {**options, "objective": "logit_difference"}
    return Evidence(
        bias=attribute(model, questions, **options) if bias is None else bias,
        wrong=attribute(model, flipped(questions), **options),
        control=attribute(model, control, **options),
        logits=attribute(model, questions, **of_logits),
        control_knowledge=control_knowledge,
    )


def default_control(questions: Sequence[Question]) -> list[Question]:
    """As many questions of the control bank as the largest dimension has, by whole concepts."""
    largest = max(Counter(question.dimension for question in questions).values())
    # whole concepts of three questions each; at least 9 and at most the bank's 75 questions
    n_control = min(75, max(9, largest // 3 * 3))
    return load_questions(n_control, dimension="control")


def flipped(questions: Sequence[Question]) -> list[Question]:
    """The same questions with the wrong answer."""
    other = {"yes": "no", "no": "yes"}
    return [replace(question, answer=other[question.answer]) for question in questions]


def specificity(
    evidence: Evidence,
    *,
    taus: Sequence[float] = TAUS,
    beta: float = 0.10,
    n_halves: int = 200,
    seed: int = 0,
) -> Specificity:
    """Compare the know-bias set with its controls, and the sets of random halves of the questions.

    Args:
        evidence: What `gather` returned.
        taus: Saliency thresholds; each gives a block of rows.
        beta: Consistency threshold.
        n_halves: Number of random splits of the questions.
        seed: Seed of the splits.
    """
    check_count("n_halves", n_halves)
    if n_halves < 2:
        raise ValueError(f"n_halves is {n_halves}: at least 2 splits make an interval.")
    check_seed(seed)
    overlaps: list[dict[str, Any]] = []
    stability: list[dict[str, Any]] = []
    for tau in taus:
        overlaps += _overlaps(named_sets(evidence, tau=tau, beta=beta), tau)
        stability += _halves(evidence.bias, tau, beta, n_halves, seed)
    return Specificity(pd.DataFrame(overlaps), pd.DataFrame(stability), evidence.control_knowledge)


def named_sets(evidence: Evidence, *, tau: float, beta: float = 0.10) -> dict[str, NeuronSet]:
    """The know-bias set (union over dimensions) and the sets that it is compared with."""
    know_bias = _union(evidence.bias, tau, beta)
    control = select_neurons(evidence.control, tau, beta)
    return {
        KNOW_BIAS: know_bias,
        WRONG: _union(evidence.wrong, tau, beta),
        CONTROL: control,
        LOGITS: _union(evidence.logits, tau, beta),
        CONTRASTIVE: know_bias - control,
    }


def _union(attributions: Attributions, tau: float, beta: float) -> NeuronSet:
    by_dimension = attributions.by_dimension().values()
    return NeuronSet.union(select_neurons(scores, tau, beta) for scores in by_dimension)


def _overlaps(sets: Mapping[str, NeuronSet], tau: float) -> list[dict[str, Any]]:
    know_bias = sets[KNOW_BIAS]
    return [
        {
            "tau": tau,
            "set": name,
            "size": len(other),
            "know_bias_size": len(know_bias),
            "shared": len(know_bias & other),
            "jaccard": know_bias.jaccard(other),
            "contained": len(know_bias & other) / len(know_bias)
            if len(know_bias)
            else float("nan"),
        }
        for name, other in sets.items()
    ]


def _halves(
    attributions: Attributions, tau: float, beta: float, n_halves: int, seed: int
) -> list[dict[str, Any]]:
    """Jaccard of the sets of two random halves: a row per dimension, and one for their union."""
    generator = np.random.default_rng(seed)
    above = {
        dimension: salient(scores, tau).flatten(1)
        for dimension, scores in attributions.by_dimension().items()
    }
    ever = torch.cat(list(above.values())).any(0)  # no half selects any other neuron
    rows: list[dict[str, Any]] = []
    splits: list[list[Halves]] = []
    for dimension, passed in above.items():
        passed = passed[:, ever].float()
        halves = [
            _half_sets(passed, generator.permutation(len(passed)), beta) for _ in range(n_halves)
        ]
        splits.append(halves)
        rows.append(_row(tau, dimension, len(passed), halves))
    if len(above) > 1:
        joined = [_joined(of_dimensions) for of_dimensions in zip(*splits, strict=True)]
        rows.append(_row(tau, "all", len(attributions), joined))
    return rows


def _joined(halves: Sequence[Halves]) -> Halves:
    """The union over the dimensions of the first halves' sets, and of the second halves'."""
    first, second = zip(*halves, strict=True)
    return torch.stack(first).any(0), torch.stack(second).any(0)


def _half_sets(
    above: Float[Tensor, "question neuron"], order: Int[np.ndarray, " question"], beta: float
) -> Halves:
    """The neurons that each half of the questions selects."""
    middle = len(order) // 2
    first = order[:middle]
    second = order[middle : 2 * middle]  # equal halves: an odd question is left out
    needed = float(Fraction(str(beta)) * middle)  # as in `select_neurons`: 0.1 is exactly a tenth
    return above[first].sum(0) > needed, above[second].sum(0) > needed


def _jaccard(first: Bool[Tensor, " neuron"], second: Bool[Tensor, " neuron"]) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def _row(tau: float, dimension: str, n_questions: int, halves: Sequence[Halves]) -> dict[str, Any]:
    values = np.array([_jaccard(*pair) for pair in halves])
    values = values[~np.isnan(values)]  # NaN: neither half selects a neuron
    mean, low, high = 3 * [float("nan")]
    if len(values):
        mean = float(values.mean())
        low, high = map(float, np.percentile(values, [2.5, 97.5]))
    return {
        "tau": tau,
        "dimension": dimension,
        "n_questions": n_questions,
        "jaccard": mean,
        "low": low,
        "high": high,
        "n_halves": len(values),
    }
