"""Score each text by itself, in padded batches; faster ways must agree with this."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.models.hooked import HookedModel
from kb_lens.passes import last_position
from kb_lens.passes.out_of_memory import tried


class Text(NamedTuple):
    """Tokens of a prompt and an option; the option begins at `start`, which is at least 1."""

    ids: tuple[int, ...]
    start: int

    @property
    def n_scored(self) -> int:
        """Tokens of the option."""
        return len(self.ids) - self.start


Scores = dict[Text, list[float]]
"""Natural-log probability of each token of each text's option, given all before it."""

_LOGIT_ROWS = 512
"""Rows over the vocabulary that are held in float32 at once: 512 of 150,000 tokens are 300 MB."""


def plain_scores(model: HookedModel, texts: Sequence[Text], batch_tokens: int) -> Iterator[Scores]:
    """Score every text by itself, in padded batches of similar length; one dictionary a batch.

    Padding is on the right, which changes nothing under causal attention.
    """
    if last_position.is_asked(model):
        yield from _token_by_token(model, texts, batch_tokens)
        return
    # Similar lengths together need little padding.
    ordered = sorted(texts, key=lambda text: len(text.ids), reverse=True)
    start = 0
    while start < len(ordered):
        n_rows = max(1, batch_tokens // len(ordered[start].ids))
        batch = ordered[start : start + n_rows]
        scores = tried(partial(_padded_batch, model, batch), len(batch), "texts a pass")
        if scores is None:
            batch_tokens = len(batch) // 2 * len(ordered[start].ids)
            continue
        yield dict(zip(batch, scores, strict=True))
        start += n_rows


def _token_by_token(
    model: HookedModel, texts: Sequence[Text], batch_tokens: int
) -> Iterator[Scores]:
    """One row for every token of an option, ending at the position that predicts it."""
    for text in texts:
        beginnings = [Text(text.ids[: end + 1], end) for end in range(text.start, len(text.ids))]
        n_rows = max(1, batch_tokens // len(text.ids))
        logprobs: list[float] = []
        for first in range(0, len(beginnings), n_rows):
            for token in _padded_batch(model, beginnings[first : first + n_rows]):
                logprobs += token
        yield {text: logprobs}


def _padded_batch(model: HookedModel, batch: Sequence[Text]) -> list[list[float]]:
    target = torch.tensor([token for text in batch for token in text.ids[text.start :]])
    with torch.no_grad():
        return by_text(option_logits(model, batch), torch.arange(len(target)), target, batch)


def option_logits(model: HookedModel, batch: Sequence[Text]) -> Float[Tensor, "read d_vocab"]:
    """The logits that predict each token of each text's option, one text after the other.

    One forward pass, in which the texts are padded on the right.
    """
    width = max(len(text.ids) for text in batch) - 1  # a text's last token is not run
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    reads: list[tuple[int, int]] = []
    for row, text in enumerate(batch):
        n = len(text.ids) - 1
        tokens[row, :n] = torch.tensor(text.ids[:-1])
        reads += [(row, pos - 1) for pos in range(text.start, n + 1)]
    row, pos = torch.tensor(reads).T
    # A text's last token is not run, since its prediction is not needed.
    lasts = torch.tensor([len(text.ids) - 2 for text in batch])
    with torch.no_grad(), last_position.marking(torch.arange(width) == lasts[:, None]):
        logits = model(tokens.to(model.cfg.device), return_type="logits")
        return logits[row.to(logits.device), pos.to(logits.device)]


def by_text(
    logits: Float[Tensor, "node d_vocab"],
    node: Int[Tensor, " read"],
    target: Int[Tensor, " read"],
    texts: Sequence[Text],
) -> list[list[float]]:
    """The log-probabilities of each text's tokens, from the logits of their predicting positions.

    Args:
        logits: The logits at every position that is read.
        node: The position of each read, in order, one text after the other.
        target: The token that is predicted there.
        texts: The texts.
    """
    total = torch.cat([rows.float().logsumexp(-1) for rows in logits.split(_LOGIT_ROWS)])
    node, target = node.to(logits.device), target.to(logits.device)
    logprob = (logits[node, target].float() - total[node]).cpu()
    return [tokens.tolist() for tokens in logprob.split([text.n_scored for text in texts])]
