"""Log-probabilities of options given their prompt, the basis of every benchmark.

The input is a model and requests (a prompt and its options). Nothing here knows the meaning of the
options or of interventions: attached hooks fire as in any forward pass.

`encoding` turns texts into tokens. Tokens are not computed twice if possible (`token_trees`): the
common beginning of all texts runs once, and the texts of several items run as one tree after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.evaluation.encoding import Score, Twice, batch_limit, encode
from kb_lens.evaluation.second_pass import second_pass_scores
from kb_lens.models.hooked import HookedModel, is_bridge, model_name
from kb_lens.passes.matrix_products import fast_products
from kb_lens.passes.plain_scores import Scores, Text, plain_scores
from kb_lens.passes.shared_prefix import UncoveredError
from kb_lens.passes.token_trees import TreeScorer
from kb_lens.progress import progress_bar
from kb_lens.user_warnings import warn_user

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 4096
"""Tokens in one forward pass, with padding: enough to fill the device and to fit small memories."""


def option_logprobs(
    model: HookedModel,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> OptionScores:
    """Score every option of every request.

    The common beginning of all texts is computed once. The rest runs as prefix trees of several
    requests in one row, in which each token reads its ancestors, and the unembedding runs only
    where an option's token is predicted. One request is compared with plain forward passes. If
    they differ, or the trees do not cover the model (``HookedTransformer``, hooks inside
    attention), every text runs by itself in padded batches, with a warning.

    Requests with `Against` take a second pass (`second_pass`), text by text.

    An intervention must act on every position separately, or on the last position of each forward
    pass (``scale_neurons(positions="last")``): then each option's token is predicted as by a
    separate pass over the text before it.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``; attached hooks fire.
        requests: What to score, in any order.
        batch_tokens: At most this many tokens in one forward pass, padding included; a longer
            text runs alone. Default: 1024 on the CPU, 4096 elsewhere.
        progress: Whether to show a progress bar, in texts.

    Returns:
        Log-probabilities and token counts, request by request.

    Raises:
        ValueError: If there is no request, an option has no token, a text is longer than the
            model's context, or a log-probability is not finite.
    """
    if not requests:
        raise ValueError("there is nothing to score: give at least one request.")
    asked = encode(model, requests)
    n_texts = len(different_texts(asked))
    with progress_bar(total=n_texts, desc="scoring", unit="text", shown=progress) as bar:
        return text_logprobs(model, asked, batch_tokens=batch_tokens, advance=bar.update)


def different_texts(asked: Sequence[Sequence[Score]]) -> set[Text | Twice]:
    """The different texts of some requests."""
    return {term.text for row in asked for score in row for term in score}


def text_logprobs(
    model: HookedModel,
    asked: Sequence[Sequence[Score]],
    *,
    batch_tokens: int | None,
    advance: Callable[[int], object],
    first: int = 0,
) -> OptionScores:
    """Score the output of `encode`, see `option_logprobs`.

    Args:
        model: As for `option_logprobs`.
        asked: The scores of each request.
        batch_tokens: As for `option_logprobs`.
        advance: Called after each batch with the number of different texts scored.
        first: Index of the first request among all that are scored, for messages.
    """
    limit = batch_limit(model, batch_tokens, cpu=CPU_BATCH_TOKENS, other=GPU_BATCH_TOKENS)
    scores: dict[Text | Twice, list[float]] = {}
    twice = [text for text in different_texts(asked) if isinstance(text, Twice)]
    with fast_products(model.cfg):
        for batch in _batches(model, _families(asked), limit):
            scores |= batch
            advance(len(batch))
        for batch in second_pass_scores(model, twice, limit):
            scores |= batch
            advance(len(batch))
    return option_scores(asked, scores, first)


def _families(asked: Sequence[Sequence[Score]]) -> list[list[Text]]:
    """Each request's texts that no earlier one has, with similar requests next to each other.

    Texts that are read twice are left out: their other prompts differ for each item.
    """
    families: list[list[Text]] = []
    seen: set[Text] = set()
    # Sorted, so that texts with a common beginning share a tree.
    rows = [[t for t in different_texts([row]) if isinstance(t, Text)] for row in asked]
    for row in sorted(map(sorted, rows)):
        fresh = [text for text in row if text not in seen]
        if fresh:
            families.append(fresh)
            seen.update(fresh)
    return families


def _batches(
    model: HookedModel, families: Sequence[Sequence[Text]], batch_tokens: int
) -> Iterator[Scores]:
    """Batches of scores: as trees, or text by text if trees do not cover the model."""
    if not families:
        return
    texts = [text for family in families for text in family]
    try:
        trees = TreeScorer(model, texts)
        # The family with the most scored tokens shows differences best.
        trees.check(max(families, key=lambda family: sum(text.n_scored for text in family)))
    except UncoveredError as error:
        if is_bridge(model):  # a HookedTransformer is known to have no trees
            message = f"{model_name(model)} is scored text by text, not as trees: {error}."
            warn_user(message)
        yield from plain_scores(model, texts, batch_tokens)
    else:
        yield from trees.scores(families, batch_tokens)


def option_scores(
    asked: Sequence[Sequence[Score]], scores: Mapping[Text | Twice, list[float]], first: int = 0
) -> OptionScores:
    """Sum the tokens' log-probabilities into the scores of `encode`.

    Raises:
        ValueError: If a sum is not finite.
    """
    shape = len(asked), max(len(row) for row in asked)
    logprob = np.full(shape, np.nan)
    tokens = np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(asked):
        for option, score in enumerate(row):
            total = sum(scores[text][k] for text, chosen in score for k in chosen)
            if not np.isfinite(total):
                raise ValueError(
                    f"item {first + index}, option {option}: the model gave a log-probability of "
                    f"{total}, which is not finite. Its activations overflow: "
                    "use float32 (or bfloat16), or a smaller lambda if neurons are being scaled."
                )
            logprob[index, option] = total
            tokens[index, option] = sum(len(term.tokens) for term in score)
    return OptionScores(logprob=logprob, tokens=tokens)
