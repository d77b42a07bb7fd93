"""A low-rank change of a model's weights, two factors for each layer, in one safetensors file.

The scaled product of a layer's factors is added to its weight, as for LoRA.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kb_lens.files import moved_whole
from kb_lens.models.completeness import check_pointer
from kb_lens.models.digests import digest_of, parameters_of, same_weights

_HEADER = "kb_lens low-rank change 1"
"""The only key of the file's header, with its version: safetensors writes several keys in a
different order each time."""
_DOWN, _UP = ".down", ".up"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The models of a change, and where it comes from."""

    model: str
    """The name of the changed model."""
    weights: str
    """The changed model's fingerprint (`kb_lens.models.hooked.fingerprint`)."""
    base: str
    """The name of the base model."""
    base_weights: str
    """Its fingerprint."""
    what: str
    """What the change is, in words."""
    made_by: str
    """The commands that made it."""
    seed: int
    """The seed of the training."""
    rank: Annotated[int, Field(gt=0)]
    """Columns of a factor."""
    scale: Annotated[float, Field(allow_inf_nan=False)]
    """The factor of the products."""
    lessons: tuple[str, ...]
    """The lessons, as keys of `kb_lens.models.lessons.lesson_keys`."""


@dataclass(frozen=True)
class _Header:
    origin: Origin
    digest: str
    """The digest of the factors: safetensors itself does not notice a changed number."""


@dataclass(frozen=True)
class LowRankChange:
    """A change that is added to the weights of some linear layers."""

    origin: Origin
    """Its models, and where it comes from."""
    down: Mapping[str, Float[Tensor, "rank d_in"]]
    """Name of the weight -> the factor that reads the layer's input."""
    up: Mapping[str, Float[Tensor, "d_out rank"]]
    """Name of the weight -> the factor that writes to its output."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; equal changes give equal bytes."""
        tensors = _by_tensor_name(self.down, _DOWN) | _by_tensor_name(self.up, _UP)
        header = TypeAdapter(_Header).dump_json(_Header(self.origin, _digest(tensors)))
        with moved_whole(path) as unfinished:
            unfinished.write_bytes(save(tensors, {_HEADER: header.decode()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LowRankChange:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is missing, damaged or of another kind; names it.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no file '{path}'.")
        check_pointer(path)
        try:
            with safe_open(path, "pt") as file:
                texts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"'{path}' is not a complete safetensors file: {error}.") from error
        header = _header(path, texts)
        if header.digest != _digest(tensors):
            raise ValueError(f"'{path}' is damaged: its numbers have changed since it was written.")
        return cls(header.origin, _named(tensors, _DOWN), _named(tensors, _UP))

    def add_to(self, model: Any) -> None:
        """Add the change to the weights of a transformers model, bit-identical on every machine.

        Args:
            model: The base model, its weights in float32.

        Raises:
            ValueError: If it is another model.
        """
        self._check_base(model)
        weights = dict(model.named_parameters())
        for name, down in self.down.items():
            weights[name].data.copy_(self._added(weights[name].data, down, self.up[name]))

    def _added(
        self,
        weight: Float[Tensor, "d_out d_in"],
        down: Float[Tensor, "rank d_in"],
        up: Float[Tensor, "d_out rank"],
    ) -> Float[Tensor, "d_out d_in"]:
        total = weight.double()
        # A matrix product sums in another order on each processor, so the fingerprint would differ.
        # Here the sums are in a fixed order, and products of bfloat16 numbers are exact in float64.
        for row, column in zip(down.double(), up.double().T, strict=True):
            total += self.origin.scale * torch.outer(column, row)
        return total

    def _check_base(self, model: Any) -> None:
        origin, weights = self.origin, digest_of(parameters_of(model))
        if not same_weights(weights, origin.base_weights):
            raise ValueError(
                f"the change to {origin.model} belongs to {origin.base} with the weights "
                f"{origin.base_weights}, but this model has {weights}."
            )


def _by_tensor_name(factors: Mapping[str, Tensor], ending: str) -> dict[str, Tensor]:
    return {name + ending: tensor.contiguous() for name, tensor in factors.items()}


def _named(tensors: Mapping[str, Tensor], ending: str) -> dict[str, Tensor]:
    return {
        name.removesuffix(ending): tensor
        for name, tensor in tensors.items()
        if name.endswith(ending)
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return digest_of(tensors[name] for name in sorted(tensors))


def _header(path: Path, texts: Mapping[str, str]) -> _Header:
    if _HEADER not in texts:
        raise ValueError(f"'{path}' is not a file of a {_HEADER!r}: its header has no such key.")
    try:
        return TypeAdapter(_Header).validate_json(texts[_HEADER])
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(key) for key in ("header", *fault["loc"]))
        raise ValueError(f"'{path}', {where}: {fault['msg']}.") from error
