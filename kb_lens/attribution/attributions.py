"""What attribution found: scores of every neuron for every question, with their error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kb_lens.attribution.settings import Settings
from kb_lens.files import moved_whole
from kb_lens.models.answers import Spelling
from kb_lens.models.prompts import PromptTemplate
from kb_lens.questions import Question

FORMAT = "kb_lens attributions 1"
"""Stands in every file; the number rises when an older file would be read wrong."""
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
    """Quadrature nodes spent."""
    questions: tuple[Question, ...]
    """The questions, in order."""
    settings: Settings
    """How the scores were computed."""

    def __post_init__(self) -> None:
        n_questions, n_layers, _ = self.scores.shape
        if n_questions != len(self.questions):
            raise ValueError(f"{n_questions} rows of scores for {len(self.questions)} questions.")
        for name in TENSORS[1:]:
            shape = tuple(getattr(self, name).shape)
            if shape not in ((n_questions,), (n_questions, n_layers)):
                raise ValueError(f"{name} has shape {shape}: expected question or question, layer.")

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def relative_gap(self) -> Float[Tensor, " question"]:
        """Each question's worst completeness gap over its largest |F(h) - F(0)|."""
        largest = self.output_change.abs().amax(1)
        return self.completeness_gap.abs().amax(1) / largest.clamp_min(1e-30)  # 0 / 0 is no gap

    def subset(self, indices: Iterable[int]) -> Attributions:
        """The attributions of some questions, by their index."""
        rows = list(indices)
        tensors = {name: getattr(self, name)[rows] for name in TENSORS}
        return replace(self, questions=tuple(self.questions[row] for row in rows), **tensors)

    def by_dimension(self) -> dict[str, Attributions]:
        """The attributions of each dimension's questions, in the order of their appearance."""
        rows: dict[str, list[int]] = {}
        for row, question in enumerate(self.questions):
            rows.setdefault(question.dimension, []).append(row)
        return {dimension: self.subset(indices) for dimension, indices in rows.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with questions and settings as JSON in its header."""
        header = {
            "format": FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "questions": json.dumps([asdict(question) for question in self.questions]),
        }
        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        with moved_whole(path) as unfinished:
            save_file(tensors, unfinished, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attributions:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or something else.
        """
        if not Path(path).is_file():
            raise ValueError(f"no such attributions file: '{path}'.")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"'{path}' is no readable safetensors file: {error}") from error
        if header.get("format") != FORMAT:
            raise ValueError(
                f"'{path}' holds no attributions: its format is {header.get('format')!r}."
            )
        settings = json.loads(header["settings"])
        settings["spelling"] = Spelling(**settings["spelling"])
        settings["template"] = PromptTemplate(**settings["template"])
        questions = tuple(Question(**question) for question in json.loads(header["questions"]))
        return cls(**tensors, questions=questions, settings=Settings(**settings))
