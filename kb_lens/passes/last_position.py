"""Which positions of a forward pass stand for the last one of a pass of their own.

An intervention on the last position of each forward pass (the authors' release) is defined by how
the release runs a model: one pass for every token that is generated or scored. Scoring packs many
such passes into one. It asks here whether somebody intervenes on last positions alone, and tells
here which positions of its pass those are; the intervention reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

from jaxtyping import Bool
from torch import Tensor

from kb_lens.models.hooked import HookedModel

# Interventions may be nested, so they are counted; the model goes when nobody else holds it.
_interventions: WeakKeyDictionary[HookedModel, int] = WeakKeyDictionary()
_marked: ContextVar[Tensor | None] = ContextVar("marked", default=None)


@contextmanager
def asking(model: HookedModel) -> Iterator[None]:
    """Inside, an intervention acts on the last positions of the model's passes alone."""
    _interventions[model] = _interventions.get(model, 0) + 1
    try:
        yield
    finally:
        _interventions[model] -= 1


def is_asked(model: HookedModel) -> bool:
    """Whether an intervention acts on last positions alone."""
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
    """The positions that are the last ones; None where it is simply the last of each row."""
    return _marked.get()
