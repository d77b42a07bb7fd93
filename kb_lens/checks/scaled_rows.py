"""Rows of a batch that differ in one thing: each has a neuron of its own scaled.

Where the last position alone is scaled, a row is one token that reads the prompt's keys and values,
which are computed once, and it joins the batch at its own neuron's block. Elsewhere every row is a
whole prompt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.interventions.scaling import Positions
from kb_lens.models.hooked import Site, model_name, site_hooks
from kb_lens.passes.one_token_rows import OneTokenRows
from kb_lens.passes.shared_prefix import UncoveredError, cached, check_covered

_TOKEN_ROWS, _PROMPT_ROWS = 256, 32

Trial = tuple[int, int, float]
"""A layer, a neuron's index in it, and its factor."""


class ScaledRows:
    """Forward passes over one prompt in which every row has its own neuron and factor."""

    def __init__(
        self, model: Any, site: Site, tokens: Int[Tensor, "1 pos"], positions: Positions
    ) -> None:
        self._model, self._names, self._tokens = model, site_hooks(model, site), tokens
        self._places = slice(None) if positions == "all" else slice(-1, None)
        self._prefix = None
        if positions == "last":
            self._share_prefix()
        self.most = _PROMPT_ROWS if self._prefix is None else _TOKEN_ROWS

    def _share_prefix(self) -> None:
        """Take one-token rows where they give the model's own logits."""
        try:
            check_covered(self._model)
            cache, output = cached(self._model, self._tokens)
            self._prefix = OneTokenRows(cache, self._tokens.shape[1] - 1)
            clean = output.logits[:, -1].float()
            unchanged = [(0, 0, 1.0), (len(self._names) - 1, 0, 1.0)]
            difference = float((self._logits(unchanged) - clean).abs().max())
            allowed = 1e-4 if self._model.cfg.dtype == torch.float32 else 0.05
            if not difference <= allowed * float(clean.max() - clean.min()):
                raise UncoveredError(f"their logits are off by {difference:.1e}")
        except torch.OutOfMemoryError:
            raise
        except (UncoveredError, RuntimeError, TypeError, AttributeError, KeyError) as error:
            self._prefix = None
            if hasattr(self._model, "original_model"):  # others are known to have no such rows
                reason = f"{model_name(self._model)} is not covered by one-token rows: {error}"
                warnings.warn(f"{reason}. Whole prompts run instead, slower.", stacklevel=4)

    def values(
        self, trials: Sequence[Trial], right: int, wrong: int, most: int
    ) -> Float[Tensor, "2 row"]:
        """P(right) and the logit difference: the unchanged model's, then every trial's."""
        parts = []
        for start in range(0, len(trials), most):
            logits = self._logits(trials[start : start + most])
            prob = (logits[:, right] - logits.logsumexp(-1)).exp()
            part = torch.stack([prob, logits[:, right] - logits[:, wrong]]).cpu()
            parts.append(part[:, 1:] if parts else part)
        return torch.cat(parts, 1)

    def _logits(self, trials: Sequence[Trial]) -> Float[Tensor, "row d_vocab"]:
        """At the last position, of the unchanged model and of every trial; sorted by layer."""
        hooks, first = [], 1
        for layer, group in groupby(trials, key=itemgetter(0)):
            _, index, lam = zip(*group, strict=True)
            place = (torch.arange(first, first + len(lam)), self._places, torch.tensor(index))
            if self._prefix is not None:
                hooks.append((f"blocks.{layer}.hook_in", partial(_join, n_rows=len(lam))))
            hooks.append((self._names[layer], partial(self._scale, place=place, lam=lam)))
            first += len(lam)
        if self._prefix is None and "unembed.hook_in" in self._model.hook_dict:
            hooks.append(("unembed.hook_in", lambda residual, hook: residual[:, -1:]))
        with self._model.hooks(fwd_hooks=hooks):
            return self._run(first)[:, -1].float()

    def _run(self, n_rows: int) -> Float[Tensor, "row pos d_vocab"]:
        if self._prefix is None:
            return self._model(self._tokens.expand(n_rows, -1), return_type="logits")
        position = torch.tensor([[self._prefix.length]], device=self._tokens.device)
        return self._prefix.run(self._model, self._tokens[:, -1:], position).logits

    def _scale(self, activation: Tensor, hook: Any, *, place: Any, lam: Sequence[float]) -> Tensor:
        """Multiply one neuron in each of some rows; [row, pos, d_mlp] or rows flattened."""
        n_pos = self._tokens.shape[1] if self._prefix is None else 1
        rows = activation.reshape(-1, n_pos, activation.shape[-1]).clone()
        rows[place] *= torch.tensor(lam).to(rows)[:, None]
        return rows.view(activation.shape)


def _join(residual: Tensor, hook: Any, *, n_rows: int) -> Tensor:
    """More rows that are as the unchanged model's up to here."""
    return torch.cat([residual, residual[:1].expand(n_rows, *residual.shape[1:])])
