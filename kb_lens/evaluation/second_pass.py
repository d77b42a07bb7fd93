"""Self-Debiasing while decoding: compare probabilities with those after another text.

A text is read twice: as it is, x, and after a text that encourages what is not wanted, x'. A token
that is likelier after x' is made less likely:

    p~(w | x)  is proportional to  alpha(p(w | x) - p(w | x')) * p(w | x),
    alpha(d) = 1 for d >= 0, exp(decay * d) for d < 0.

With several texts the least difference counts. Generated or scored tokens go into both passes, so
the second pass reads the same tokens after another beginning.

The paper's formula has no lower bound of alpha; the authors' released code has 0.01.
`Against.floor` is this bound, and 0 gives the formula. The softmax of both passes, the differences
and the renormalisation are in float32.

Both passes run text by text, without a cache of what items share.

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
"""Tables over the vocabulary in memory at once; plain scoring has one. Batches are smaller by this
factor."""


def debiased(
    logits: Float[Tensor, "row d_vocab"],
    others: Iterable[Float[Tensor, "row d_vocab"]],
    against: Against,
) -> Float[Tensor, "row d_vocab"]:
    """Log-probabilities after the second pass, in float32.

    Args:
        logits: Logits of the text as it is.
        others: Logits of the same positions after each of the other texts.
        against: The decay and the floor.
    """
    logprob = logits.float().log_softmax(-1)
    probability = logprob.exp()
    gain = torch.zeros_like(probability)
    for other in others:  # one by one, since each is as wide as the vocabulary
        gain = gain.maximum(other.float().softmax(-1) - probability)
    least = math.log(against.floor) if against.floor else -math.inf
    factor = (-against.decay * gain).clamp(min=least)  # the logarithm of alpha
    return (logprob + factor).log_softmax(-1)


def second_pass_scores(
    model: HookedModel, texts: Sequence[Twice], batch_tokens: int
) -> Iterator[dict[Twice, list[float]]]:
    """Score every text by itself, in padded batches of similar length; one dictionary a batch.

    Args:
        model: The model; attached hooks fire in every pass.
        texts: What to score.
        batch_tokens: At most this many tokens in one pass, padding included; a longer text runs
            alone.

    Yields:
        Natural-log probability of each token of each text's option.
    """
    if not last_position.is_asked(model):
        yield from _batch_by_batch(model, texts, batch_tokens)
        return
    for text in texts:  # each token of the option as the last one of its own text
        pieces = _beginnings(text)
        scores: dict[Twice, list[float]] = {}
        for batch in _batch_by_batch(model, pieces, batch_tokens):
            scores |= batch
        yield {text: [score for piece in pieces for score in scores[piece]]}


def _batch_by_batch(
    model: HookedModel, texts: Sequence[Twice], batch_tokens: int
) -> Iterator[dict[Twice, list[float]]]:
    # Sorted by length for little padding, then by text for the same batches in every run.
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
    """For every token of the option a text that ends in it."""
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
    """The log-probabilities of texts with the same `Against`."""
    readings = zip(*(text.readings() for text in batch), strict=True)
    first, *others = map(list, readings)  # pass -> its texts
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
    """The second pass in generation; transformers calls it at every step.

    It runs the whole text after each of the other prompts again, without a cache: generated texts
    are short, and this needs no padding or positions.
    """

    def __init__(
        self,
        model: HookedModel,
        prompts: Sequence[Sequence[tuple[int, ...]]],
        width: int,
        against: Against,
    ) -> None:
        """Keep what is the same in every step.

        Args:
            model: The model; attached hooks fire in the second pass too.
            prompts: Row -> the tokens of its prompt after each of the other texts.
            width: Tokens of a row before the generated text, with padding.
            against: The texts, the decay and the floor.
        """
        self.model = model
        self.passes = list(zip(*prompts, strict=True))
        self.width = width
        self.against = against

    def __call__(
        self, input_ids: Int[Tensor, "row pos"], scores: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        """Logits of the next token, from those of the first pass."""
        written = input_ids[:, self.width :].tolist()
        others = (self._next(prompts, written).to(scores.device) for prompts in self.passes)
        # A later repetition penalty depends on the sign of logits, so at decay 0 they must be the
        # model's own.
        norm = scores.float().logsumexp(-1, keepdim=True)
        return debiased(scores, others, self.against) + norm

    def _next(
        self, prompts: Sequence[tuple[int, ...]], written: Sequence[Sequence[int]]
    ) -> Float[Tensor, "row d_vocab"]:
        texts = [(*prompt, *tokens) for prompt, tokens in zip(prompts, written, strict=True)]
        # A text's last token is not run, so a placeholder for the next token is appended.
        return option_logits(self.model, [Text((*ids, 0), len(ids)) for ids in texts])
