"""Models compute the same whatever mode or default type their user has set."""

from __future__ import annotations

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


@contextmanager
def float32_default() -> Iterator[None]:
    """Inside, torch makes tensors float32 where no type is named; a user may have set another."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
