"""Are these neurons about bias? What else selects them, and how stable they are.

Neurons that raise P(right answer) may be the ones that say yes or no, whatever the question. So the
set is held against the sets that should differ from it: that of the wrong answer, that of plain
factual questions (``question_bank/control.csv``), and that of the difference of the two answers'
logits, in which what yes and no have in common cancels. And the questions are split at random into
halves: a set that another half of the bank would not give again is not a finding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.files import write_text
from kb_lens.knowledge import Knowledge, check_knowledge
from kb_lens.neurons import NeuronSet, salient, select_neurons
from kb_lens.questions import Question, load_questions

TAUS = (0.05, 0.10, 0.20)
KNOW_BIAS, WRONG, CONTROL = "know-bias", "wrong answer", "control questions"
LOGITS, CONTRASTIVE = "logit difference", "know-bias minus control"


@dataclass(frozen=True, eq=False)
class Evidence:
    """The attributions that a set is held against."""

    bias: Attributions
    """Of the right answers to the bias-knowledge questions."""
    wrong: Attributions
    """Of the wrong answers to the same questions."""
    control: Attributions
    """Of the right answers to plain factual questions."""
    logits: Attributions
    """Of the logit difference, right minus wrong, for the bias-knowledge questions."""
    control_knowledge: Knowledge
    """What the model answers to the factual questions."""


@dataclass(frozen=True, eq=False)
class Specificity:
    """What `specificity` found."""

    overlaps: pd.DataFrame
    """One row a tau and set: tau, set, size, know_bias_size, shared, jaccard (with the know-bias
    set) and contained (share of the know-bias set that lies in this one)."""
    stability: pd.DataFrame
    """One row a tau and dimension (and ``all``, their union): tau, dimension, n_questions, jaccard
    (mean over random halves), low, high (middle 95 % of the halves), n_halves."""
    control_knowledge: Knowledge
    """What the model answers to the factual questions."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``specificity.csv``, ``stability.csv`` and ``control_knowledge.json``."""
        for name, table in (("specificity", self.overlaps), ("stability", self.stability)):
            write_text(Path(folder) / f"{name}.csv", table.to_csv(index=False))
        self.control_knowledge.save(Path(folder) / "control_knowledge.json")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Specificity:
        """Read what `save` wrote.

        Raises:
            ValueError: If a file is missing or something else.
        """
        tables: list[pd.DataFrame] = []
        for name, column in (("specificity", "contained"), ("stability", "n_halves")):
            path = Path(folder) / f"{name}.csv"
            table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
            if column not in table:
                raise ValueError(f"'{path}' is missing or not what kb_lens writes.")
            tables.append(table)
        overlaps, stability = tables
        return cls(overlaps, stability, Knowledge.load(Path(folder) / "control_knowledge.json"))


def gather(
    model: Any,
    questions: Sequence[Question],
    control: Sequence[Question] | None = None,
    *,
    bias: Attributions | None = None,
    knowledge: Knowledge | None = None,
    **options: Any,
) -> Evidence:
    """Attribute everything that `specificity` compares.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        questions: The bias-knowledge questions.
        control: Plain factual questions; default as many concepts of the control bank as a
            dimension of `questions` has.
        bias: What `attribute` found for `questions`, if that is known already.
        knowledge: What `check_knowledge` found for them.
        options: Further arguments of `attribute` (``cache_dir``, ``site``, ``rule`` ...).

    Raises:
        ValueError: As `attribute`.
    """
    asking = {k: v for k, v in options.items() if k in ("template", "answer_style", "progress")}
    knowledge = knowledge or check_knowledge(model, questions, **asking)
    control = default_control(questions) if control is None else list(control)
    if bias is not None and list(bias.questions) != list(questions):
        raise ValueError("bias holds the attributions of other questions: give those of these.")
    plain = check_knowledge(model, control, **asking)
    same = replace(plain, spelling=knowledge.spelling)
    return Evidence(
        bias=bias or attribute(model, questions, knowledge=knowledge, **options),
        wrong=attribute(model, flipped(questions), knowledge=knowledge, **options),
        control=attribute(model, control, knowledge=same, **options),
        logits=attribute(
            model, questions, knowledge=knowledge, **{**options, "objective": "logit_difference"}
        ),
        control_knowledge=plain,
    )


def default_control(questions: Sequence[Question]) -> list[Question]:
    """As many questions of the control bank as the largest dimension has, in threes."""
    counts = pd.Series([question.dimension for question in questions]).value_counts()
    return load_questions(min(75, max(9, 3 * int(counts.max() // 3))), dimension="control")


def flipped(questions: Sequence[Question]) -> list[Question]:
    """The same questions with the wrong answer."""
    return [replace(q, answer="no" if q.answer == "yes" else "yes") for q in questions]


def specificity(
    evidence: Evidence,
    *,
    taus: Sequence[float] = TAUS,
    beta: float = 0.10,
    n_halves: int = 200,
    seed: int = 0,
) -> Specificity:
    """Hold the know-bias set against its controls, and against itself on random halves.

    Args:
        evidence: What `gather` returned.
        taus: Saliency thresholds, a block of rows each.
        beta: Consistency threshold.
        n_halves: Random splits of the questions.
        seed: Of the splits.
    """
    if n_halves < 2:
        raise ValueError(f"n_halves is {n_halves}: at least 2 splits make an interval.")
    overlaps = [
        row for tau in taus for row in _overlaps(named_sets(evidence, tau=tau, beta=beta), tau)
    ]
    stability = [row for tau in taus for row in _halves(evidence.bias, tau, beta, n_halves, seed)]
    return Specificity(pd.DataFrame(overlaps), pd.DataFrame(stability), evidence.control_knowledge)


def named_sets(evidence: Evidence, *, tau: float, beta: float = 0.10) -> dict[str, NeuronSet]:
    """The know-bias set (union over dimensions) and those that it is held against."""
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
    parts = attributions.by_dimension().values()
    return NeuronSet.union(select_neurons(part, tau, beta) for part in parts)


def _overlaps(sets: Mapping[str, NeuronSet], tau: float) -> list[dict[str, Any]]:
    mine = sets[KNOW_BIAS]
    return [
        {
            "tau": tau,
            "set": name,
            "size": len(other),
            "know_bias_size": len(mine),
            "shared": len(mine & other),
            "jaccard": mine.jaccard(other),
            "contained": len(mine & other) / len(mine) if len(mine) else float("nan"),
        }
        for name, other in sets.items()
    ]


def _halves(
    attributions: Attributions, tau: float, beta: float, n_halves: int, seed: int
) -> list[dict[str, Any]]:
    """Jaccard of the sets of two random halves: a row a dimension, and one for their union."""
    generator = np.random.default_rng(seed)
    above = {d: salient(part, tau).flatten(1) for d, part in attributions.by_dimension().items()}
    ever = torch.cat(list(above.values())).any(0)  # the other neurons are in no half's set
    counts = {dimension: len(rows) for dimension, rows in above.items()}
    pairs = {
        dimension: [
            _half_sets(rows[:, ever].float(), generator.permutation(len(rows)), beta)
            for _ in range(n_halves)
        ]
        for dimension, rows in above.items()
    }
    rows = [
        _row(tau, dimension, counts[dimension], [_jaccard(*pair) for pair in found])
        for dimension, found in pairs.items()
    ]
    if len(pairs) > 1:
        together = [
            _jaccard(*(torch.stack(half).any(0) for half in zip(*split, strict=True)))
            for split in zip(*pairs.values(), strict=True)
        ]
        rows.append(_row(tau, "all", len(attributions), together))
    return rows


def _half_sets(above: Tensor, order: np.ndarray, beta: float) -> tuple[Tensor, Tensor]:
    """The neurons that each half selects, [neuron] booleans."""
    middle = len(order) // 2
    first, second = order[:middle], order[middle : 2 * middle]
    needed = float(Fraction(str(beta)) * middle)
    return above[first].sum(0) > needed, above[second].sum(0) > needed


def _jaccard(first: Bool[Tensor, " neuron"], second: Bool[Tensor, " neuron"]) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def _row(tau: float, dimension: str, n_questions: int, values: Sequence[float]) -> dict[str, Any]:
    known = np.array(values)[~np.isnan(values)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return {
        "tau": tau,
        "dimension": dimension,
        "n_questions": n_questions,
        "jaccard": float(known.mean()) if len(known) else float("nan"),
        "low": float(low),
        "high": float(high),
        "n_halves": len(known),
    }
