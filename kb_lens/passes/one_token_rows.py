"""Rows of one token each that read one prompt's keys and values and themselves."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kb_lens.passes.shared_prefix import SharedPrefix


class OneTokenRows(SharedPrefix):
    """Rows of one token each: every row reads the prefix and itself."""

    def attend(
        self,
        module: Any,
        query: Float[Tensor, "row head 1 d_head"],
        key: Float[Tensor, "row kv_head 1 d_head"],
        value: Float[Tensor, "row kv_head 1 d_head"],
        attention_mask: Tensor | None = None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "row 1 head d_head"], None]:
        """Attention of every row over the shared prefix and its own key and value."""
        keys, values = self.prefix[module.layer_idx]
        if sliding_window:
            start = max(0, self.length + 1 - sliding_window)
            keys, values = keys[:, start:], values[:, start:]
        n_rows, n_heads, _, d_head = query.shape
        n_kv = key.shape[1]
        grouped = rearrange(query, "row (kv group) 1 d -> kv row group d", kv=n_kv)
        flat = rearrange(grouped, "kv row group d -> kv (row group) d")
        shared = (flat @ keys.mT).view(n_kv, n_rows, n_heads // n_kv, -1)
        own = (grouped * rearrange(key, "row kv 1 d -> kv row 1 d")).sum(-1, keepdim=True)
        scores = torch.cat([shared, own], -1) * (d_head**-0.5 if scaling is None else scaling)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        mixed = rearrange(pattern[..., :-1], "kv row group pos -> kv (row group) pos") @ values
        mixed = mixed.view(n_kv, n_rows, -1, d_head)
        mixed = mixed + pattern[..., -1:] * rearrange(value, "row kv 1 d -> kv row 1 d")
        return rearrange(mixed, "kv row group d -> row 1 (kv group) d"), None
