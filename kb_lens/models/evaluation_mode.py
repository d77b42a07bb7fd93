"""Models compute the same whatever mode or default type their user has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch

from kb_lens.models.hooked import HookedModel, is_bridge


@contextmanager
def evaluation_mode(model: HookedModel) -> Iterator[None]:
    """Inside, the model is in evaluation mode and new tensors are float32.

    In training mode dropout would change every number. Each module gets its own mode back.
    """
    roots = [cast(torch.nn.Module, model)]
    if is_bridge(model):
        roots.append(model.original_model)  # has modules that the bridge does not list (dropout)
    modules = {module for root in roots for module in root.modules() if module.training}
    try:
        for module in modules:
            module.training = False
        with float32_default():
            yield
    finally:
        for module in modules:
            module.training = True


class _DefaultType:
    """The type that a user has set, kept while blocks need another: all threads have one."""

    def __init__(self) -> None:
        # one that the garbage collector can take again while it ends a forgotten block
        self._lock = threading.RLock()
        self._blocks = 0
        self._before = torch.float32

    def begin(self) -> None:
        """The first block keeps what was set."""
        with self._lock:
            if not self._blocks:
                self._before = torch.get_default_dtype()
            self._blocks += 1
            torch.set_default_dtype(torch.float32)

    def end(self) -> None:
        """The last block sets it again."""
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.set_default_dtype(self._before)


_DEFAULT_TYPE = _DefaultType()


@contextmanager
def float32_default() -> Iterator[None]:
    """Inside, torch makes tensors float32 where no type is named; a user may have set another."""
    _DEFAULT_TYPE.begin()
    try:
        yield
    finally:
        _DEFAULT_TYPE.end()
