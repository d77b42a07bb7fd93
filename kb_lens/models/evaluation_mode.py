"""Make results independent of the mode and default type that the user has set."""

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
    """The user's default type, kept while blocks need another; all threads share one."""

    def __init__(self) -> None:
        # reentrant: the garbage collector may end a forgotten block while this thread holds it
        self._lock = threading.RLock()
        self._blocks = 0
        self._before = torch.float32

    def begin(self) -> None:
        """Note a new block; the first one keeps the user's type."""
        with self._lock:
            if not self._blocks:
                self._before = torch.get_default_dtype()
            self._blocks += 1
            torch.set_default_dtype(torch.float32)

    def end(self) -> None:
        """Note a block's end; the last one restores the user's type."""
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                torch.set_default_dtype(self._before)


_DEFAULT_TYPE = _DefaultType()


@contextmanager
def float32_default() -> Iterator[None]:
    """Inside, torch's default type is float32, whatever the user has set."""
    _DEFAULT_TYPE.begin()
    try:
        yield
    finally:
        _DEFAULT_TYPE.end()
