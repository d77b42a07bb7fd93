"""From the residual stream after the last block to the objective, and its gradient there.

In half precision the last norm, the unembedding and the softmax would round the objective so
coarsely that the completeness gap would show only this rounding. So these run in float32, from
copies of their weights. Nothing else changes its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kb_lens.attribution.objective import Objective
from kb_lens.models.hooked import BridgedModel, HookedModel, is_bridge
from kb_lens.models.offloaded import at_hand
from kb_lens.passes.shared_prefix import UncoveredError

_BEFORE_NORM, _BEHIND_NORM = "ln_final.hook_in", "unembed.hook_in"
_MOST_ROWS = 1024
"""Rows over the vocabulary that are held in float32 at once."""
_MOST_TOKENS = 16384
"""Rows of the unembedding that are copied to float32 at once; Llama 3.1 8B's would take 2 GB."""
_ROUNDING, _HALF_ROUNDING = 1e-4, 0.05
"""How far logits may differ from the model's own, as a share of their spread. Rounding gives 1e-6
in float32 and 0.01 in bfloat16; a wrong pass differs by about the spread."""
_LEAST_EXPONENT = -100
"""The largest exponent of the gradient's scale: two to its negative is still a float32."""


@dataclass(frozen=True)
class Head:
    """The layers between the residual stream and the logits."""

    hook: str
    """The hook at which the rows are taken."""
    norm: nn.Module | None
    """The last norm in float32; None if the rows are taken after the model's own norm."""
    unembedding: Any
    """The model's own unembedding: a weight [d_vocab, d_model], in some families a bias."""
    cap: float | None
    """Logits are ``cap * tanh(x / cap)`` in some families."""
    factor: float = 1.0
    """The unembedding's output is multiplied by it in some families (Cohere, Granite)."""

    def normed(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """The input of the unembedding, in the type in which it runs."""
        return rows if self.norm is None else self.norm(rows.float())

    def logits(self, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        """Float32 logits of the rows of `normed`."""
        with at_hand(self.unembedding):
            weight, bias = self.unembedding.weight, getattr(self.unembedding, "bias", None)
            normed = normed.to(weight.device)
            # in one piece if nothing is copied: this is faster
            size = len(weight) if weight.dtype == normed.dtype else _MOST_TOKENS
            pieces = [F.linear(normed, w.to(normed.dtype)) for w in weight.split(size)]
            logits = (pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)).float()
            if bias is not None:
                logits = logits + bias.to(normed.dtype)
        if self.factor != 1:  # skip it for 1: a step over the vocabulary takes time
            logits = self.factor * logits
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def computes(self, rows: Float[Tensor, "1 d_model"], clean: Float[Tensor, "1 d_vocab"]) -> bool:
        """Whether it gives the model's own logits for the clean row, up to half precision."""
        try:
            check_logits(self.logits(self.normed(rows)), clean, half=True)
        except UncoveredError:  # some families have more than a norm there
            return False
        return True

    def value_and_gradient(
        self, rows: Float[Tensor, "row d_model"], objective: Objective
    ) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d_model"], Float[Tensor, "1 d_vocab"]]:
        """Each row's objective, its gradient at the row, and the first row's logits."""
        rows = rows.detach().to(torch.float32 if self.norm is not None else rows.dtype)
        with torch.enable_grad():
            normed = self.normed(rows.requires_grad_())
        chunks = [self._chunk(chunk, objective) for chunk in normed.detach().split(_MOST_ROWS)]
        values, gradients, first_logits = zip(*chunks, strict=True)
        (gradient,) = torch.autograd.grad(normed, rows, torch.cat(gradients))
        return torch.cat(values), gradient, first_logits[0]

    @torch.no_grad()
    def _chunk(
        self, normed: Float[Tensor, "row d_model"], objective: Objective
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.logits(normed)
        value, gradient = objective.value_and_gradient(logits)
        if self.cap:  # the derivative of cap * tanh(x / cap)
            gradient *= 1 - (logits / self.cap).square()
        if self.factor != 1:
            gradient *= self.factor
        with at_hand(self.unembedding):
            weight, gradient = self.unembedding.weight, gradient.to(normed.dtype)
            size = len(weight) if weight.dtype == normed.dtype else _MOST_TOKENS
            pieces = zip(gradient.split(size, -1), weight.split(size), strict=True)
            products = [part @ w.to(normed.dtype) for part, w in pieces]
            gradient = products[0] if len(products) == 1 else torch.stack(products).sum(0)
        return value, gradient.to(normed.device), logits[:1].clone()


def narrow_head(model: BridgedModel) -> Head | None:
    """The head with the unembedding in the model's own type; None if there is none."""
    unembedding = model.original_model.get_output_embeddings()
    if unembedding is None:
        return None
    config = model.original_model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    # Cohere multiplies, Granite divides; MPT has the first name with None for 1
    factor = getattr(config, "logit_scale", None) or 1.0
    factor /= getattr(config, "logits_scaling", None) or 1.0
    return Head(_BEHIND_NORM, None, unembedding, cap, factor)


def wide_head(model: HookedModel) -> Head | None:
    """The last norm and the unembedding in float32; None if they already are, or if not found."""
    if not is_half(model) or not is_bridge(model) or _BEFORE_NORM not in model.hook_dict:
        return None
    head = narrow_head(model)
    norm = cast(Any, model).ln_final.original_component
    if head is None or any(parameter.is_meta for parameter in norm.parameters()):  # offloaded
        return None
    return replace(head, hook=_BEFORE_NORM, norm=deepcopy(norm).float())


def is_half(model: HookedModel) -> bool:
    """Whether the model runs in a narrower type than float32."""
    return torch.finfo(model.cfg.dtype).bits < 32


def check_logits(
    logits: Float[Tensor, "1 d_vocab"], clean: Float[Tensor, "1 d_vocab"], *, half: bool
) -> None:
    """Raise `UncoveredError` unless the logits are those of the whole forward pass."""
    difference = float((logits - clean.to(logits.device)).abs().max())
    spread = float(clean.max() - clean.min())
    if not difference <= (_HALF_ROUNDING if half else _ROUNDING) * spread:
        raise UncoveredError(
            f"its one-token pass is off by {difference:.1e} in the logits (spread {spread:.2g})"
        )


def backward(
    rows: Float[Tensor, "row d_model"],
    gradient: Float[Tensor, "row d_model"],
    layers: Sequence[Float[Tensor, "_ d_mlp"]],
    chosen: Sequence[Int[Tensor, " _"]],
) -> list[Float[Tensor, "_ d_mlp"]]:
    """The gradients at the chosen rows of each layer's site, whose row r ends as row r.

    Each row's gradient is scaled to about 1 by a power of two, which changes no digit: float16 has
    few digits for numbers as small as a probability's gradient.
    """
    exponent = gradient.abs().amax(-1, keepdim=True).frexp().exponent.clamp_min(_LEAST_EXPONENT)
    seed = torch.ldexp(gradient, -exponent).to(rows.dtype)
    gradients = torch.autograd.grad(rows, list(layers), seed)
    results: list[Tensor] = []
    for layer, index in zip(gradients, chosen, strict=True):
        index = index.to(layer.device)
        results.append(torch.ldexp(layer[index].float(), exponent.to(layer.device)[index]))
    return results
