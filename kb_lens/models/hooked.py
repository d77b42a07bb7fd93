"""A model with TransformerLens hooks: its name, its weights' fingerprint, its MLP neurons.

kb_lens uses only the hooks that TransformerLens 4's ``TransformerBridge`` and TransformerLens 3's
``HookedTransformer`` share.
"""

from __future__ import annotations

import re
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
from torch import Tensor, nn

from kb_lens.files import shared_name
from kb_lens.models.digests import digest_of, parameters_of, same_weights
from kb_lens.user_warnings import warn_user

Site = Literal["post", "pre"]
"""``post``: the input of the down projection, act(gate) * up for gated MLPs. ``pre``: the input
of the activation function (the gate projection's output for gated MLPs)."""

Hook = tuple[str, Callable[..., Tensor | None]]
"""A hook's name, and the function that is called with its activation and ``hook=``."""


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model whose activations can be read and replaced.

    ``TransformerBridge`` and ``HookedTransformer`` are such models. `isinstance` checks only the
    members that are cheap to check.
    """

    cfg: Any
    """Sizes (``n_layers``, ``d_model``, ``d_mlp``, ``d_vocab``), ``device``, ``dtype``, name."""
    tokenizer: Any
    """The Hugging Face tokenizer."""

    # For the type checker only: the bridge rebuilds it at every access, also that of isinstance.
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
    """A `HookedModel` that wraps a transformers model: a ``TransformerBridge``."""

    @property
    def original_model(self) -> Any:
        """The transformers model."""
        ...

    # For the type checker only: torch keeps it where Python 3.12's isinstance does not look.
    if TYPE_CHECKING:

        @property
        def blocks(self) -> Any:
            """The transformer's blocks in order."""
            ...


def is_bridge(model: object) -> TypeGuard[BridgedModel]:
    """Whether the model wraps a transformers model."""
    return hasattr(model, "original_model")


def block_of(model: HookedModel, layer: int) -> Any:
    """A transformer block with its ``attn`` and ``mlp``; both kinds of model have ``blocks``."""
    return cast(Any, model).blocks[layer]


def mlp_width(model: HookedModel) -> int:
    """Neurons of the first layer's MLP."""
    if is_bridge(model):  # OPT's config has a wrong width
        out = getattr(getattr(block_of(model, 0), "mlp", None), "out", None)
        component = getattr(out, "original_component", None)
        if width := getattr(component, "in_features", None):
            return int(width)
        if component is not None and hasattr(component, "nf"):  # GPT-2's Conv1D, [in, out]
            return len(component.weight)
    return int(model.cfg.d_mlp)


def model_name(model: HookedModel) -> str:
    """The name that the model was loaded by; of a path the last part, since results are shared."""
    return shared_name(loaded_name(model))


def loaded_name(model: HookedModel) -> str:
    """The name that the model was loaded by and can be loaded by again."""
    return str(getattr(model.cfg, "model_name", None) or "unnamed")


def fingerprint(model: HookedModel) -> str:
    """Two times eight hex digits that identify the checkpoint's weights.

    They are digests of all weights rounded to bfloat16 and to float16; compare two by
    `same_weights`. By it a checkpoint is the same in float32, float16 and bfloat16 and on any
    device, and differs if any weight was changed. If `load_model` rounds the weights or merges an
    adapter, the fingerprint is that of the stored checkpoint, and `form` says what was done.
    """
    carried = _CARRIED.get(model)
    if carried is not None and carried[0] == _state(model):
        return carried[1]
    return weights_digest(model)


def weights_digest(model: HookedModel) -> str:
    """The digests of the weights as the model has them; results depend on these.

    They are remembered as long as no parameter changes.
    """
    state = _state(model)
    remembered = _DIGESTS.get(model)
    if remembered is not None and remembered[0] == state:
        return remembered[1]
    digest = digest_of(parameters_of(cast(nn.Module, model)))
    if None not in {version for _, version in state}:
        _DIGESTS[model] = (state, digest)
    return digest


def carry_fingerprint(model: HookedModel, weights: str, adapter: str = "") -> None:
    """Give the model the fingerprint of its source until a weight changes.

    Args:
        model: A model just loaded, whose weights were rounded, packed or merged.
        weights: Its source's fingerprint.
        adapter: The name of the adapter that was merged into it.
    """
    _CARRIED[model] = (_state(model), weights, adapter)


def form(model: HookedModel) -> str:
    """The form of the checkpoint's weights in the model: type, packing, adapter."""
    _, _, adapter = _CARRIED.get(model, (None, "", ""))
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    names = (dtype, packing(model), adapter and f"with {adapter}")
    return ", ".join(name for name in names if name)


def packing(model: HookedModel) -> str:
    """How a model's weights are packed; empty if they are not."""
    if not is_bridge(model):
        return ""
    config = getattr(model.original_model.config, "quantization_config", None)
    if config is None:
        return ""
    entries: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    method = entries.get("quant_method")
    return f"packed by {getattr(method, 'value', method)}{_bits(entries)}"


def _bits(packing: dict[str, Any]) -> str:
    """How many bits a packed weight has, if its config tells."""
    known = {"load_in_4bit": 4, "load_in_8bit": 8}
    bits = next((n for key, n in known.items() if packing.get(key)), packing.get("bits"))
    return f" in {bits} bits" if bits else ""


def check_weights(
    model: HookedModel, weights: str, made_in: str, *, what: str, source: str, remedy: str
) -> None:
    """Refuse results from other weights; warn if only the form of the weights differs.

    Args:
        model: The model to use them on.
        weights: The fingerprint of the model that they come from.
        made_in: That model's `form`; empty if it is not known.
        what: Subject and verb of the message.
        source: That model's name.
        remedy: What to do next.

    Raises:
        ValueError: If the weights differ.
    """
    present = fingerprint(model)
    if re.fullmatch("[0-9a-f]{16}", weights):
        raise ValueError(
            f"{what} to {source} (weights {weights}, as an earlier version of kb_lens wrote them), "
            f"which cannot be compared with {model_name(model)}. {remedy}"
        )
    if not same_weights(weights, present):
        raise ValueError(
            f"{what} to {source} (weights {weights}), not to {model_name(model)} (weights "
            f"{present}). {remedy}"
        )
    if made_in and made_in != form(model):
        warn_user(
            f"{what} to {source} in {made_in}, but {model_name(model)} is in {form(model)} here.",
        )


_State = list[tuple[int, int | None]]
_DIGESTS: WeakKeyDictionary[HookedModel, tuple[_State, str]] = WeakKeyDictionary()
_CARRIED: WeakKeyDictionary[HookedModel, tuple[_State, str, str]] = WeakKeyDictionary()


def _state(model: HookedModel) -> _State:
    """A value that changes with the weights: torch counts a tensor's in-place changes."""
    return [
        # torch keeps no count for tensors made under `torch.inference_mode`
        (parameter.data_ptr(), None if parameter.is_inference() else parameter._version)
        for parameter in model.parameters()
    ]


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
    """Raise `ValueError` unless all layers have the same width, and the site a value a neuron."""
    mlps = [block_of(model, layer).mlp for layer in range(model.cfg.n_layers)]
    # Conv1D (GPT-2) has no such attribute; in its families all layers have the same size
    read: list[Any] = [getattr(mlp.out.original_component, "in_features", None) for mlp in mlps]
    if len(set(read)) > 1:
        raise ValueError(
            f"the layers of {model_name(model)} have {min(read)} to {max(read)} MLP neurons, but "
            "scores need the same number in each layer. Use a model with equal layers."
        )
    writer = getattr(mlps[0], "gate", None) or getattr(mlps[0], "in")
    written = getattr(writer.original_component, "out_features", None)
    if site == "pre" and written != read[0]:
        raise ValueError(
            f"{model_name(model)} has no separate neurons at 'pre': its projection writes gate and "
            f"up together, {written} numbers a position for {read[0]} neurons. Use 'post'."
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
