"""Pairs of the same text about two groups, from which projections are computed.

A text with words of ``counterfactual_words.csv`` is paired with the text in which they are swapped.
The texts are the bank's statements and questions, which are in no benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kb_lens.interventions.counterfactuals import (
    WordPair,
    counterfactual,
    load_word_pairs,
    sides,
)
from kb_lens.interventions.steering import load_statements
from kb_lens.questions import load_questions


@dataclass(frozen=True)
class TextPair:
    """A text and the same text about the other group."""

    dimension: str
    """The social dimension of the groups."""
    first: str
    """The text with words of the first side; in a mixed pair either text."""
    second: str
    """Its counterfactual."""
    mixed: bool = False
    """Whether each text has words of both sides, so that neither names one group."""


def load_group_texts(dimension: str | Iterable[str] | None = None) -> tuple[TextPair, ...]:
    """The bank's statements and questions that have words of the pairs.

    Args:
        dimension: One dimension or several; default gender, race and religion.

    Raises:
        ValueError: For a dimension that the bank has no words for.
    """
    words = load_word_pairs(dimension)
    found: list[TextPair] = []
    for name in dict.fromkeys(pair.dimension for pair in words):
        statements = load_statements(name)
        texts = [text for pair in statements for text in (pair.biased, pair.fair)]
        texts += [question.text for question in load_questions(None, dimension=name)]
        found += group_texts(texts, [pair for pair in words if pair.dimension == name])
    return tuple(found)


def group_texts(texts: Sequence[str], words: Sequence[WordPair]) -> tuple[TextPair, ...]:
    """The texts that have a counterfactual, each with it; repeated pairs once.

    Args:
        texts: Any texts; those without the words are left out.
        words: Pairs of words of one dimension.

    Raises:
        ValueError: If the words are of no dimension or of several.
    """
    dimensions = list(dict.fromkeys(pair.dimension for pair in words))
    if len(dimensions) != 1:
        raise ValueError(f"the words are of the dimensions {dimensions}: give words of one.")
    pairs: dict[TextPair, None] = {}
    for text in texts:
        other = counterfactual(text, words)
        if other is None:
            continue
        found = sides(text, words)
        first, second = (text, other) if "first" in found else (other, text)
        pairs[TextPair(dimensions[0], first, second, mixed=len(found) > 1)] = None
    return tuple(pairs)
