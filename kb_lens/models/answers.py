"""How a model spells yes and no: the tokens that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

AnswerStyle = Literal["model", "release"]
"""``model``: the spelling that the model itself prefers; ``release``: bare ``yes`` and ``no``."""

SPELLINGS = (("yes", "no"), ("Yes", "No"), ("YES", "NO"), (" yes", " no"), (" Yes", " No"))
"""The spellings of yes and no that are tried; the first is the release's."""


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
    """The spellings of yes and no that are one token each after the prompts.

    A tokenizer may split a word after a newline otherwise than alone. So prompt and answer are
    tokenised together, and the answer's token is the one after the prompt's own.

    Args:
        tokenizer: The model's.
        prompts: Whole prompts as text (`PromptTemplate.text`), at least one.

    Raises:
        ValueError: If there is none, or they differ between the prompts.
    """
    by_prompt = [_spellings_behind(tokenizer, prompt) for prompt in dict.fromkeys(prompts)]
    if any(options != by_prompt[0] for options in by_prompt):
        raise ValueError(
            "this tokenizer has other tokens for yes and no after some prompts than after others: "
            "give all prompts the same ending."
        )
    if not by_prompt[0]:
        raise ValueError(
            "this tokenizer has no spelling of yes and no with one token each (tried "
            f"{', '.join(map(repr, SPELLINGS))}) after a prompt that ends in "
            f"{prompts[0][-20:]!r}: attribution needs single-token answers."
        )
    return by_prompt[0]


def check_spelling(spelling: Spelling, tokenizer: Any, prompt: str) -> None:
    """Refuse a spelling from other prompts that has other tokens after this prompt.

    Raises:
        ValueError: Names it.
    """
    given = spelling.yes_token, spelling.no_token
    words = spelling.yes.strip(), spelling.no.strip()
    written = tuple(
        token_behind(tokenizer, prompt, answer) for answer in (spelling.yes, spelling.no)
    )
    # If a tokenizer drops the space, " yes" may have the token of "yes" after another prompt.
    same = {
        (other.yes_token, other.no_token)
        for other in _spellings_behind(tokenizer, prompt)
        if (other.yes.strip(), other.no.strip()) == words
    }
    if given not in {written, *same} or given[0] == given[1]:
        raise ValueError(
            f"yes and no spelled {spelling.yes!r} and {spelling.no!r} have other tokens after a "
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
    """The answer's only token after a prompt; None if it is several, or takes part of the prompt.

    Args:
        tokenizer: The model's.
        prompt: A whole prompt as text.
        answer: What follows it, with its space.
    """
    if prompt.endswith(" ") and answer.startswith(" "):
        return None  # nobody writes two spaces
    texts = [prompt, prompt + answer]
    before, joined = tokenizer(texts, add_special_tokens=False)["input_ids"]
    # Two newlines at the prompt's end are one token there and two before a letter (GPT-2); the
    # answer's token is the same.
    is_word = tokenizer.convert_ids_to_tokens(joined[-1]) == answer
    return joined[-1] if joined[:-1] == before or is_word else None


def release_spelling(options: Sequence[Spelling]) -> Spelling:
    """The spelling of the authors' release.

    Raises:
        ValueError: If it is not one token each after the prompt.
    """
    for spelling in options:
        if (spelling.yes, spelling.no) == SPELLINGS[0]:
            return spelling
    raise ValueError(
        "answer_style is 'release', but 'yes' and 'no' are not one token each after the prompt. "
        "Use answer_style='model'."
    )
