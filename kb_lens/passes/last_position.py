"""The positions of a packed forward pass that count as last positions.

The authors' release intervenes on the last position of each forward pass and runs one pass for
every token that is generated or scored. Scoring here packs many such passes into one. This module
tells scoring whether an intervention acts only on last positions, and tells the intervention which
positions of the packed pass these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from jaxtyping import Bool
from torch import Tensor

from kb_lens.models.hooked import HookedModel

# Interventions may be nested, so they are counted. The reference to the model is weak.
_interventions: WeakKeyDictionary[HookedModel, int] = WeakKeyDictionary()
_marked: ContextVar[Tensor | None] = ContextVar("marked", default=None)


@contextmanager
def asking(model: HookedModel) -> Iterator[None]:
    """Inside, an intervention acts only on the last positions of the model's passes."""
    _interventions[model] = _interventions.get(model, 0) + 1
    try:
        yield
    finally:
        _interventions[model] -= 1


def is_asked(model: HookedModel) -> bool:
    """Whether an intervention acts only on last positions."""
    return _interventions.get(model, 0) > 0


@contextmanager
def marking(positions: Bool[Tensor, "row pos"]) -> Iterator[None]:
    """Inside, the positions that are True are the last ones of the forward pass."""
    token = _marked.set(positions)
    try:
        yield
    finally:
        _marked.reset(token)


def marked() -> Bool[Tensor, "row pos"] | None:
    """The positions that count as last; None if it is simply the last of each row."""
    return _marked.get()
