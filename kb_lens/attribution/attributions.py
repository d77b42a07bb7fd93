"""The result of attribution: scores of every neuron for every question, with their error."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.attribution.settings import Settings
from kb_lens.completions import Completion
from kb_lens.questions import Question
from kb_lens.records.tensors import build_from, write_tensors
from kb_lens.rows import shown

FORMAT = "kb_lens attributions 1"
"""The format in every file; the number rises when older files would be read wrong."""
TENSORS = ("scores", "answer_prob", "output_change", "completeness_gap", "error", "nodes")
"""The fields of `Attributions` that are tensors with an entry for each question."""


@dataclass(frozen=True, eq=False)
class Attributions:
    """Scores of every MLP neuron for every question, with their error."""

    scores: Float[Tensor, "question layer d_mlp"]
    """Attr(h_i), float32, in units of the objective (probability by default)."""
    answer_prob: Float[Tensor, " question"]
    """The objective of the unchanged model: P(right answer) by default."""
    output_change: Float[Tensor, "question layer"]
    """F(h) - F(0): what the layer's scores should sum to."""
    completeness_gap: Float[Tensor, "question layer"]
    """The sum of the layer's scores minus `output_change`."""
    error: Float[Tensor, "question layer"]
    """Estimated relative L2 error of the layer's scores; NaN for the fixed rules."""
    nodes: Float[Tensor, "question layer"]
    """Quadrature nodes used."""
    questions: tuple[Question | Completion, ...]
    """The questions or completions, in order."""
    settings: Settings
    """How the scores were computed."""
    minus: tuple[Question | Completion, ...] = ()
    """For a difference: the questions that were subtracted, row by row."""

    def __post_init__(self) -> None:
        if self.scores.ndim != 3:
            raise ValueError(f"scores has shape {tuple(self.scores.shape)}: expected 3 axes.")
        n_questions, n_layers, _ = self.scores.shape
        if n_questions != len(self.questions):
            raise ValueError(f"{n_questions} rows of scores for {len(self.questions)} questions.")
        if len(self.minus) not in (0, n_questions):
            raise ValueError(f"minus has {len(self.minus)} questions for {n_questions} rows.")
        for name in TENSORS[1:]:
            shape = tuple(getattr(self, name).shape)
            if shape not in ((n_questions,), (n_questions, n_layers)):
                raise ValueError(f"{name} has shape {shape}: expected question or question, layer.")

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def of_questions(self) -> bool:
        """Whether only yes/no questions were attributed."""
        return all(isinstance(item, Question) for item in self.questions)

    @property
    def origin(self) -> str:
        """The origin in words: ``45 questions on gender, race, religion``."""
        dimensions = ", ".join(dict.fromkeys(item.dimension for item in self.questions))
        words = f"{len(self)} {'questions' if self.of_questions else 'prompts'} on {dimensions}"
        return f"{words}, less as many others" if self.minus else words

    @property
    def yes_no_questions(self) -> tuple[Question, ...]:
        """The questions, if only questions were attributed.

        Raises:
            ValueError: If there are completions, or this is a difference.
        """
        questions = tuple(item for item in self.questions if isinstance(item, Question))
        if len(questions) < len(self.questions) or self.minus:
            raise ValueError(
                "these attributions are of completions or a difference, but attributions of yes/no "
                "questions are needed."
            )
        return questions

    @property
    def relative_gap(self) -> Float[Tensor, " question"]:
        """Each question's worst completeness gap over its largest |F(h) - F(0)|."""
        largest = self.output_change.abs().amax(1)
        return self.completeness_gap.abs().amax(1) / largest.clamp_min(1e-30)  # 0 / 0 means no gap

    def __sub__(self, other: Attributions) -> Attributions:
        """Subtract row by row: what adds to one answer and not to the other.

        For two targets after one prompt it is the attribution of their gap, the difference of their
        probabilities (IG2, arXiv 2406.10130, takes its absolute value). Everything linear in the
        scores is subtracted; errors are added.

        Raises:
            ValueError: If model, site, objective or number of rows differ, or one is already a
                difference.
        """
        if not isinstance(other, Attributions):
            return NotImplemented
        if self.minus or other.minus:
            raise ValueError("one of the two attributions is already a difference.")
        for name in ("fingerprint", "form", "dtype", "site", "objective"):
            ours, theirs = getattr(self.settings, name), getattr(other.settings, name)
            if ours != theirs:
                raise ValueError(f"cannot subtract: {name} is {ours!r} and {theirs!r}.")
        if self.scores.shape != other.scores.shape:
            raise ValueError(
                f"cannot subtract: scores have the shapes {tuple(self.scores.shape)} and "
                f"{tuple(other.scores.shape)}; both need the same number of rows."
            )
        linear = ("scores", "answer_prob", "output_change", "completeness_gap")
        tensors: dict[str, Any] = {
            name: getattr(self, name) - getattr(other, name) for name in linear
        }
        errors = sum(side.error * side.scores.norm(dim=-1) for side in (self, other))
        tensors["error"] = errors / tensors["scores"].norm(dim=-1)
        # Without scores left there is no relative error.
        tensors["error"][tensors["error"].isinf()] = torch.nan
        tensors["nodes"] = self.nodes + other.nodes
        return replace(self, **tensors, minus=other.questions)

    def subset(self, indices: Iterable[int] | np.ndarray | Tensor) -> Attributions:
        """The attributions of some questions, by indices or by a boolean mask.

        Raises:
            ValueError: If the mask has another length, or something is not an index.
        """
        rows = _rows(indices, len(self.questions))
        tensors = {name: getattr(self, name)[rows] for name in TENSORS}
        questions = tuple(self.questions[row] for row in rows)
        minus = tuple(self.minus[row] for row in rows) if self.minus else ()
        return replace(self, questions=questions, minus=minus, **tensors)

    def by_dimension(self) -> dict[str, Attributions]:
        """The attributions of each dimension's questions, in the order of their appearance."""
        rows: dict[str, list[int]] = {}
        for row, question in enumerate(self.questions):
            rows.setdefault(question.dimension, []).append(row)
        return {dimension: self.subset(indices) for dimension, indices in rows.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with questions and settings as JSON in its header."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        header = {
            "settings": asdict(self.settings),
            "questions": [asdict(question) for question in self.questions],
        }
        if self.minus:
            header["minus"] = [asdict(question) for question in self.minus]
        write_tensors(path, tensors, FORMAT, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attributions:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        return build_from(
            lambda tensors, header: cls(**tensors, **vars(header)),
            path,
            TENSORS,
            FORMAT,
            _Header,
            may_be_nan=("error",),
        )


def _rows(indices: Iterable[int] | np.ndarray | Tensor, n: int) -> list[int]:
    """Indices as Python integers; for a mask those of its true entries."""
    chosen = np.array([np.asarray(index) for index in indices])
    if chosen.dtype == bool:
        if chosen.shape != (n,):
            raise ValueError(f"the mask has shape {chosen.shape}, but there are {n} questions.")
        return np.flatnonzero(chosen).tolist()
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"got {shown(chosen.tolist())}: give indices, whole numbers, or a mask.")
    return chosen.astype(int).tolist()


@dataclass(frozen=True)
class _Header:
    """Everything in a file but the tensors."""

    settings: Settings
    questions: tuple[Question | Completion, ...]
    minus: tuple[Question | Completion, ...] = ()
