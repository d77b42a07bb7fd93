"""Digests that identify weights in any of float32, float16 and bfloat16.

No single rounding makes the three copies of a float32 original agree: its float16 copy, rounded to
bfloat16, differs from its bfloat16 copy. So there are two digests, of the weights rounded to
bfloat16 and to float16. A copy in one of these types has the original's digest for that type, and
if the original is in half precision, all copies have its type's digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kb_lens.models.offloaded import loaded, row_scales

_TYPES = (torch.bfloat16, torch.float16)
_CHUNK = 1 << 22
"""Values in a chunk: the products have 8 bytes, and a matrix may have a billion values."""
_MULTIPLIER = 0x9E3779B1
"""Odd, so that all values of a chunk have different weights and swapped values show."""


def same_weights(first: str, second: str) -> bool:
    """Whether two fingerprints are of the same weights, each in any of the types."""
    halves = first.split("-"), second.split("-")
    if len(halves[0]) != len(_TYPES):  # from a version without two digests
        return first == second
    return any(left == right for left, right in zip(*halves, strict=False))


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Two times eight hex digits; equal tensors count once, so tied weights do not matter."""
    hashes = [hashlib.sha256() for _ in _TYPES]
    seen: set[tuple[int, str]] = set()
    for tensor in tensors:
        for index, checksum in enumerate(_checksums(tensor)):
            text = f"{tuple(tensor.shape)} {checksum} "
            if (index, text) not in seen:
                seen.add((index, text))
                hashes[index].update(text.encode())
    return "-".join(digest.hexdigest()[:8] for digest in hashes)


def _checksums(tensor: Tensor) -> list[int]:
    """For each type the sum over the bits of every value, weighted by its index."""
    totals = [0] * len(_TYPES)
    weights = _weights(tensor.device)
    for chunk in tensor.detach().reshape(-1).split(_CHUNK):
        for number, dtype in enumerate(_TYPES):
            total = int((_bits(chunk, dtype) * weights[: len(chunk)]).sum())
            totals[number] = (totals[number] * 31 + total) % (1 << 61)
    return totals


@lru_cache(maxsize=1)
def _weights(device: torch.device) -> Tensor:
    """A chunk's weights, all different."""
    return torch.arange(_CHUNK, device=device) * _MULTIPLIER % (1 << 31) + 1


def _bits(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of the values in the type, as integers; packed weights are integers already."""
    if not values.is_floating_point():
        return values.long()
    rounded = values.to(dtype) + 0.0  # rounding can give zeros of either sign
    return rounded.view(torch.int16)


def parameters_of(module: nn.Module) -> Iterator[Tensor]:
    """Every distinct parameter with its values, also if accelerate keeps them elsewhere.

    Raises:
        ValueError: If a parameter has no values anywhere.
    """
    seen: set[Tensor] = set()  # of tensors, not ids, which may be reused
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            yield loaded(owner, name) if parameter.is_meta else parameter
            yield from _scales(owner, parameter)


def _scales(owner: Any, parameter: Any) -> Iterator[Tensor]:
    """The scales of bitsandbytes for packed weights, which it keeps beside them."""
    state = getattr(parameter, "quant_state", None)
    while state is not None:  # the scales may be packed themselves
        yield state.absmax
        if state.offset is not None:
            yield state.offset
        state = state.state2
    if (rows := row_scales(owner, parameter)) is not None:
        yield rows
