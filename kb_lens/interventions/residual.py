"""The residual stream at a block's output: its hook, and its value at a text's last token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.models.prompts import prompt_tensor


def block_output(model: HookedModel, layer: int) -> str:
    """The name of the hook at a block's output.

    Raises:
        ValueError: For a layer that the model does not have.
    """
    name = f"blocks.{layer}.hook_resid_post"
    if name not in model.hook_dict:
        raise ValueError(
            f"{model_name(model)} has no hook {name!r}: allowed layers are 0 to "
            f"{model.cfg.n_layers - 1}, got {layer}."
        )
    return name


def last_residuals(
    model: HookedModel, layers: Sequence[int], text: str
) -> Float[Tensor, "layer d_model"]:
    """The blocks' outputs at the last token of a text, float32 on the CPU.

    Raises:
        ValueError: For a layer that the model does not have, a text without a token or longer than
            the context, or activations that are not finite.
    """
    caught: dict[int, Tensor] = {}

    def catch(residual: Float[Tensor, "1 pos d_model"], hook: Any, *, layer: int) -> None:
        caught[layer] = residual[0, -1].float().cpu()

    hooks = [(block_output(model, layer), partial(catch, layer=layer)) for layer in layers]
    ids = token_ids(model.tokenizer, text)
    if not ids:
        raise ValueError(f"the text {text!r} has no token.")
    tokens = prompt_tensor(model, ids, repr(text[:60]), "Take a shorter one")
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    residuals = torch.stack([caught[layer] for layer in layers])
    if not bool(residuals.isfinite().all()):
        raise ValueError(
            f"the residual stream of {text!r} is not finite: the model overflows. Load it in "
            "float32 or bfloat16."
        )
    return residuals


def shift_for(
    model: HookedModel, vector: Float[Tensor, " d_model"], strength: float
) -> Float[Tensor, " d_model"]:
    """Strength times the vector, in the model's type and on its device.

    Raises:
        ValueError: If it is too large for the type, or of another width than the residual stream.
    """
    if len(vector) != model.cfg.d_model:
        raise ValueError(
            f"the vector has {len(vector)} entries, but the residual stream of {model_name(model)} "
            f"has {model.cfg.d_model}."
        )
    # multiplied in float32, so that only the product is rounded to the model's type
    shift = (strength * vector).to(model.cfg.device, model.cfg.dtype)
    if not bool(shift.isfinite().all()):
        raise ValueError(
            f"strength = {strength:g} makes the steering vector too large for "
            f"{model.cfg.dtype}: use a smaller strength, or load the model in float32."
        )
    return shift


def shifted(
    shift: Float[Tensor, " d_model"], activation: Float[Tensor, "*pos d_model"]
) -> Float[Tensor, "*pos d_model"]:
    """The sum of activation and shift, on the activation's device."""
    return activation + shift.to(activation.device)
