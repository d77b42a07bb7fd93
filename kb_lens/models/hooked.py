"""A model with TransformerLens hooks: its name, its weights' fingerprint, its MLP neurons.

Everything above works on the hook surface that TransformerLens 4's ``TransformerBridge`` and
TransformerLens 3's ``HookedTransformer`` share.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


Site = Literal["post", "pre"]
"""``post``: the input of the down projection, act(gate) * up for gated MLPs. ``pre``: the input
of the activation function (the gate projection's output for gated MLPs)."""


def model_name(model: Any) -> str:
    """The name that the model was loaded by."""
    return str(getattr(model.cfg, "model_name", None) or "unnamed")


def fingerprint(model: Any) -> str:
    """Sixteen hex digits that identify the model's weights.

    A checksum over every weight, rounded to bfloat16, so that one checkpoint has one fingerprint
    on every device and in float32 and bfloat16, and a model whose weights were changed anywhere
    has another. It is remembered as long as no parameter changes.
    """
    parameters = list(model.parameters())
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
    if _FINGERPRINTS.get(model, (None, ""))[0] != state:
        digest = hashlib.sha256()
        for parameter in parameters:
            digest.update(f"{tuple(parameter.shape)} {_checksum(parameter)} ".encode())
        _FINGERPRINTS[model] = (state, digest.hexdigest()[:16])
    return _FINGERPRINTS[model][1]


_FINGERPRINTS: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def _checksum(parameter: Tensor, chunk: int = 1 << 22) -> int:
    """A sum over the bits of every value, each weighted by its place."""
    total = 0
    for part in parameter.detach().reshape(-1).split(chunk):
        bits = part.to(torch.bfloat16).view(torch.int16).long()
        places = torch.arange(len(bits), device=bits.device) % 8191 + 1
        total = (total * 31 + int((bits * places).sum())) % (1 << 61)
    return total


def site_hooks(model: Any, site: Site) -> tuple[str, ...]:
    """The hook name of the MLP site in each layer.

    Raises:
        ValueError: If the site is unknown, or the model has no such neurons (mixture of experts,
            a layer without an MLP).
    """
    if site not in ("post", "pre"):
        raise ValueError(f"unknown site {site!r}: allowed are 'post' and 'pre'.")
    config = getattr(getattr(model, "original_model", None), "config", None)
    config = config.get_text_config() if config is not None else None
    for key in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        if (getattr(config, key, None) or 0) > 1:
            raise ValueError(
                f"{model_name(model)} is a mixture of experts ({key} = {getattr(config, key)}): "
                "its MLP neurons are not one vector a layer. Use a dense model."
            )
    names = tuple(f"blocks.{layer}.mlp.hook_{site}" for layer in range(model.cfg.n_layers))
    if missing := [name for name in names if name not in model.hook_dict]:
        raise ValueError(f"{model_name(model)} has no hook {missing[0]!r}: no MLP neurons there.")
    return names
