"""A model with TransformerLens hooks: its name, its weights' fingerprint, its MLP neurons.

Everything above works on the hook surface that TransformerLens 4's ``TransformerBridge`` and
TransformerLens 3's ``HookedTransformer`` share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Protocol,
    TypeGuard,
    cast,
    get_args,
    runtime_checkable,
)
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Site = Literal["post", "pre"]
"""``post``: the input of the down projection, act(gate) * up for gated MLPs. ``pre``: the input
of the activation function (the gate projection's output for gated MLPs)."""

Hook = tuple[str, Callable[..., Tensor | None]]
"""A hook's name, and what is called with the activation there and ``hook=``."""


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model whose activations can be read and replaced.

    Both ``TransformerBridge`` and ``HookedTransformer`` are one. `isinstance` looks for the
    members that are cheap to look for.
    """

    cfg: Any
    """Sizes (``n_layers``, ``d_model``, ``d_mlp``, ``d_vocab``), ``device``, ``dtype``, name."""
    tokenizer: Any
    """The Hugging Face tokenizer."""

    # For the type checker alone: the bridge builds it anew at every access, which isinstance makes.
    if TYPE_CHECKING:

        @property
        def hook_dict(self) -> dict[str, Any]:
            """Hook name -> hook point."""
            ...

    def hooks(self, fwd_hooks: list[Hook] = ...) -> AbstractContextManager[Any]:
        """Inside, the hooks are set."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass with hooks: the logits [batch, pos, d_vocab]."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass: the logits, and hook name -> activation."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """The weights."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass: the logits [batch, pos, d_vocab]."""
        ...


@runtime_checkable
class BridgedModel(HookedModel, Protocol):
    """A `HookedModel` around a transformers model, which runs: a ``TransformerBridge``."""

    @property
    def original_model(self) -> Any:
        """The transformers model."""
        ...

    # For the type checker alone: torch keeps it where Python 3.12's isinstance does not look.
    if TYPE_CHECKING:

        @property
        def blocks(self) -> Any:
            """The transformer's blocks in order."""
            ...


def is_bridge(model: object) -> TypeGuard[BridgedModel]:
    """Whether a transformers model can be reached below the hooks."""
    return hasattr(model, "original_model")


def block_of(model: HookedModel, layer: int) -> Any:
    """A transformer block with its ``attn`` and ``mlp``; both kinds of model have ``blocks``."""
    return cast(Any, model).blocks[layer]


def model_name(model: HookedModel) -> str:
    """The name that the model was loaded by."""
    return str(getattr(model.cfg, "model_name", None) or "unnamed")


def fingerprint(model: HookedModel) -> str:
    """Sixteen hex digits that identify the model's weights.

    A checksum over every weight, rounded to bfloat16, so that one checkpoint has one fingerprint
    on every device and in float32 and bfloat16, and a model whose weights were changed anywhere
    has another. It is remembered as long as no parameter changes.
    """
    parameters = list(model.parameters())
    # torch counts a tensor's in-place changes in its version.
    state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
    remembered = _FINGERPRINTS.get(model)
    if remembered is not None and remembered[0] == state:
        return remembered[1]
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(f"{tuple(parameter.shape)} {_checksum(parameter)} ".encode())
    _FINGERPRINTS[model] = (state, digest.hexdigest()[:16])
    return _FINGERPRINTS[model][1]


_FINGERPRINTS: WeakKeyDictionary[HookedModel, tuple[list[tuple[int, int]], str]] = (
    WeakKeyDictionary()
)


def _checksum(parameter: Tensor, chunk_size: int = 1 << 22) -> int:
    """A sum over the bits of every value, each weighted by its index."""
    total = 0
    for chunk in parameter.detach().reshape(-1).split(chunk_size):
        bits = chunk.to(torch.bfloat16).view(torch.int16).long()
        weights = torch.arange(len(bits), device=bits.device) % 8191 + 1  # swapped values show
        total = (total * 31 + int((bits * weights).sum())) % (1 << 61)
    return total


def site_hooks(model: HookedModel, site: Site) -> tuple[str, ...]:
    """The hook name of the MLP site in each layer.

    Raises:
        ValueError: If the site is unknown, or the model has no such neurons (mixture of experts,
            a layer without an MLP).
    """
    if site not in get_args(Site):
        raise ValueError(f"unknown site {site!r}: allowed are 'post' and 'pre'.")
    if is_bridge(model):
        _check_dense(model)
    names = tuple(f"blocks.{layer}.mlp.hook_{site}" for layer in range(model.cfg.n_layers))
    hook_names = model.hook_dict
    if missing := [name for name in names if name not in hook_names]:
        raise ValueError(f"{model_name(model)} has no hook {missing[0]!r}: no MLP neurons there.")
    if is_bridge(model):
        _check_widths(model, site)
    return names


def _check_widths(model: BridgedModel, site: Site) -> None:
    """Raise `ValueError` unless all layers have as many neurons, and the site a number for each."""
    mlps = [block_of(model, layer).mlp for layer in range(model.cfg.n_layers)]
    # Conv1D (GPT-2) has no such attribute; the layers of those families are alike
    read: list[Any] = [getattr(mlp.out.original_component, "in_features", None) for mlp in mlps]
    if len(set(read)) > 1:
        raise ValueError(
            f"the layers of {model_name(model)} have {min(read)} to {max(read)} MLP neurons: "
            "scores are a table with as many for each layer. Use a model whose layers are alike."
        )
    writer = getattr(mlps[0], "gate", None) or getattr(mlps[0], "in")
    written = getattr(writer.original_component, "out_features", None)
    if site == "pre" and written != read[0]:
        raise ValueError(
            f"{model_name(model)} has no neurons at 'pre' of their own: its projection writes "
            f"{written} numbers a position for {read[0]} neurons, gate and up together. Use 'post'."
        )


def _check_dense(model: BridgedModel) -> None:
    """Raise `ValueError` for a mixture of experts."""
    config = model.original_model.config.get_text_config()
    for key in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        n_experts = getattr(config, key, None) or 0
        if n_experts > 1:
            raise ValueError(
                f"{model_name(model)} is a mixture of experts ({key} = {n_experts}): "
                "its MLP neurons are not one vector a layer. Use a dense model."
            )
