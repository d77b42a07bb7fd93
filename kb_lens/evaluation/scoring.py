"""Log-probabilities of options given their prompt: what every benchmark is made of.

A model goes in with requests (a prompt and its options), numbers come out. Nothing here knows
what the options mean, and nothing knows whether the model is being intervened on: hooks that are
attached to the model fire as in any forward pass.

Text becomes tokens as in lm-evaluation-harness, so that numbers can be compared: prompt and
option are encoded together and split where the prompt's own encoding ends, spaces at the prompt's
end belong to the option, and an empty prompt is replaced by one token (BOS, or EOS where there is
none). Special tokens are added only where the model's tokenizer begins every text with BOS. A chat
prompt is what the model's template makes of it, and its option begins where the model's turn does.

No token is computed twice where that can be helped (`token_trees`): what all texts begin with is
run once, and the texts of several items run as one tree over it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.models.hooked import model_name
from kb_lens.models.prompts import chat_text, has_template
from kb_lens.passes.matrix_products import fast_products
from kb_lens.passes.shared_prefix import UncoveredError
from kb_lens.passes.token_trees import Scores, Text, TreeScorer, plain_scores

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 4096
"""Tokens (padding included) in one forward pass."""


def option_logprobs(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> OptionScores:
    """Score every option of every request.

    What all texts share at their beginning is computed once and kept; the rest runs as prefix
    trees of several requests in one row, each token reading its own ancestors, and the unembedding
    only where an option's token is predicted. One request is compared with plain forward
    passes; where they differ, and for models that the trees do not cover (``HookedTransformer``,
    hooks inside attention), every text runs by itself in padded batches, with a warning.

    An intervention must act on every position by itself, or on the last one of each forward pass
    (``scale_neurons(positions="last")``): then each option's token is predicted as by a pass of
    its own over the text before it.

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
        raise ValueError("there is nothing to score: got no requests, at least one is needed.")
    if batch_tokens is None:
        on_cpu = torch.device(model.cfg.device).type == "cpu"
        batch_tokens = CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}.")
    texts = _encode(model.tokenizer, requests)
    _check_length(texts, getattr(model.cfg, "n_ctx", None))
    families = _families(texts)
    total = sum(len(family) for family in families)
    scores: Scores = {}
    bar = tqdm(total=total, desc="scoring", unit="text", disable=not progress or not total)
    with fast_products(model), bar:
        for batch in _score(model, families, batch_tokens):
            scores.update(batch)
            bar.update(len(batch))
    return _table(texts, scores)


def _families(texts: Sequence[Sequence[Text]]) -> list[list[Text]]:
    """Each request's texts without those of an earlier one; requests that begin alike together."""
    families, seen = [], set()
    for row in sorted(sorted(row) for row in texts if row):
        if fresh := [text for text in dict.fromkeys(row) if text not in seen]:
            families.append(fresh)
            seen.update(fresh)
    return families


def _score(model: Any, families: Sequence[Sequence[Text]], batch_tokens: int) -> Iterator[Scores]:
    """Batches of scores: as trees, or text by text where trees do not apply."""
    if not families:
        return
    every = [text for family in families for text in family]
    try:
        trees = TreeScorer(model, every)
        trees.check(max(families, key=lambda row: sum(len(t.ids) - t.start for t in row)))
    except torch.OutOfMemoryError:
        raise
    except (UncoveredError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        if hasattr(model, "original_model"):  # a HookedTransformer is known to have no trees
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = f"{model_name(model)} is scored text by text, not as trees: {reason}."
            warnings.warn(message, stacklevel=4)
        yield from plain_scores(model, every, batch_tokens)
    else:
        yield from trees.scores(families, batch_tokens)


def _encode(tokenizer: Any, requests: Sequence[Request]) -> list[list[Text]]:
    """Tokens of every option with its prompt, request by request."""
    parts = [_parts(tokenizer, request) for request in requests]
    strings = {s for row in parts for prompt, option in row for s in (prompt, prompt + option)}
    ids, bos = _encode_strings(tokenizer, strings), _leading(tokenizer)
    texts = []
    for index, (request, row) in enumerate(zip(requests, parts, strict=True)):
        templated = request.chat and has_template(tokenizer)
        texts.append([_text(tokenizer, ids, [] if templated else bos, *one) for one in row])
        for (prompt, option), text in zip(row, texts[-1], strict=True):
            if text.start >= len(text.ids):
                raise ValueError(
                    f"item {index}: the option {option!r} has no token of its own after the prompt "
                    f"{prompt!r}. Options must not be empty."
                )
    return texts


def _parts(tokenizer: Any, request: Request) -> list[tuple[str, str]]:
    """The text before each option, and the option with the space that belongs to it."""
    if not request.chat:
        bare = request.prompt.rstrip()
        return [(bare, request.prompt[len(bare) :] + option) for option in request.options]
    before = chat_text(tokenizer, request.system, request.prompt)
    space = "" if has_template(tokenizer) else " "
    return [(before, option and space + option) for option in request.options]


def _encode_strings(tokenizer: Any, strings: set[str]) -> dict[str, list[int]]:
    """Token ids of each string, without special tokens."""
    ordered = sorted(strings - {""})
    encoded = tokenizer(ordered, add_special_tokens=False)["input_ids"] if ordered else []
    return {"": [], **dict(zip(ordered, encoded, strict=True))}


def _text(
    tokenizer: Any, ids: dict[str, list[int]], bos: list[int], prompt: str, option: str
) -> Text:
    whole = ids[prompt + option]
    if not prompt:
        return Text((*_prefix(tokenizer, whole), *whole), start=1)
    has_bos = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    before = [] if has_bos else bos
    start = len(ids[prompt])
    return Text((*before, *ids[prompt], *whole[start:]), start=len(before) + start)


def _leading(tokenizer: Any) -> list[int]:
    """BOS, if this tokenizer begins every text with it."""
    bos, plain = tokenizer.bos_token_id, tokenizer("a", add_special_tokens=False)["input_ids"]
    begins = tokenizer("a")["input_ids"][:1]
    return begins if begins == [bos] and plain[:1] != [bos] else []


def _prefix(tokenizer: Any, ids: list[int]) -> list[int]:
    """The token that stands for an empty prompt, unless the text begins with it already."""
    token = tokenizer.bos_token_id
    token = tokenizer.eos_token_id if token is None else token
    if token is None:
        raise ValueError(
            "an empty prompt needs a BOS or EOS token to predict the first token from, and the "
            "model's tokenizer has neither. Set tokenizer.bos_token."
        )
    return [] if ids[:1] == [token] else [token]


def _check_length(texts: list[list[Text]], n_ctx: int | None) -> None:
    for index, row in enumerate(texts):
        longest = max((len(text.ids) for text in row), default=0)
        if n_ctx is not None and longest > n_ctx:
            raise ValueError(
                f"item {index} has {longest} tokens with its longest option, but the model's "
                f"context is {n_ctx}. Shorten the text or use a model with a longer context."
            )


def _table(texts: list[list[Text]], scores: Scores) -> OptionScores:
    """Put the scores of unique texts back where the requests asked for them."""
    shape = (len(texts), max(len(row) for row in texts))
    logprob, tokens = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(texts):
        for option, text in enumerate(row):
            logprob[index, option] = scores[text]
            tokens[index, option] = len(text.ids) - text.start
            if not np.isfinite(logprob[index, option]):
                raise ValueError(
                    f"item {index}, option {option}: the model gave a log-probability of "
                    f"{logprob[index, option]}, which is not finite. Its activations overflow: "
                    "use float32 (or bfloat16), or a smaller lambda if neurons are being scaled."
                )
    return OptionScores(logprob=logprob, tokens=tokens)
