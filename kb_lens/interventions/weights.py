"""Find and scale the weights of a Hugging Face model that write or read its MLP neurons.

For a ``post`` neuron these are the weights that read it (its column of the down projection), for a
``pre`` neuron the weights and the bias that write it (its row of the gate projection, or of the up
projection if there is no gate).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from kb_lens.models.bridge_check import plain_name
from kb_lens.models.hooked import BridgedModel, model_name, site_hooks
from kb_lens.models.placement import PLAIN_TYPES
from kb_lens.neurons.sets import NeuronSet


def projections(bridge: BridgedModel, neurons: NeuronSet, outline: Any) -> dict[int, str]:
    """The module of the Hugging Face model whose weights are scaled, for each layer.

    It is the module whose input (``post``) or output (``pre``) passes through the hook that
    `scale_neurons` uses, so names of families are not needed.

    Args:
        bridge: The model.
        neurons: The neurons to scale.
        outline: The Hugging Face model without the bridge; its weights do not matter.

    Raises:
        ValueError: If a layer's hook belongs to no module of the model (the gate may be one half of
            a module), or its weights are packed.
    """
    if getattr(bridge.original_model.config, "quantization_config", None) is not None:
        raise _packed(bridge, "its config has a quantization_config")
    point = "hook_in" if neurons.site == "post" else "hook_out"
    linears = {
        getattr(wrapper, point, None): linear
        for wrapper in cast(torch.nn.Module, bridge).modules()
        if (linear := _linear(wrapper)) is not None
    }
    paths = {module: plain_name(name) for name, module in bridge.original_model.named_modules()}
    # by the names of the model without a bridge, which a checkpoint uses
    known = {name for name, _ in outline.named_modules()}
    hooks = site_hooks(bridge, neurons.site)
    targets: dict[int, str] = {}
    for layer in neurons.by_layer():
        module = linears.get(bridge.hook_dict[hooks[layer]])
        path = paths.get(module, "")
        # the bridge's own modules, for one half of a fused gate, are not in the outline
        if module is None or path not in known:
            raise ValueError(
                f"cannot fold neurons at {neurons.site!r} of {model_name(bridge)}: {hooks[layer]!r}"
                " belongs to no module with its own weights. Use scale_neurons."
            )
        if (dtype := getattr(module.weight, "dtype", None)) not in PLAIN_TYPES:
            raise _packed(bridge, f"{path} has {str(dtype).removeprefix('torch.')}")
        targets[layer] = path
    return targets


def _linear(wrapper: Any) -> Any:
    """The linear layer in a bridge's wrapper; None for anything else."""
    module = getattr(wrapper, "original_component", None)
    is_linear = hasattr(module, "in_features") or type(module).__name__ == "Conv1D"
    return module if is_linear else None


def _packed(bridge: BridgedModel, why: str) -> ValueError:
    return ValueError(
        f"the weights of {model_name(bridge)} are packed (quantized): {why}. Folding needs "
        "float32, bfloat16 or float16: use the checkpoint that is not quantized, or scale_neurons."
    )


@torch.no_grad()
def scale_weights(
    plain: Any, path: str, neurons: NeuronSet, indices: Sequence[int], lam: float
) -> None:
    """Multiply one layer's weights by `lam` where they read or write the neurons, in place.

    Raises:
        ValueError: If the weights are shared with another module, have other sizes, or overflow.
    """
    module = plain.get_submodule(path)
    names = ["weight"]
    if neurons.site == "pre" and getattr(module, "bias", None) is not None:
        names.append("bias")
    for name in names:
        tensor = getattr(module, name)
        _check_unshared(plain, f"{path}.{name}", tensor)
        axis = _neuron_axis(module, tensor, neurons)
        if tensor.shape[axis] != neurons.d_mlp:
            raise ValueError(
                f"{path}.{name} has {tensor.shape[axis]} neurons, but the set has {neurons.d_mlp}."
            )
        rows = tensor.movedim(axis, 0)  # a view of the weights
        rows[indices] *= lam
        if not bool(rows[indices].isfinite().all()):
            raise ValueError(f"lam = {lam:g} is too large: {path}.{name} overflows {tensor.dtype}.")


def _neuron_axis(module: Any, tensor: Tensor, neurons: NeuronSet) -> int:
    """The axis of the neurons; a Conv1D (GPT-2) has its input axis first, a Linear last."""
    if tensor.ndim == 1:
        return 0
    reads = neurons.site == "post"
    return int(reads) if hasattr(module, "in_features") else int(not reads)


def _check_unshared(plain: Any, name: str, tensor: Tensor) -> None:
    """Refuse weights that another module uses as well."""
    for other, parameter in plain.named_parameters(remove_duplicate=False):
        if parameter is tensor and other != name:
            raise ValueError(
                f"{name} is shared with {other}: scaling it would scale both. Use scale_neurons."
            )
