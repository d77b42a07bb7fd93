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


def spellings(tokenizer: Any, prompts: Sequence[str]) -> list[Spelling]:
    """The ways to write yes and no that are one token each behind the prompts.

    A tokenizer may cut a word otherwise behind a newline than alone, so it is spelled where it is
    read: prompt and answer are cut together, and the answer's token is the one that comes behind
    the prompt's own.

    Args:
        tokenizer: The model's.
        prompts: Whole prompts as text (`PromptTemplate.text`): at least one.

    Raises:
        ValueError: If there is none, or it differs between the prompts.
    """
    by_prompt = [_spellings_behind(tokenizer, prompt) for prompt in dict.fromkeys(prompts)]
    if any(options != by_prompt[0] for options in by_prompt):
        raise ValueError(
            "this tokenizer spells yes and no otherwise behind some prompts than behind others: "
            "give all of them the same ending."
        )
    if not by_prompt[0]:
        raise ValueError(
            "this tokenizer writes no spelling of yes and no as one token each (tried "
            f"{', '.join(map(repr, SPELLINGS))}) behind a prompt that ends in "
            f"{prompts[0][-20:]!r}: attribution needs single-token answers."
        )
    return by_prompt[0]


def check_spelling(spelling: Spelling, tokenizer: Any, prompt: str) -> None:
    """Refuse a spelling that was found behind other prompts and has other tokens behind this one.

    Raises:
        ValueError: Names it.
    """
    given = spelling.yes_token, spelling.no_token
    words = spelling.yes.strip(), spelling.no.strip()
    written = tuple(
        token_behind(tokenizer, prompt, answer) for answer in (spelling.yes, spelling.no)
    )
    # Where a tokenizer drops the space, " yes" may be what is "yes" behind another prompt.
    same = {
        (other.yes_token, other.no_token)
        for other in _spellings_behind(tokenizer, prompt)
        if (other.yes.strip(), other.no.strip()) == words
    }
    if given not in {written, *same} or given[0] == given[1]:
        raise ValueError(
            f"yes and no spelled {spelling.yes!r} and {spelling.no!r} have other tokens behind a "
            f"prompt that ends in {prompt[-20:]!r}. Ask this model with the same template."
        )


def _spellings_behind(tokenizer: Any, prompt: str) -> list[Spelling]:
    by_tokens: dict[tuple[int, int], Spelling] = {}
    for yes, no in SPELLINGS:
        yes_token = token_behind(tokenizer, prompt, yes)
        no_token = token_behind(tokenizer, prompt, no)
        if yes_token is not None and no_token is not None and yes_token != no_token:
            # Some tokenizers drop the space: the same tokens would be counted twice.
            spelling = Spelling(yes, no, yes_token, no_token)
            by_tokens.setdefault((yes_token, no_token), spelling)
    return list(by_tokens.values())


def token_behind(tokenizer: Any, prompt: str, answer: str) -> int | None:
    """The answer's only token behind a prompt; None for several, or one that takes a bit of it.

    Args:
        tokenizer: The model's.
        prompt: A whole prompt as text.
        answer: What follows it, with its space.
    """
    if prompt.endswith(" ") and answer.startswith(" "):
        return None  # nobody writes two spaces
    texts = [prompt, prompt + answer]
    before, joined = tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Two newlines at the prompt's end are one token there and two before a letter (GPT-2): that
    # leaves the answer as it is.
    is_word = tokenizer.convert_ids_to_tokens(joined[-1]) == answer
    return joined[-1] if joined[:-1] == before or is_word else None


def release_spelling(options: Sequence[Spelling]) -> Spelling:
    """The spelling of the authors' release.

    Raises:
        ValueError: If it is not one token each behind the prompt.
    """
    for spelling in options:
        if (spelling.yes, spelling.no) == SPELLINGS[0]:
            return spelling
    raise ValueError(
        "answer_style is 'release', but 'yes' and 'no' are not one token each behind the prompt. "
        "Use answer_style='model'."
    )
