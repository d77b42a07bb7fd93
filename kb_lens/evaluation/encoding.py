"""Requests as tokens, split into prompt and option.

Texts are tokenised as in lm-evaluation-harness, so that results can be compared. Prompt and option
are encoded together and split where the prompt's own encoding ends. Spaces at the prompt's end
belong to the option. An empty prompt is replaced by one token (BOS, or EOS if there is no BOS).
Special tokens are added only if the model's tokenizer begins every text with BOS. A chat prompt is
written by the model's template, and its option begins where the model's turn begins.

A score is a sum over tokens: of an option, of some of its words (`excerpts`), or of the option with
the start token only before its first token.

If a request is read a second time after a text (`Against`), the text comes before the prompt's
tokens and after the start token; in a chat it begins the user's turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from kb_lens.benchmarks.requests import Against, Request, Span
from kb_lens.evaluation.excerpts import as_whole_texts, excerpt_tokens, token_spans
from kb_lens.models.chat import chat_text, has_template, leading_ids, token_ids
from kb_lens.models.hooked import HookedModel
from kb_lens.passes.plain_scores import Text

SAMPLE_SIZE = 32
"""Number of requests that are compared between two tokenizers. All of a large benchmark would take
half a minute for every condition of a study."""


@runtime_checkable
class Reader(Protocol):
    """What `encode` needs of a model, with ``cfg.n_ctx``; one that runs elsewhere has no more."""

    @property
    def tokenizer(self) -> Any: ...  # noqa: D102 - as in the class
    @property
    def cfg(self) -> Any: ...  # noqa: D102


class Twice(NamedTuple):
    """A text whose option is also read after other prompts."""

    ids: tuple[int, ...]
    """As of a `Text`."""

    start: int
    """As of a `Text`."""

    others: tuple[tuple[int, ...], ...]
    """The tokens before the option in each of the other passes."""

    against: Against
    """The text, the decay and the floor of the second pass."""

    @property
    def n_scored(self) -> int:
        """Tokens of the option."""
        return len(self.ids) - self.start

    def readings(self) -> list[Text]:
        """The text itself, and its option after each of the other prompts."""
        option = self.ids[self.start :]
        others = [Text((*other, *option), len(other)) for other in self.others]
        return [Text(self.ids, self.start), *others]


class Term(NamedTuple):
    """Tokens of a text whose log-probabilities are summed."""

    text: Text | Twice
    """The text."""

    tokens: Sequence[int]
    """The indices of its option's tokens that are summed, from 0."""


Score = tuple[Term, ...]
"""The terms of a score."""


def encode(model: Reader, requests: Sequence[Request], *, first: int = 0) -> list[list[Score]]:
    """Every score of every request in tokens, in the order of `OptionScores`.

    Args:
        model: The model whose tokenizer is used.
        requests: The requests; their first turns are already answered (`history`).
        first: Index of the first request among all that are scored, for messages.

    Raises:
        ValueError: If an option has no token of its own, a text is longer than the context, or the
            tokens of an excerpt cannot be found.
    """
    tokenizer = model.tokenizer
    n_ctx = getattr(model.cfg, "n_ctx", None)
    pairs = [_pairs(tokenizer, request) for request in requests]
    strings: set[str] = set()
    for row in pairs:
        for prompt, option in row:
            strings |= {prompt, prompt + option}
    ids = _encode_strings(tokenizer, strings)
    leading = leading_ids(tokenizer)
    whole_texts = [
        as_whole_texts(request, row) for request, row in zip(requests, pairs, strict=True)
    ]
    spans = token_spans(tokenizer, whole_texts)
    scores: list[list[Score]] = []
    rows = zip(requests, pairs, whole_texts, strict=True)
    for index, (request, row, whole_text) in enumerate(rows, first):
        templated = request.chat and has_template(tokenizer)  # the template writes BOS itself
        before = None if templated else leading
        texts = [_text(tokenizer, ids, before, prompt, option) for prompt, option in row]
        _check_row(index, row, texts, n_ctx)
        whole: list[Score] = [(Term(text, range(text.n_scored)),) for text in texts]
        # there is none, or the tokenizer begins every text with it
        started = bool(leading or request.prompt.strip())
        unstarted = [s if started else _unstarted(s) for s in whole if request.unstarted]
        once = [*whole, *unstarted, *_excerpts(whole_text, texts, spans)]
        scores.append(_read_twice(tokenizer, request, once, index, n_ctx))
    return scores


def _unstarted(score: Score) -> Score:
    """The same text with only the start token before its first token."""
    ((text, _),) = score
    bare = Text(text.ids[text.start :], start=1)
    first = Term(text, [0])
    return (first, Term(bare, range(bare.n_scored))) if bare.n_scored else (first,)


def _excerpts(
    request: Request, texts: Sequence[Text], spans: Mapping[str, Sequence[Span]]
) -> list[Score]:
    """The scores of the excerpts of whole texts, whose last tokens are the option's."""
    of_options = [
        spans[option][-text.n_scored :]
        for option, text in zip(request.options, texts, strict=True)
        if request.excerpts
    ]
    scores: list[Score] = []
    for excerpt in request.excerpts:
        chosen = excerpt_tokens(excerpt, request.options, of_options)
        scores += [(Term(text, tokens),) for text, tokens in zip(texts, chosen, strict=True)]
    return scores


def _read_twice(
    tokenizer: Any, request: Request, scores: list[Score], index: int, n_ctx: int | None
) -> list[Score]:
    """The same scores, whose texts are also read after the texts of `Against`, if any."""
    if request.against is None:
        return scores
    texts = {term.text for score in scores for term in score}
    prompts = {text.ids[: text.start] for text in texts}  # few: an item's options share theirs
    others = {prompt: other_prompts(tokenizer, request, prompt) for prompt in prompts}
    twice: dict[Text | Twice, Twice] = {}
    for text in texts:
        twice[text] = Twice(*text[:2], others[text.ids[: text.start]], request.against)
        longest = max(len(reading.ids) for reading in twice[text].readings())
        if n_ctx is not None and longest > n_ctx:
            raise ValueError(
                f"item {index} has {longest} tokens in its second pass, but the model's context "
                f"is {n_ctx}. Shorten the texts or use a model with a longer context."
            )
    return [tuple(Term(twice[text], tokens) for text, tokens in score) for score in scores]


def other_prompts(
    tokenizer: Any, request: Request, prompt: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """A request's prompt as tokens after each of the texts of `Against`.

    Args:
        tokenizer: The model's.
        request: The request.
        prompt: The tokens of its prompt.
    """
    texts = request.against.texts if request.against else ()
    if request.chat:
        told = [replace(request, prompt=text + request.prompt) for text in texts]
        return tuple(tuple(prompt_tokens(tokenizer, request)) for request in told)
    starts = {*leading_ids(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id}
    n = next((k for k, token in enumerate(prompt) if token not in starts), len(prompt))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return tuple((*prompt[:n], *in_front, *prompt[n:]) for in_front in ids)


def prompt_tokens(tokenizer: Any, request: Request) -> list[int]:
    """A request's prompt as tokens, for generation."""
    if not request.chat:
        return token_ids(tokenizer, request.prompt)
    text = _chat_text(tokenizer, request).rstrip(" ")  # the space belongs to the next token
    return token_ids(tokenizer, text, templated=has_template(tokenizer))


def sample_tokens(model: HookedModel, requests: Sequence[Request]) -> list[list[int]]:
    """Some evenly spaced requests as tokens, to compare tokenizers and templates.

    In a chat each request's first option follows the user's turn.
    """
    spaced = requests[:: -(-len(requests) // SAMPLE_SIZE)]
    plain = {"unstarted": False, "excerpts": ()}  # only whole texts may have these
    last = [request.last_turn() for request in spaced]
    texts = [replace(r, prompt=r.prompt + "".join(r.options[:1]), **plain) for r in last]
    return [prompt_tokens(model.tokenizer, text) for text in texts]


def batch_limit(model: HookedModel, batch_tokens: int | None, *, cpu: int, other: int) -> int:
    """The most tokens in one batch: as given, or by device."""
    if batch_tokens is None:
        return cpu if torch.device(model.cfg.device).type == "cpu" else other
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}.")
    return batch_tokens


def _pairs(tokenizer: Any, request: Request) -> list[tuple[str, str]]:
    """The text before each option, and the option with the space that belongs to it."""
    if not request.chat:
        bare = request.prompt.rstrip()
        spaces = request.prompt[len(bare) :]
        return [(bare, spaces + option) for option in request.options]
    text = _chat_text(tokenizer, request)
    before = text.rstrip(" ")
    space = text[len(before) :] if has_template(tokenizer) else " "
    return [(before, option and space + option) for option in request.options]


def _chat_text(tokenizer: Any, request: Request) -> str:
    if request.first:
        raise ValueError(
            f"the model has not answered the first turn {request.first[0][:60]!r} yet. "
            "Use `evaluate`, or call `answered` before."
        )
    turns = (*request.history, ("user", request.prompt)) if request.history else ()
    before = [f"{text}\n" if role == "user" else f"Answer: {text}\n\n" for role, text in turns[:-1]]
    user = "".join((*before, request.prompt))
    return chat_text(tokenizer, request.system, user, request.chat_format, turns)


def _encode_strings(tokenizer: Any, strings: set[str]) -> dict[str, list[int]]:
    """Token ids of each string, without special tokens."""
    ordered = sorted(strings - {""})  # in one call: many calls of a tokenizer are slow
    encoded = tokenizer(ordered, add_special_tokens=False)["input_ids"] if ordered else []
    return {"": [], **dict(zip(ordered, encoded, strict=True))}


def _text(
    tokenizer: Any, ids: dict[str, list[int]], leading: list[int] | None, prompt: str, option: str
) -> Text:
    """An option after its prompt; `leading` is None if a chat template wrote the prompt."""
    joined = ids[prompt + option]
    if not prompt:
        return Text((*_stand_in(tokenizer, joined), *joined), start=1)
    alone = ids[prompt]
    behind = joined[len(alone) :]
    if leading is None and joined[: len(alone)] != alone and tokenizer.is_fast:
        # Newlines at a template's end may be split differently before a letter; they are not the
        # option's.
        ends = tokenizer(prompt + option, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(joined, ends["offset_mapping"], strict=True)
        behind = [token for token, (_, end) in spans if end > len(prompt)]
    before = leading if leading and alone[: len(leading)] != leading else []
    # The prompt's own tokens, even if prompt and option are split differently when joined.
    return Text((*before, *alone, *behind), start=len(before) + len(alone))


def _stand_in(tokenizer: Any, ids: list[int]) -> list[int]:
    """The token in place of an empty prompt, unless the text already begins with it."""
    token = tokenizer.bos_token_id
    if token is None:
        token = tokenizer.eos_token_id
    if token is None:
        raise ValueError(
            "an empty prompt needs a BOS or EOS token to predict the first token from, and the "
            "model's tokenizer has neither. Set tokenizer.bos_token."
        )
    return [] if ids[:1] == [token] else [token]


def _check_row(
    index: int, pairs: Sequence[tuple[str, str]], texts: Sequence[Text], n_ctx: int | None
) -> None:
    for (prompt, option), text in zip(pairs, texts, strict=True):
        length = len(text.ids)
        if text.start >= length:
            raise ValueError(
                f"item {index}: the option {option!r} has no token of its own after the prompt "
                f"{prompt!r}. Options must not be empty."
            )
        if n_ctx is not None and length > n_ctx:
            raise ValueError(
                f"item {index} has {length} tokens with the option {option[:60]!r}, but the "
                f"model's context is {n_ctx}. Shorten the text or use a model with a longer "
                "context."
            )
