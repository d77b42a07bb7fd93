"""What attribution found: scores of every neuron for every question, with their error."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path as FilePath
from typing import Literal

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kb_lens.attribution.path_gradients import (
    ObjectiveKind,
)
from kb_lens.files import moved_whole
from kb_lens.knowledge import Spelling
from kb_lens.models.hooked import Site
from kb_lens.models.prompts import PromptTemplate
from kb_lens.questions import Question

Rule = Literal["adaptive", "gauss-legendre", "riemann"]

Engine = Literal["auto", "joined", "per-layer"]


@dataclass(frozen=True)
class Settings:
    """Everything that the scores depend on, beside the questions."""

    model: str
    """The model's name."""
    fingerprint: str
    """The model's weights (`kb_lens.models.hooked.fingerprint`)."""
    dtype: str
    """The type that the model ran in."""
    site: Site
    """Where the neurons are read: ``post`` or ``pre``."""
    rule: Rule
    """The quadrature rule."""
    n_steps: int | None
    """Nodes of a fixed rule."""
    tol: float | None
    """Tolerance of the adaptive rule."""
    objective: ObjectiveKind
    """What was differentiated."""
    engine: str
    """The routine that ran: ``joined`` or ``per-layer``."""
    spelling: Spelling
    """How yes and no are spelled."""
    template: PromptTemplate
    """The words around each question."""


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
        for name in _TENSORS[1:]:
            shape = tuple(getattr(self, name).shape)
            if shape not in ((n_questions,), (n_questions, n_layers)):
                raise ValueError(f"{name} has shape {shape}: expected question or question, layer.")

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def relative_gap(self) -> Float[Tensor, " question"]:
        """Each question's worst completeness gap over its largest |F(h) - F(0)|."""
        largest = self.output_change.abs().amax(1)
        return self.completeness_gap.abs().amax(1) / largest.clamp_min(1e-30)

    def subset(self, indices: Iterable[int]) -> Attributions:
        """The attributions of some questions, by their place."""
        rows = list(indices)
        tensors = {name: getattr(self, name)[rows] for name in _TENSORS}
        return replace(self, questions=tuple(self.questions[row] for row in rows), **tensors)

    def by_dimension(self) -> dict[str, Attributions]:
        """The attributions of each dimension's questions, in the order of their appearance."""
        dimensions = dict.fromkeys(question.dimension for question in self.questions)
        return {
            dimension: self.subset(
                i for i, question in enumerate(self.questions) if question.dimension == dimension
            )
            for dimension in dimensions
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with questions and settings as JSON in its header."""
        header = {
            "format": _FORMAT,
            "settings": json.dumps(asdict(self.settings)),
            "questions": json.dumps([asdict(question) for question in self.questions]),
        }
        with moved_whole(path) as part:
            save_file({name: getattr(self, name).contiguous() for name in _TENSORS}, part, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attributions:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or something else.
        """
        if not FilePath(path).is_file():
            raise ValueError(f"no such attributions file: '{path}'.")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"'{path}' is no readable safetensors file: {error}") from error
        if header.get("format") != _FORMAT:
            raise ValueError(
                f"'{path}' holds no attributions: its format is {header.get('format')!r}."
            )
        settings = json.loads(header["settings"])
        settings["spelling"] = Spelling(**settings["spelling"])
        settings["template"] = PromptTemplate(**settings["template"])
        questions = tuple(Question(**question) for question in json.loads(header["questions"]))
        return cls(**tensors, questions=questions, settings=Settings(**settings))


_TENSORS = ("scores", "answer_prob", "output_change", "completeness_gap", "error", "nodes")

_FORMAT = "kb_lens attributions 1"
