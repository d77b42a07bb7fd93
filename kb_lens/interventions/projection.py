"""Projection, a family of baselines: remove a few directions of the residual stream.

    h <- h - V^T V h

at the output of one block, where the rows of V are orthonormal directions. The methods that choose
the directions are `kb_lens.interventions.sentence_debias` and `kb_lens.interventions.inlp`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.interventions.positions import Positions, changing_activations, check_positions
from kb_lens.interventions.residual import block_output
from kb_lens.models.hooked import HookedModel, check_weights
from kb_lens.records.tensors import build_from, write_tensors

_FORMAT = "kb_lens projection 1"


@dataclass(frozen=True, eq=False)
class Projection:
    """Directions that are removed from the residual stream.

    It is a `kb_lens.interventions.conditions.Change`.
    """

    directions: Float[Tensor, "component d_model"]
    """The removed directions, orthonormal rows, float32 on the CPU; see `orthonormal`."""
    layer: int
    """The block whose output is changed, from 0."""
    model: str
    """The name of the model that they belong to."""
    fingerprint: str
    """That model's weights (`kb_lens.models.hooked.fingerprint`)."""
    positions: Positions = "all"
    """The changed positions: ``all``, or the ``last`` of each pass."""
    origin: str = ""
    """How the directions were made, in words."""

    def __post_init__(self) -> None:
        # a copy: the caller's tensor may change later
        directions = self.directions.detach().to("cpu", torch.float32, copy=True)
        object.__setattr__(self, "directions", directions)
        shape = tuple(directions.shape)
        if directions.ndim != 2 or not len(directions):
            raise ValueError(f"the directions have shape {shape}: give one row or more.")
        products = directions @ directions.T
        if not torch.allclose(products, torch.eye(len(directions)), atol=1e-4):
            raise ValueError(
                f"the {len(directions)} directions are not orthonormal: pass them through "
                "`orthonormal` first."
            )
        check_positions(self.positions)

    @property
    def matrix(self) -> Float[Tensor, "d_model d_model"]:
        """The projection as a matrix, I - V^T V."""
        return torch.eye(self.directions.shape[1]) - self.directions.T @ self.directions

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[HookedModel]:
        """Remove the directions at the layer's output inside a ``with`` block.

        Yields:
            The model.

        Raises:
            ValueError: If the directions belong to another model, or as in `scale_neurons`.
        """
        check_weights(
            model,
            self.fingerprint,
            "",  # directions of another type are rounded to the model's
            what="this projection belongs",
            source=self.model,
            remedy="Find the projection of this model first.",
        )
        name = block_output(model, self.layer)
        # computed in float32: only the result is rounded to the model's type
        wide = torch.promote_types(model.cfg.dtype, torch.float32)
        change = partial(_without, self.directions.to(model.cfg.device, wide))
        with changing_activations(model, {name: change}, self.positions):
            yield model

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark itself."""
        return benchmark

    def describe(self) -> dict[str, Any]:
        """Layer, positions, number of directions, origin, and the SHA-256 of their bytes."""
        return {
            "layer": self.layer,
            "positions": self.positions,
            "n_directions": len(self.directions),
            "directions_sha256": hashlib.sha256(self.directions.numpy().tobytes()).hexdigest(),
            "origin": self.origin,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with everything but the directions as JSON in its header."""
        settings = {name: getattr(self, name) for name in _Settings.__dataclass_fields__}
        write_tensors(path, {"directions": self.directions}, _FORMAT, {"settings": settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Projection:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind.
        """
        return build_from(
            lambda tensors, header: cls(**tensors, **vars(header.settings)),
            path,
            ("directions",),
            _FORMAT,
            _Header,
        )


@dataclass(frozen=True)
class _Settings:
    """The fields of `Projection` that are not tensors."""

    layer: int
    model: str
    fingerprint: str
    positions: Positions
    origin: str


@dataclass(frozen=True)
class _Header:
    """Everything in a file but the tensors."""

    settings: _Settings


def orthonormal(
    directions: Iterable[Float[Tensor, "component d_model"]],
) -> Float[Tensor, "joined d_model"]:
    """An orthonormal basis of the span of the directions.

    It joins several projections into one that removes what any of them removes, in any order.
    Applied one after the other, projections that are not orthogonal would restore a part.

    Raises:
        ValueError: If there are none, or one is 0 or not finite.
    """
    rows = torch.cat(list(directions)).double()
    norms = rows.norm(dim=1, keepdim=True)
    if not len(rows) or not bool(norms.isfinite().all()) or not bool((norms > 0).all()):
        raise ValueError(
            f"cannot remove {len(rows)} directions: give at least one, of finite numbers not all 0."
        )
    _, sizes, basis = torch.linalg.svd(rows / norms, full_matrices=False)
    # repeated directions add only rounding
    return basis[sizes > 1e-6 * sizes[0]].float()


def _without(
    directions: Float[Tensor, "component d_model"], activation: Float[Tensor, "*pos d_model"]
) -> Float[Tensor, "*pos d_model"]:
    wide = activation.to(directions.dtype)
    directions = directions.to(activation.device)
    return (wide - (wide @ directions.T) @ directions).to(activation.dtype)
