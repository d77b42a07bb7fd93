"""Check that a bridge computes the same as the transformers model that it wraps.

TransformerLens computes attention itself for some families and silently ignores options that it
does not know. Comparing logits on a short text shows this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.models.evaluation_mode import evaluation_mode
from kb_lens.models.exclusive_use import exclusive_use
from kb_lens.models.foreign_code import never_asked
from kb_lens.models.hooked import BridgedModel, HookedModel, is_bridge, model_name

# any sentence that is long enough to show a difference in every layer
_TEXT = "The nurse and the engineer met after work, and they talked about their day."
# rounding is about 1e-6 in float32; two bytes a number keep two or three digits a layer
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""How far two computations of the same logits may differ, as a share of the largest; else 0.1. A
lost option changes 0.06 % (a cap on attention in a tiny random model) or more."""
# both rows go through the same kernels, so hardly any rounding is left
_LOOKAHEAD = {torch.float32: 1e-4, torch.float64: 1e-4}
"""How much later tokens may move the logits before them, as a share of the largest; else 0.01."""

Measure = TypeVar("Measure", bound=Callable[..., Any])
"""A function whose first argument is a model."""

_CHECKED: WeakSet[HookedModel] = WeakSet()
"""The bridges that were compared already or cannot be compared."""


def as_the_checkpoint(function: Measure) -> Measure:
    """Decorate a function of a model so that it measures what the checkpoint computes.

    Inside, the model is in evaluation mode, and no other thread may change or measure it
    (`exclusive_use`). A bridge that `load_model` did not make is first compared with the model
    that it wraps (`check_bridge`).
    """

    @wraps(function)
    def measure(model: Any, *args: Any, **options: Any) -> Any:
        with exclusive_use(model):
            check_bridge(model)
            with evaluation_mode(model):
                return function(model, *args, **options)

    return cast(Measure, measure)


def check_bridge(model: HookedModel) -> None:
    """Compare a bridge that `load_model` did not make with the model that it wraps, once.

    The wrapped model is rebuilt from its config and weights; no weight is copied. These cannot be
    compared and pass: a ``HookedTransformer``, a bridge with hooks set, and weights that are packed
    (quantized), offloaded, on several devices, or split by the bridge.

    Raises:
        ValueError: As `check_logits`.
    """
    if model in _CHECKED or not is_bridge(model):
        return
    # permanent hooks are TransformerLens's own
    if any(point.has_hooks(including_permanent=False) for point in model.hook_dict.values()):
        return  # an intervention: compared at the next call without one
    weights = _plain_weights(model)
    if weights is None:
        _CHECKED.add(model)  # it stays incomparable, and building the outline takes time
        return
    outline, tensors = weights
    tokens = probe_tokens(model.tokenizer, model.original_model)
    with evaluation_mode(model):
        expected = torch.func.functional_call(outline, tensors, (tokens,)).logits
        check_logits(model, expected, tokens)


def plain_outline(bridge: BridgedModel) -> Any:
    """The transformers model without weights and without the bridge's wrappers."""
    with torch.device("meta"), never_asked():
        return type(bridge.original_model)(copy.deepcopy(bridge.original_model.config)).eval()


def plain_name(name: str) -> str:
    """A module's or tensor's name in the transformers model that the bridge wrapped."""
    return ".".join(step for step in name.split(".") if step != "_original_component")


def _plain_weights(bridge: BridgedModel) -> tuple[Any, dict[str, Tensor]] | None:
    """The outline, and its tensors from the bridge; None if the bridge lacks some."""
    original = bridge.original_model
    if getattr(original.config, "quantization_config", None) is not None:
        return None
    present = {plain_name(name): tensor for name, tensor in _tensors(original).items()}
    if any(tensor.is_meta for tensor in present.values()):
        return None
    if len({parameter.device for parameter in original.parameters()}) > 1:
        return None  # the outline runs on one device
    outline = plain_outline(bridge)
    wanted = _tensors(outline)
    if any(name not in present or present[name].shape != wanted[name].shape for name in wanted):
        return None
    return outline, {name: present[name] for name in wanted}


def _tensors(model: Any) -> dict[str, Tensor]:
    """Every parameter and buffer by name, shared ones under each of their names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(model.named_buffers(remove_duplicate=False))


def probe_tokens(tokenizer: Any, hf_model: Any) -> Int[Tensor, "row pos"]:
    """Two rows of tokens that begin alike and end differently.

    Raises:
        ValueError: If the tokenizer gives tokens that the model has no embedding for.
    """
    n_embeddings = len(hf_model.get_input_embeddings().weight)
    ids = tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    if max(ids) >= n_embeddings:
        raise ValueError(
            f"its tokenizer gives token {max(ids)}, but its embedding ends at {n_embeddings - 1}: "
            "the tokenizer belongs to another model."
        )
    half = len(ids) // 2
    rows = [ids, ids[:half] + ids[: half - 1 : -1]]
    return torch.tensor(rows, device=input_device(hf_model))


def input_device(hf_model: Any) -> torch.device:
    """The device on which a transformers model expects its tokens, even with offloaded weights."""
    embedding = hf_model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)  # accelerate's
    device = getattr(hook, "execution_device", None)
    if device is None:
        return embedding.weight.device
    return torch.empty(0, device=device).device  # it may be a GPU's number


@torch.no_grad()
def causal_logits(
    hf_model: Any, tokens: Int[Tensor, "row pos"]
) -> Float[Tensor, "row pos d_vocab"]:
    """The transformers model's own logits on `probe_tokens`.

    Raises:
        ValueError: If a token's logits depend on the tokens after it.
    """
    logits = hf_model(tokens).logits
    half = tokens.shape[1] // 2
    moved = _difference(logits[0, :half], logits[1, :half])
    if moved > _LOOKAHEAD.get(logits.dtype, 0.01) * _size(logits):
        raise ValueError(
            f"{type(hf_model).__name__} is not a causal language model as this checkpoint is "
            f"configured: changing later tokens moves the logits before them by {moved:.3g}. Use a "
            "decoder."
        )
    return logits


@torch.no_grad()
def check_logits(
    bridge: HookedModel, expected: Float[Tensor, "row pos d_vocab"], tokens: Int[Tensor, "row pos"]
) -> None:
    """Compare the bridge's logits with the wrapped model's.

    Args:
        bridge: The bridge, without hooks.
        expected: The transformers model's logits, taken without the bridge.
        tokens: What both compute on.

    Raises:
        ValueError: If they differ by more than rounding; with the size of the difference.
    """
    difference = _difference(bridge(tokens), expected)
    largest = _size(expected)
    if difference > _TOLERANCE.get(bridge.cfg.dtype, 0.1) * largest:
        raise ValueError(
            f"TransformerLens does not compute what {model_name(bridge)} computes: on a short text "
            f"logits differ by {difference:.3g}, and the largest is {largest:.3g}. An option of "
            "its config.json is lost in the bridge; use another model."
        )
    _CHECKED.add(bridge)


def _difference(logits: Tensor, others: Tensor) -> float:
    """The largest difference; a number that is not finite counts as 0, on both sides."""
    return float((_finite(logits) - _finite(others)).abs().max())


def _size(logits: Tensor) -> float:
    """The largest logit without its sign."""
    return float(_finite(logits).abs().max())


def _finite(logits: Tensor) -> Tensor:
    # float16 may overflow in the model itself, which is not the bridge's fault
    return logits.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
