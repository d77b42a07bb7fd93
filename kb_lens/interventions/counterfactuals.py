"""Counterfactual texts: swap words that name a group with their counterparts.

Counterfactual data augmentation (Zhao et al., "Gender Bias in Coreference Resolution", arXiv
1804.06876; Lu et al., "Gender Bias in Neural Natural Language Processing", arXiv 1807.11714)
swaps the words of a list of pairs in both directions at once. Here it is done word by word with our
own list, ``question_bank/counterfactual_words.csv``. Names of people are not changed, and the
result is not checked for sense ("he is pregnant").
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Literal

from kb_lens.benchmarks.bank import file_rows, of_dimensions
from kb_lens.benchmarks.source_rows import Row
from kb_lens.files import bank_folder
from kb_lens.rows import check_is_file

_FILE = "counterfactual_words.csv"
_NO_NOUN = """a about after again alone an and are as at because before but by for from had has he
here how i if in into is it now off on or out over she so than that the then there they this to
today too under up was we were what when where who why will with would yesterday you"""
"""Words that cannot follow a possessive: "gave her a book", but "took her old book"."""


Side = Literal["first", "second"]
"""The place of a word in its pair."""


@dataclass(frozen=True)
class WordPair:
    """Two words that name groups of one dimension, such as he and she."""

    dimension: str
    """The social dimension."""
    first: str
    """One word, or several with one space between; with a capital if it always has one."""
    second: str
    """Its counterpart."""


def load_word_pairs(
    dimension: str | Iterable[str] | None = None, path: str | os.PathLike[str] | None = None
) -> tuple[WordPair, ...]:
    """Read pairs of words, in the order of the file.

    Args:
        dimension: One dimension or several; default all in the file.
        path: A CSV file of your own with the columns of
            ``question_bank/counterfactual_words.csv``, which is the default.

    Raises:
        ValueError: For a missing or malformed file (names line and column), a repeated pair, a word
            with more than two counterparts, or a dimension that is not in the file.
    """
    path = check_is_file(bank_folder() / _FILE if path is None else path, "word pairs file")
    counterparts: dict[str, list[str]] = {}
    pairs = tuple(_pair(row, counterparts) for row in file_rows(path))
    return of_dimensions(pairs, dimension, path)


def _pair(row: Row, counterparts: dict[str, list[str]]) -> WordPair:
    """A row's pair; its words are added to `counterparts`."""
    pair = WordPair(**{column.name: row.text(column.name) for column in fields(WordPair)})
    first, second = pair.first.lower(), pair.second.lower()
    if first == second:
        raise row.error("second", "another word than 'first'")
    for column, word, other in (("first", first, second), ("second", second, first)):
        others = counterparts.setdefault(word, [])
        if other in others:
            raise row.error(column, "a word of a pair that is nowhere else in the file")
        if len(others) == 2:
            raise row.error(column, "a word with at most two counterparts in the file")
        others.append(other)
    return pair


def counterfactual(text: str, pairs: Sequence[WordPair]) -> str | None:
    """The text with every word of the pairs replaced by its counterpart, all at once.

    Only whole words are replaced, and of overlapping words the longest. A word with a capital in
    the pairs is found only with it ("Black people", not "black people"). The counterpart takes the
    case of the word that it replaces and keeps its own capital. If it replaces a proper name and is
    none itself, it has a capital only at the beginning of a sentence.

    A word with two counterparts takes the one of the first pair if the next word may begin a noun
    phrase, and the other one elsewhere. "her book" becomes "his book"; "saw her.", "told her that"
    and "gave her a book" become "saw him." and so on. It is a rule of thumb: "made her laugh"
    wrongly becomes "made his laugh".

    Args:
        text: Any text.
        pairs: The pairs of words, see `load_word_pairs`.

    Returns:
        The changed text; None if it has none of the words.
    """
    if not pairs:
        raise ValueError("there is nothing to swap: got no pairs of words.")
    swaps = _swaps(tuple(pairs))
    changed = swaps.pattern.sub(swaps.replaced, text)
    # no word is its own counterpart, so a text with a word changes
    return None if changed == text else changed


def sides(text: str, pairs: Sequence[WordPair]) -> frozenset[Side]:
    """The sides of the text's words in their pairs: a text with one side names one group."""
    swaps = _swaps(tuple(pairs))
    found = {swaps.word(match) for match in swaps.pattern.finditer(text)}
    there: set[Side] = set()
    for pair in pairs:
        there |= {"first"} if pair.first in found else set()
        there |= {"second"} if pair.second in found else set()
    return frozenset(there)


@dataclass(frozen=True)
class _Swaps:
    """Pairs of words, prepared for use on texts."""

    pattern: re.Pattern[str]
    """The pattern that finds their words, in any case."""
    words: dict[str, str]
    """A word in lower case -> its spelling in the pairs."""
    counterparts: dict[str, list[str]]
    """A word in lower case -> its counterparts, in the order of the pairs."""

    def word(self, found: re.Match[str]) -> str | None:
        """The found words as spelled in the pairs; None if they lack a capital."""
        word = self.words[found[0].lower()]
        return None if word[0].isupper() and not found[0][0].isupper() else word

    def replaced(self, found: re.Match[str]) -> str:
        """The replacement of the found words."""
        word = self.word(found)
        if word is None:
            return found[0]
        options = self.counterparts[word.lower()]
        other = options[0 if _noun_follows(found) else -1]
        if found[0].isupper() and len(found[0]) > 1:
            return other.upper()
        # "Anglicans" always has a capital, "atheists" only at the beginning of a sentence
        capital = _begins_sentence(found) if word[0].isupper() else found[0][0].isupper()
        return other[0].upper() + other[1:] if capital else other


@cache
def _swaps(pairs: tuple[WordPair, ...]) -> _Swaps:
    """Prepare pairs once, since the same pairs are used for many texts."""
    words: dict[str, str] = {}
    counterparts: dict[str, list[str]] = {}
    for word, other in _both_ways(pairs):
        words.setdefault(word.lower(), word)
        counterparts.setdefault(word.lower(), []).append(other)
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)
    return _Swaps(pattern, words, counterparts)


def _both_ways(pairs: Iterable[WordPair]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        yield pair.first, pair.second
        yield pair.second, pair.first


def _noun_follows(found: re.Match[str]) -> bool:
    """Whether the next word may begin a noun phrase without an article."""
    following = re.match(r" (\w+)", found.string[found.end() :])
    return following is not None and following[1].lower() not in _NO_NOUN.split()


def _begins_sentence(found: re.Match[str]) -> bool:
    before = found.string[: found.start()].rstrip(" \n\t\"'(")
    return not before or before[-1] in ".!?:"
