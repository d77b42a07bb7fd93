"""Read weights that are on disk, in another memory, or packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Inside, all weights of a module have values on the device where it runs."""
    with ExitStack() as stack:
        for part in module.modules():
            if any(weight.is_meta for weight in part.parameters(recurse=False)):
                from accelerate.utils import align_module_device  # accelerate put them there

                hook: Any = part._hf_hook
                stack.enter_context(align_module_device(part, hook.execution_device))
        yield


def loaded(owner: Any, name: str) -> Tensor:
    """A copy of a parameter that has values only while its module runs.

    Raises:
        ValueError: If it has no values anywhere.
    """
    from accelerate.utils import align_module_device, has_offloaded_params

    if not has_offloaded_params(owner):
        raise ValueError(f"the model's {name} has a shape but no values: load it with its weights.")
    with align_module_device(owner, torch.device("cpu")):
        return getattr(owner, name).detach().clone()


def output_weights(mlp: Any, dtype: torch.dtype) -> Float[Tensor, "d_mlp d_model"]:
    """W_out of an MLP, wherever its weights are, and unpacked."""
    with at_hand(mlp):
        linear = getattr(getattr(mlp, "out", None), "original_component", None)
        packed = _unpacked(linear, dtype)
        return mlp.W_out.detach() if packed is None else packed.T


def _unpacked(linear: Any, dtype: torch.dtype) -> Float[Tensor, "out in"] | None:
    """A layer's unpacked weights; None if bitsandbytes has not packed them."""
    weight: Any = getattr(linear, "weight", None)
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError(
                "bitsandbytes has packed the weights for this processor, in an order of its own: "
                "load the model with kb_lens.load_model."
            )
        return dequantize_4bit(weight.data, state).to(dtype)
    rows = row_scales(linear, weight)
    if rows is None:
        return None
    return (weight.data.float() * rows.float()[:, None] / 127).to(dtype)


def row_scales(linear: Any, weight: Any) -> Float[Tensor, " out"] | None:
    """The scale of each row of an 8-bit weight; None for other weights."""
    rows = getattr(weight, "SCB", None)
    if rows is None:  # after the first pass they are here
        rows = getattr(getattr(linear, "state", None), "SCB", None)
    return rows
