"""Rows of one token each that attend to one prompt's keys and values and to themselves."""

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
        if self.length:
            keys, values = self.prefix[module.layer_idx]
        else:  # a prompt of one token
            keys, values = (
                rows.new_empty(rows.shape[1], 0, rows.shape[3]) for rows in (key, value)
            )
        if sliding_window:  # the window counts the row's own token too
            start = max(0, self.length + 1 - sliding_window)
            keys, values = keys[:, start:], values[:, start:]
        n_rows, n_kv = key.shape[:2]
        d_head = query.shape[-1]
        grouped = rearrange(query, "row (kv group) 1 d -> kv row group d", kv=n_kv)
        # One product for all rows: the prefix's keys are shared and not copied for each row.
        queries = rearrange(grouped, "kv row group d -> kv (row group) d")
        to_prefix = (queries @ keys.mT).view(*grouped.shape[:3], -1)
        to_itself = (grouped * rearrange(key, "row kv 1 d -> kv row 1 d")).sum(-1, keepdim=True)
        scores = torch.cat([to_prefix, to_itself], -1)
        scores = scores * (d_head**-0.5 if scaling is None else scaling)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        pattern = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        on_prefix = rearrange(pattern[..., :-1], "kv row group pos -> kv (row group) pos")
        from_prefix = (on_prefix @ values).view(n_kv, n_rows, -1, d_head)
        from_itself = pattern[..., -1:] * rearrange(value, "row kv 1 d -> kv row 1 d")
        mixed = from_prefix + from_itself
        return rearrange(mixed, "kv row group d -> row 1 (kv group) d"), None
