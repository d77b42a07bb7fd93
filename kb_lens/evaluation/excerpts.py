"""Find the tokens of given words in a text.

Words are found by the character spans of tokens, which fast tokenizers give. It is not enough to
encode the text up to a word's end: if tokens cross spaces, a beginning is split differently from
the whole text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from kb_lens.benchmarks.requests import Excerpt, Request, Span


def as_whole_texts(request: Request, pairs: Sequence[tuple[str, str]]) -> Request:
    """A request with excerpts as whole texts, prompt and option together.

    Args:
        request: The request; its words are counted from the beginning of its options.
        pairs: The text before each option, and the option with the space that belongs to it.
    """
    if not request.excerpts:
        return request
    whole = tuple(prompt + option for prompt, option in pairs)

    def behind(excerpt: Excerpt) -> Excerpt:
        options = zip(excerpt.words, request.options, pairs, strict=True)
        words = [_moved(words, option, *pair) for words, option, pair in options]
        return replace(excerpt, words=tuple(words))

    return replace(request, prompt="", options=whole, excerpts=tuple(map(behind, request.excerpts)))


def _moved(words: Sequence[Span], option: str, prompt: str, spaced: str) -> tuple[Span, ...]:
    """An option's words after the prompt; the space before the first word belongs to it."""
    by = len(prompt + spaced) - len(option)
    return tuple((start + by if start else len(prompt), end + by) for start, end in words)


def excerpt_tokens(
    excerpt: Excerpt, texts: Sequence[str], spans: Sequence[Sequence[Span]]
) -> list[list[int]]:
    """The indices of each option's tokens that are in the excerpt's words.

    White space belongs to no word, except a token of white space alone: it belongs to the next
    word.

    Args:
        excerpt: The words.
        texts: The options.
        spans: The characters of each option's tokens.
    """
    touched = [
        _touched(text, words, tokens)
        for text, words, tokens in zip(texts, excerpt.words, spans, strict=True)
    ]
    counted = {word for option in touched for words in option for word in words} - {_NO_WORD}
    while excerpt.aligned:
        # A token that is partly outside removes its words in all options, which may make other
        # tokens lie partly outside.
        split = [words for option in touched for words in option if not words <= counted]
        lost = counted.intersection(word for words in split for word in words)
        if not lost:
            break
        counted -= lost
    return [[k for k, words in enumerate(option) if words <= counted] for option in touched]


_NO_WORD = -1
"""The number for everything outside the words."""


def _touched(text: str, words: Sequence[Span], tokens: Sequence[Span]) -> list[set[int]]:
    """The numbers of the words that each token overlaps."""
    owner = [_NO_WORD] * (len(text) + 1)
    for number, (start, end) in enumerate(words):
        owner[start:end] = [number] * (end - start)
    touched: list[set[int]] = []
    for start, end in tokens:
        letters = [k for k in range(start, end) if not text[k].isspace()]
        touched.append({owner[k] for k in letters or [start]})
    return touched


def token_spans(tokenizer: Any, requests: Iterable[Request]) -> dict[str, list[Span]]:
    """The character span of every token of each option with excerpts.

    A tokenizer that cannot give them (a slow one) encodes the beginnings up to the words' borders.
    If these tokens are the text's own first tokens, they cover the text up to that border.

    Raises:
        ValueError: If the tokens of a word cannot be found.
    """
    borders: dict[str, set[int]] = {}
    for request in requests:
        for excerpt in request.excerpts:
            for text, words in zip(request.options, excerpt.words, strict=True):
                borders.setdefault(text, set()).update(*words)
    if not borders:
        return {}
    if not tokenizer.is_fast:
        return {text: _between(tokenizer, text, sorted(ends)) for text, ends in borders.items()}
    texts = list(borders)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    return {
        text: _checked(text, spans)
        for text, spans in zip(texts, encoded["offset_mapping"], strict=True)
    }


def _checked(text: str, spans: Sequence[Span]) -> list[Span]:
    """The spans, if they are in order and every letter belongs to a token."""
    spans = [(start, end) for start, end in spans]
    covered = {k for start, end in spans for k in range(start, end)}
    missing = [k for k, letter in enumerate(text) if letter.isalnum() and k not in covered]
    if missing or spans != sorted(spans) or any(end > len(text) for _, end in spans):
        raise ValueError(
            f"the model's tokenizer does not say where its tokens are in {text[:60]!r}: it gives "
            f"the characters {spans[:8]}. Single words cannot be scored with it."
        )
    return spans


def _between(tokenizer: Any, text: str, borders: Sequence[int]) -> list[Span]:
    """Spans from border to border; all tokens between two borders have the same span."""

    def encoded(end: int) -> list[int]:
        return tokenizer(text[:end], add_special_tokens=False)["input_ids"] if end else []

    ids = encoded(len(text))
    spans: list[Span] = []
    for start, end in pairwise(sorted({0, *borders, len(text)})):
        beginning = encoded(end)
        if ids[: len(beginning)] != beginning:
            raise ValueError(
                f"the model's tokenizer does not say where its tokens are, and it splits "
                f"{text[:end][-60:]!r} differently if more follows. Use its fast form "
                "(tokenizer.json)."
            )
        spans += [(start, end)] * (len(beginning) - len(spans))
    return spans
