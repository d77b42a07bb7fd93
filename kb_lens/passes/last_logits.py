"""A hook that leaves the logits of the last position alone: the vocabulary is the widest size."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.models.hooked import Hook, HookedModel

UNEMBED = "unembed.hook_in"
"""The hook of what the unembedding reads."""


def only_last_logits(model: HookedModel) -> list[Hook]:
    """The hook, as a list; an empty one for a model that lacks the place."""
    return [(UNEMBED, _last)] if UNEMBED in model.hook_dict else []


def _last(residual: Float[Tensor, "row pos d_model"], hook: Any) -> Float[Tensor, "row 1 d_model"]:
    del hook
    # a slice has gaps between its rows, for which oneDNN copies the weights once a row: gigabytes,
    # and hundreds of times the time
    return residual[:, -1:].clone(memory_format=torch.contiguous_format)
