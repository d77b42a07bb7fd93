"""Find the option that a written answer names.

An option may be named by its letter, if the options had letters, or by its text, with or without
article. The unknown option may also be named by any of the authors' phrases for it. An answer that
names no option, more than one, or denies one, is not parsed: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABC"
UNPARSED = -1
"""The place for an answer that is not parsed."""

UNKNOWN_ANSWERS = (
    "Can't answer",
    "Can't be determined",
    "Cannot answer",
    "Cannot be determined",
    "Not answerable",
    "Not enough info",
    "Not enough information",
    "Not known",
    "Undetermined",
    "Unknown",
)
"""The authors' texts for the unknown option; each row has one of them."""

_TAKEN = "~"
"""Replaces an option's text."""

_NOUN = r" +(?!(?:or|and|but|as|because|since|is|was)\b)\w"
"""The beginning of a word that follows an article."""

_UPPER = re.compile(r"(?<![\w'-])[ABC](?!['-]?\w)")
_LOWER = (
    re.compile(r"\A\W*([abc])\W*\Z"),
    re.compile(r"\A\W*([abc])[).:\]]"),
    re.compile(r"\(([abc])\)"),
    re.compile(
        rf"\b(?:answer|option|choice|letter)(?:\s+is)?\W+([bc]|a(?!{_NOUN}))(?!['-]?\w)",
        re.IGNORECASE,
    ),
)
"""A lower-case letter must be alone, marked as the letter of a list, or announced."""

_SENTENCE_BEGINS = re.compile(r"(?:^|[.:;!?\n\"*(\[-])\s*$")
_NOUN_FOLLOWS = re.compile(_NOUN)
_DENIED = re.compile(
    r"(?:\b(?:not|neither|nor|never)|n't)(?: (?:think|believe|say)\b[^.!?;,]*)?[\s\"'(*]+$",
    re.IGNORECASE,
)


def parse_answer(text: str, options: Sequence[str], unknown: int, *, lettered: bool = True) -> int:
    """The place of the option that a written answer names.

    Args:
        text: What the model wrote.
        options: The options' texts in listed order.
        unknown: The place of the unknown option.
        lettered: Whether the options had letters.

    Returns:
        A place, or `UNPARSED`.
    """
    rest = text.replace("\u2019", "'")
    answers: set[int] = set()
    denied = False
    # Texts of options are removed first, so that a letter in them is not read as an answer.
    for phrase, option in _phrases(options, unknown):
        rest, occurs, negated = _take(rest, phrase)
        if occurs:
            answers.add(option)
        denied |= negated
    for start, option in _letters(rest) if lettered else ():
        answers.add(option)
        denied |= bool(_DENIED.search(rest[:start]))
    if denied or len(answers) != 1:
        return UNPARSED
    return answers.pop()


def _phrases(options: Sequence[str], unknown: int) -> list[tuple[str, int]]:
    """Texts that name an option, the longest first, since one may be part of another."""
    phrases = [(_bare(text), option) for option, text in enumerate(options)]
    phrases += [(answer, unknown) for answer in UNKNOWN_ANSWERS]
    return sorted(phrases, key=lambda phrase: -len(phrase[0]))


def _bare(option: str) -> str:
    """An option's text without its article and final punctuation."""
    return re.sub(r"^(?:the|an?)\s+", "", option.replace("\u2019", "'").strip(" .!\"'"), flags=re.I)


def _take(text: str, phrase: str) -> tuple[str, bool, bool]:
    """The text without the phrase, whether it was there, and whether it was denied."""
    if not all(word in text.lower() for word in phrase.lower().split()):
        return text, False, False  # the usual case, and far faster than a search
    words = r"\s+".join(map(re.escape, phrase.split()))
    # An apostrophe before it is a quotation mark, unless it follows a letter ("O'Neil").
    pattern = rf"(?<![\w-])(?<!\w')(?:(?:the|an?) +)?{words}(?!['-]?\w)"
    matches = list(re.finditer(pattern, text, re.IGNORECASE))
    denied = any(_DENIED.search(text[: match.start()]) for match in matches)
    return re.sub(pattern, _TAKEN, text, flags=re.IGNORECASE), bool(matches), denied


def _letters(text: str) -> list[tuple[int, int]]:
    """The places where a letter names an option, with the option."""
    starts = [match.start() for match in _UPPER.finditer(text)]
    starts = [start for start in starts if not _is_article(text, start)]
    for pattern in _LOWER:
        starts += [match.start(1) for match in pattern.finditer(text)]
    return [(start, LETTERS.index(text[start].upper())) for start in starts]


def _is_article(text: str, start: int) -> bool:
    """Whether an A begins a sentence and a noun follows, as in "A grandfather"."""
    if text[start] != "A" or not _SENTENCE_BEGINS.search(text[:start]):
        return False
    return bool(_NOUN_FOLLOWS.match(text[start + 1 :]))
