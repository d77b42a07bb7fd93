"""Probabilities set against those behind another text: Self-Debiasing while decoding.

A text is read twice: as it is, x, and behind a text that encourages what is not wanted, x'. A
token that is likelier behind it is made less likely:

    p~(w | x)  is proportional to  alpha(p(w | x) - p(w | x')) * p(w | x),
    alpha(d) = 1 for d >= 0, exp(decay * d) for d < 0.

With several texts the least difference counts. What is written or scored goes into both passes, so
the second reads the same tokens behind another beginning.

The paper's formula has no lower bound of alpha. The authors' released code has one of 0.01, which
is `Against.floor`; a floor of 0 is the formula. Everything is in float32: the softmax of both
passes, the differences and the renormalisation.

Both passes are plain ones, text by text: what all items share is not kept from one to the next.

Source: Schick, Udupa and Schütze, Self-Diagnosis and Self-Debiasing: A Proposal for Reducing
Corpus-Based Bias in NLP (TACL 2021, arXiv 2103.00453), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from kb_lens.benchmarks.requests import Against
from kb_lens.evaluation.encoding import Twice
from kb_lens.models.hooked import HookedModel
from kb_lens.passes import last_position
from kb_lens.passes.plain_scores import Text, option_logits

_TABLES = 4
"""Tables over the vocabulary that are held at once, where plain scoring holds one: batches are
smaller by so much."""


def debiased(
    logits: Float[Tensor, "row d_vocab"],
    others: Iterable[Float[Tensor, "row d_vocab"]],
    against: Against,
) -> Float[Tensor, "row d_vocab"]:
    """Log-probabilities after the second pass, in float32.

    Args:
        logits: Of the text as it is.
        others: The same positions behind each of the other texts.
        against: The decay and the floor.
    """
    logprob = logits.float().log_softmax(-1)
    probability = logprob.exp()
    gain = torch.zeros_like(probability)
    for other in others:  # one after the other: a vocabulary wide, they are large
        gain = gain.maximum(other.float().softmax(-1) - probability)
    least = math.log(against.floor) if against.floor else -math.inf
    factor = (-against.decay * gain).clamp(min=least)  # the logarithm of alpha
    return (logprob + factor).log_softmax(-1)


def second_pass_scores(
    model: HookedModel, texts: Sequence[Twice], batch_tokens: int
) -> Iterator[dict[Twice, list[float]]]:
    """Every text by itself, in padded batches of like length; a dictionary a batch.

    Args:
        model: Attached hooks fire in every pass.
        texts: What to score.
        batch_tokens: At most this many tokens in one pass, padding included; a longer text runs
            alone.

    Yields:
        Natural-log probability of each token of each text's option.
    """
    if not last_position.is_asked(model):
        yield from _batch_by_batch(model, texts, batch_tokens)
        return
    for text in texts:  # each token of the option as the last one of a text of its own
        pieces = _beginnings(text)
        scores: dict[Twice, list[float]] = {}
        for batch in _batch_by_batch(model, pieces, batch_tokens):
            scores |= batch
        yield {text: [score for piece in pieces for score in scores[piece]]}


def _batch_by_batch(
    model: HookedModel, texts: Sequence[Twice], batch_tokens: int
) -> Iterator[dict[Twice, list[float]]]:
    # Like lengths together: little padding. The text itself: the same batches in every run.
    ordered = sorted(texts, key=lambda text: (text.against, _width(text), text), reverse=True)
    start = 0
    while start < len(ordered):
        against = ordered[start].against
        n_rows = max(1, batch_tokens // (_TABLES * _width(ordered[start])))
        alike = [text for text in ordered[start : start + n_rows] if text.against == against]
        yield dict(zip(alike, _batch(model, alike), strict=True))
        start += len(alike)


def _width(text: Twice) -> int:
    """Tokens of its longest reading."""
    return max(len(reading.ids) for reading in text.readings())


def _beginnings(text: Twice) -> list[Twice]:
    """A text for every token of the option, which ends in it."""
    return [
        Twice(
            text.ids[: end + 1],
            end,
            tuple((*other, *text.ids[text.start : end]) for other in text.others),
            text.against,
        )
        for end in range(text.start, len(text.ids))
    ]


def _batch(model: HookedModel, batch: Sequence[Twice]) -> list[list[float]]:
    """The log-probabilities of texts that are set against the same."""
    readings = zip(*(text.readings() for text in batch), strict=True)
    first, *others = map(list, readings)  # pass -> the texts as they stand in it
    target = torch.tensor([token for text in batch for token in text.ids[text.start :]])
    with torch.no_grad():
        logprob = debiased(
            option_logits(model, first),
            (option_logits(model, other) for other in others),
            batch[0].against,
        )
        rows = torch.arange(len(target), device=logprob.device)
        scored = logprob[rows, target.to(logprob.device)].cpu()
    return [tokens.tolist() for tokens in scored.split([text.n_scored for text in batch])]


class SecondPassProcessor(LogitsProcessor):
    """The second pass while a model writes: transformers calls it at every step.

    It runs the whole text behind each of the other prompts anew, without a cache: what is written
    is short, and no padding or position has to be told to the model.
    """

    def __init__(
        self,
        model: HookedModel,
        prompts: Sequence[Sequence[tuple[int, ...]]],
        width: int,
        against: Against,
    ) -> None:
        """Keep what stays the same from step to step.

        Args:
            model: What writes; attached hooks fire in the second pass too.
            prompts: Row -> the tokens of its prompt behind each of the other texts.
            width: Tokens of a row before what is written, padding included.
            against: The texts, the decay and the floor.
        """
        self.model = model
        self.passes = list(zip(*prompts, strict=True))
        self.width = width
        self.against = against

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits of the next token, from those that the first pass gives it."""
        written = input_ids[:, self.width :].tolist()
        others = (self._next(prompts, written).to(scores.device) for prompts in self.passes)
        # A penalty behind this one divides or multiplies logits by their sign: at decay 0 they have
        # to be the model's own.
        norm = scores.float().logsumexp(-1, keepdim=True)
        return debiased(scores, others, self.against) + norm

    def _next(
        self, prompts: Sequence[tuple[int, ...]], written: Sequence[Sequence[int]]
    ) -> Float[Tensor, "row d_vocab"]:
        texts = [(*prompt, *tokens) for prompt, tokens in zip(prompts, written, strict=True)]
        # A text's last token does not run: the one put behind it stands for the one to come.
        return option_logits(self.model, [Text((*ids, 0), len(ids)) for ids in texts])
