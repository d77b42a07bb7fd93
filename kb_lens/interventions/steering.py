"""Contrastive steering, a baseline: add the direction from biased to fair statements.

Pairs of statements that differ only in what they claim are run through the model. The mean
difference of the residual stream, fair minus biased, is a direction that is added at one layer
while the model runs (the mean difference of Rimsky et al., arXiv 2312.06681, on plain statements).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_number, check_seed
from kb_lens.benchmarks.bank import file_rows, of_dimensions
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.source_rows import Row
from kb_lens.files import bank_folder
from kb_lens.interventions.positions import Positions, changing_activations, check_positions
from kb_lens.interventions.residual import block_output, last_residuals, shift_for, shifted
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, check_weights, fingerprint, model_name
from kb_lens.progress import progress_bar
from kb_lens.records.tensors import build_from, write_tensors
from kb_lens.rows import check_is_file

_FILE = "statements.csv"
_FORMAT = "kb_lens steering 1"


@dataclass(frozen=True)
class StatementPair:
    """Two statements that differ in what they claim, and in little else."""

    dimension: str
    """The social dimension that they are about."""
    concept: str
    """What they are about (``mathematics``)."""
    biased: str
    """A stereotype, stated as a fact."""
    fair: str
    """The fair claim."""


def load_statements(
    dimension: str | Iterable[str] | None = None, path: str | os.PathLike[str] | None = None
) -> tuple[StatementPair, ...]:
    """Read pairs of statements, in the order of the file.

    Args:
        dimension: One dimension or several; default all in the file.
        path: A CSV file of your own with the columns of ``question_bank/statements.csv``, which
            is the default.

    Raises:
        ValueError: For a missing or malformed file (names line and column), a statement that occurs
            twice, or a dimension that is not in the file.
    """
    path = check_is_file(bank_folder() / _FILE if path is None else path, "statements file")
    seen: set[str] = set()
    pairs = tuple(_pair(row, seen) for row in file_rows(path))
    return of_dimensions(pairs, dimension, path)


def _pair(row: Row, seen: set[str]) -> StatementPair:
    """A row's pair; its statements must not be in `seen`."""
    cells = {column.name: row.text(column.name) for column in fields(StatementPair)}
    for column in ("biased", "fair"):
        if cells[column] in seen:
            raise row.error(column, "a statement that occurs nowhere else in the file")
        seen.add(cells[column])
    return StatementPair(**cells)


@dataclass(frozen=True, eq=False)
class Steering:
    """A direction that is added to the residual stream.

    It is a `kb_lens.interventions.conditions.Change`.
    """

    vector: Float[Tensor, " d_model"]
    """The vector at strength 1, float32 on the CPU."""
    layer: int
    """The block to whose output it is added, from 0."""
    model: str
    """The name of the model that it belongs to."""
    fingerprint: str
    """That model's weights (`kb_lens.models.hooked.fingerprint`)."""
    strength: float = 1.0
    """The factor of the vector; 0 changes nothing, a negative one steers the other way."""
    positions: Positions = "all"
    """The changed positions, as in `scale_neurons`: ``all``, or the ``last`` of each pass."""
    origin: str = ""
    """How the vector was made, in words."""

    def __post_init__(self) -> None:
        # a copy: the caller's tensor may change later
        vector = self.vector.detach().to("cpu", torch.float32, copy=True)
        object.__setattr__(self, "vector", vector)
        if self.vector.ndim != 1 or not bool(self.vector.isfinite().all()):
            raise ValueError(
                f"the steering vector (shape {tuple(self.vector.shape)}) must be one row of finite "
                "numbers. If the model overflowed, load it in float32."
            )
        if not math.isfinite(check_number("strength", self.strength)):
            raise ValueError(f"strength is {self.strength}: allowed is any finite number.")
        check_positions(self.positions)

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[HookedModel]:
        """Add strength times the vector at the layer's output inside a ``with`` block.

        Nested blocks add up.

        Yields:
            The model.

        Raises:
            ValueError: If the vector belongs to another model or is too large for its type, or as
                in `scale_neurons`.
        """
        self._check_model(model)
        name = block_output(model, self.layer)
        shift = shift_for(model, self.vector, self.strength)
        with changing_activations(model, {name: partial(shifted, shift)}, self.positions):
            yield model

    def _check_model(self, model: HookedModel) -> None:
        check_weights(
            model,
            self.fingerprint,
            "",  # a vector of another type is rounded to the model's
            what="this steering vector belongs",
            source=self.model,
            remedy="Find the vector of this model first.",
        )

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark itself."""
        return benchmark

    def describe(self) -> dict[str, Any]:
        """Layer, strength, positions, origin, and the SHA-256 of the vector's bytes."""
        return {
            "layer": self.layer,
            "strength": float(self.strength),
            "positions": self.positions,
            "vector_sha256": hashlib.sha256(self.vector.numpy().tobytes()).hexdigest(),
            "origin": self.origin,
        }

    def with_strength(self, strength: float) -> Steering:
        """The same direction with another factor."""
        return replace(self, strength=strength)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with everything but the vector as JSON in its header."""
        settings = {name: getattr(self, name) for name in _Settings.__dataclass_fields__}
        write_tensors(path, {"vector": self.vector}, _FORMAT, {"settings": settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Steering:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        return build_from(
            lambda tensors, header: cls(**tensors, **vars(header.settings)),
            path,
            ("vector",),
            _FORMAT,
            _Header,
        )


@dataclass(frozen=True)
class _Settings:
    """The fields of `Steering` that are not tensors."""

    layer: int
    model: str
    fingerprint: str
    strength: float
    positions: Positions
    origin: str


@dataclass(frozen=True)
class _Header:
    """Everything in a file but the tensors."""

    settings: _Settings


@as_the_checkpoint
def steering_vector(
    model: HookedModel,
    pairs: Sequence[StatementPair],
    *,
    layer: int | None = None,
    progress: bool = True,
) -> Steering:
    """The mean difference, fair minus biased, of the residual stream at each statement's end.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        pairs: The statements to contrast, see `load_statements`.
        layer: The block whose output is read at the last token; default the middle one.
        progress: Whether to show a progress bar, in pairs.

    Returns:
        The difference at strength 1 and all positions.

    Raises:
        ValueError: For no pairs, a layer that the model does not have, or activations that are not
            finite.
    """
    if not pairs:
        raise ValueError("there is nothing to contrast: got no pairs of statements.")
    if layer is None:  # in the source, too, layers near the middle steer best
        layer = int(model.cfg.n_layers) // 2
    block_output(model, layer)  # refuses a wrong layer before work
    differences = [
        last_residuals(model, [layer], pair.fair)[0]
        - last_residuals(model, [layer], pair.biased)[0]
        for pair in progress_bar(pairs, desc="steering", unit="pair", shown=progress)
    ]
    dimensions = ", ".join(dict.fromkeys(pair.dimension for pair in pairs))
    return Steering(
        vector=torch.stack(differences).mean(0),
        layer=layer,
        model=model_name(model),
        fingerprint=fingerprint(model),
        origin=f"fair minus biased, {len(pairs)} pairs on {dimensions}",
    )


def random_direction(steering: Steering, seed: int = 0) -> Steering:
    """A random direction with the same norm, layer and strength, as a control."""
    check_seed(seed)
    # its own generator, so that other draws do not matter
    noise = torch.randn(steering.vector.shape, generator=torch.Generator().manual_seed(seed))
    vector = noise * (steering.vector.norm() / noise.norm())
    origin = f"random direction (seed {seed}) of the norm of [{steering.origin}]"
    return replace(steering, vector=vector, origin=origin)
