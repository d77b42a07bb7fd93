"""Batches in which every row has another neuron scaled.

If only the last position is scaled, a row is one token that reads the prompt's keys and values.
These are computed once, and the row joins the batch at its neuron's block. Otherwise every row is a
whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.interventions.positions import Positions
from kb_lens.models.hooked import (
    BridgedModel,
    Hook,
    HookedModel,
    Site,
    is_bridge,
    model_name,
    site_hooks,
)
from kb_lens.passes.last_logits import only_last_logits
from kb_lens.passes.one_token_rows import OneTokenRows
from kb_lens.passes.shared_prefix import UncoveredError, cached, check_covered
from kb_lens.user_warnings import warn_user

# a one-token row costs about as much as one token of a prompt, and prompts have about 30
_TOKEN_ROWS, _PROMPT_ROWS = 256, 32
"""Default number of rows in one forward pass: of one token each, or of a whole prompt each."""
# two ways to compute the same logits differ by rounding; a larger difference is an error
_FLOAT32_TOLERANCE, _TOLERANCE = 1e-4, 0.05
"""Allowed difference of logits, as a share of their range: in float32, and in shorter types."""

Trial = tuple[int, int, float]
"""A layer, a neuron's index in it, and its factor."""


class ScaledRows:
    """Forward passes over one prompt in which every row has its own neuron and factor."""

    def __init__(
        self, model: HookedModel, site: Site, tokens: Int[Tensor, "1 pos"], positions: Positions
    ) -> None:
        self._model = model
        self._names = site_hooks(model, site)
        self._tokens = tokens
        self._scaled = slice(None) if positions == "all" else slice(-1, None)
        self._prefix: OneTokenRows | None = None
        if positions == "last":
            self._share_prefix()
        self.most = _PROMPT_ROWS if self._prefix is None else _TOKEN_ROWS

    def _share_prefix(self) -> None:
        """Use one-token rows if they give the model's own logits."""
        try:
            cache, output = cached(check_covered(self._model), self._tokens)
            self._prefix = OneTokenRows(cache, self._tokens.shape[1] - 1)
            self._check_logits(output.logits[:, -1].float())
        except UncoveredError as error:
            self._prefix = None
            if is_bridge(self._model):  # others are known to have no such rows
                reason = f"{model_name(self._model)} is not covered by one-token rows: {error}"
                warn_user(f"{reason}. Whole prompts run instead, slower.")

    def _check_logits(self, expected: Float[Tensor, "1 d_vocab"]) -> None:
        """Raise `UncoveredError` unless rows that scale by 1 have the model's logits."""
        # one in the first layer and one in the last: a row that joins early, and one late
        unchanged = [(0, 0, 1.0), (len(self._names) - 1, 0, 1.0)]
        difference = float((self._logits(unchanged) - expected).abs().max())
        in_float32 = self._model.cfg.dtype == torch.float32
        tolerance = _FLOAT32_TOLERANCE if in_float32 else _TOLERANCE
        allowed = tolerance * float(expected.max() - expected.min())
        if not difference <= allowed:  # "not": NaN is off too
            raise UncoveredError(f"their logits are off by {difference:.1e}")

    def values(
        self, trials: Sequence[Trial], right: int, wrong: int, most: int
    ) -> Float[Tensor, "2 row"]:
        """P(right) and the logit difference: the unchanged model's, then every trial's."""
        chunks: list[Tensor] = []
        for start in range(0, len(trials), most):
            logits = self._logits(trials[start : start + most])
            prob = (logits[:, right] - logits.logsumexp(-1)).exp()
            chunk = torch.stack([prob, logits[:, right] - logits[:, wrong]]).cpu()
            # each pass has the unchanged model in its first row; only the first pass's is kept
            chunks.append(chunk[:, 1:] if chunks else chunk)
        return torch.cat(chunks, 1)

    def _logits(self, trials: Sequence[Trial]) -> Float[Tensor, "row d_vocab"]:
        """Logits at the last position, of the unchanged model and of every trial, by layer."""
        hooks: list[Hook] = []
        first = 1
        for layer, group in groupby(trials, key=itemgetter(0)):
            _, indices, lams = zip(*group, strict=True)
            rows = torch.arange(first, first + len(lams))
            cells = (rows, self._scaled, torch.tensor(indices))
            if self._prefix is not None:
                hooks.append((f"blocks.{layer}.hook_in", partial(_join, n_rows=len(lams))))
            hooks.append((self._names[layer], partial(self._scale, cells=cells, lams=lams)))
            first += len(lams)
        if self._prefix is None:
            hooks += only_last_logits(self._model)
        with self._model.hooks(fwd_hooks=hooks):
            return self._run(first)[:, -1].float()

    def _run(self, n_rows: int) -> Float[Tensor, "row pos d_vocab"]:
        if self._prefix is None:
            return self._model(self._tokens.expand(n_rows, -1), return_type="logits")
        # one row alone: the others join at their own neuron's block, see `_join`
        position = torch.tensor([[self._prefix.length]], device=self._tokens.device)
        bridge = cast(BridgedModel, self._model)  # no other model has a prefix
        return self._prefix.run(bridge, self._tokens[:, -1:], position).logits

    def _scale(self, activation: Tensor, hook: Any, *, cells: Any, lams: Sequence[float]) -> Tensor:
        """Multiply one neuron in each of some rows; [row, pos, d_mlp] or rows flattened."""
        n_pos = self._tokens.shape[1] if self._prefix is None else 1
        rows = activation.reshape(-1, n_pos, activation.shape[-1]).clone()
        rows[cells] *= torch.tensor(lams).to(rows)[:, None]
        return rows.view(activation.shape)


def _join(residual: Tensor, hook: Any, *, n_rows: int) -> Tensor:
    """The residual stream with `n_rows` more copies of the unchanged model's row."""
    return torch.cat([residual, residual[:1].expand(n_rows, *residual.shape[1:])])
