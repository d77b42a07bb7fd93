"""How a model spells yes and no: the tokens that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

AnswerStyle = Literal["model", "release"]
"""``model``: the spelling that the model itself prefers; ``release``: bare ``yes`` and ``no``."""

SPELLINGS = (("yes", "no"), ("Yes", "No"), ("YES", "NO"), (" yes", " no"), (" Yes", " No"))
"""The ways to write yes and no that are tried; the first is the release's."""


@dataclass(frozen=True)
class Spelling:
    """One way to write the two answers, each a single token."""

    yes: str
    """The text of yes."""
    no: str
    """The text of no."""
    yes_token: int
    """Token id of yes."""
    no_token: int
    """Token id of no."""

    def tokens(self, answer: str) -> tuple[int, int]:
        """The ids of the right and of the wrong answer."""
        if answer == "yes":
            return self.yes_token, self.no_token
        return self.no_token, self.yes_token


def spellings(tokenizer: Any) -> list[Spelling]:
    """The ways to write yes and no that are one token each for this tokenizer.

    Raises:
        ValueError: If there is none.
    """
    by_tokens: dict[tuple[int, int], Spelling] = {}
    for yes, no in SPELLINGS:
        yes_ids = tokenizer(yes, add_special_tokens=False)["input_ids"]
        no_ids = tokenizer(no, add_special_tokens=False)["input_ids"]
        if len(yes_ids) == len(no_ids) == 1 and yes_ids != no_ids:
            # Some tokenizers drop the space: the same tokens would be counted twice.
            by_tokens.setdefault((*yes_ids, *no_ids), Spelling(yes, no, *yes_ids, *no_ids))
    if not by_tokens:
        raise ValueError(
            "this tokenizer writes no spelling of yes and no as one token each (tried "
            f"{', '.join(map(repr, SPELLINGS))}): attribution needs single-token answers."
        )
    return list(by_tokens.values())


def release_spelling(options: Sequence[Spelling]) -> Spelling:
    """The spelling of the authors' release.

    Raises:
        ValueError: If it is not one token each for this tokenizer.
    """
    for spelling in options:
        if (spelling.yes, spelling.no) == SPELLINGS[0]:
            return spelling
    raise ValueError(
        "answer_style is 'release', but 'yes' and 'no' are not one token each for this tokenizer. "
        "Use answer_style='model'."
    )
