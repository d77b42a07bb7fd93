"""Any prompt with any next token, and optionally a second token to compare with it.

Other work on neurons attributes completions instead of questions: facts (knowledge neurons, arXiv
2104.08696), the gap between two groups after one prompt (IG2, arXiv 2406.10130), pronouns. The
prompt is used as it is, with no template around it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kb_lens.files import check_file_name
from kb_lens.models.answers import token_behind
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel
from kb_lens.models.prompts import prompt_tensor
from kb_lens.questions import UNSPECIFIED
from kb_lens.rows import check_is_file, json_rows, read_csv, shown

_FILE = "file of completions"
_NEEDED = ("prompt", "target")


@dataclass(frozen=True)
class Completion:
    """A prompt and the next token, which is attributed."""

    prompt: str
    """The whole text before the target. A chat is written out as its template writes it."""
    target: str
    """What follows: one token, with the space that separates it (`` Paris``)."""
    foil: str | None = None
    """An alternative to the target, also one token. The objective ``logit_difference`` is the
    target's logit minus the foil's. The other objectives ignore it, but it is always checked."""
    dimension: str = UNSPECIFIED
    """The group for selection, as the dimension of a question."""
    kind: str = UNSPECIFIED
    """What sort of completion it is, for figures."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name == "foil" and value is None:
                continue
            if not isinstance(value, str) or not value:
                raise ValueError(f"a completion's {name} must be a text, got {shown(value)}.")
        if self.foil == self.target:
            raise ValueError(f"target and foil are both {self.target!r}: give two that differ.")
        check_file_name(self.dimension, "dimension")

    @property
    def text(self) -> str:
        """The prompt, by the name that it has in a `Question`."""
        return self.prompt

    @property
    def answer(self) -> str:
        """The target, by the name that it has in a `Question`."""
        return self.target

    def prompt_tokens(self, model: HookedModel) -> Int[Tensor, "1 pos"]:
        """The prompt's tokens, with what the tokenizer puts before every text.

        Raises:
            ValueError: If the prompt is longer than the model's context.
        """
        ids = token_ids(model.tokenizer, self.prompt)
        return prompt_tensor(model, ids, repr(self.prompt[:60]), "Take a shorter one")

    def answer_tokens(self, tokenizer: Any) -> tuple[int, int | None]:
        """The ids of target and foil.

        Raises:
            ValueError: If one is not one token after the prompt, or both are the same.
        """
        target = _only_token(tokenizer, self.prompt, self.target, "target")
        if self.foil is None:
            return target, None
        foil = _only_token(tokenizer, self.prompt, self.foil, "foil")
        if foil == target:
            raise ValueError(
                f"target {self.target!r} and foil {self.foil!r} are the same token after "
                f"{self.prompt[-40:]!r}: there is no difference to attribute."
            )
        return target, foil


def _only_token(tokenizer: Any, prompt: str, word: str, name: str) -> int:
    token = token_behind(tokenizer, prompt, word)
    if token is not None:
        return token
    if prompt[-1:].isspace() and not prompt.endswith("\n"):
        remedy = "Remove the space at the prompt's end" + (
            "" if word[0].isspace() else " and put it before the word"
        )
    else:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        pieces = ", ".join(repr(tokenizer.decode([token])) for token in ids)
        remedy = f"By itself it is {pieces}. Move its first tokens into the prompt, or take another"
    raise ValueError(
        f"the {name} {word!r} is not one token after a prompt that ends in {prompt[-20:]!r}, and "
        f"attribution needs one token. {remedy}."
    )


def check_completions(
    model: HookedModel, completions: Sequence[Completion], *, with_foils: bool = True
) -> None:
    """Refuse completions that would be measured as something else.

    Args:
        model: The model that reads them.
        completions: Prompts and targets.
        with_foils: Whether completions that differ only in their foils count as different.

    Raises:
        ValueError: If a completion is given twice, a target or foil is several tokens, or one
            continues the prompt's last word where the model expects a new word.
    """
    measured = completions if with_foils else [replace(each, foil=None) for each in completions]
    completion, count = Counter(measured).most_common(1)[0]
    if count > 1:  # it would be counted several times
        raise ValueError(
            f"the completion {completion.prompt[-40:]!r} + {completion.target!r} is given {count} "
            "times: give each once."
        )
    for completion in completions:
        completion.answer_tokens(model.tokenizer)
    for completion in completions:
        for word in filter(None, (completion.target, completion.foil)):
            _check_new_word(model, completion, word)


def _check_new_word(model: HookedModel, completion: Completion, word: str) -> None:
    """Refuse ``is`` + ``Paris`` where `` Paris`` is meant; allow ``Reyk`` + ``javik``."""
    end = completion.prompt[-1]
    # Scripts with upper and lower case put spaces between words.
    if end.lower() == end.upper() or word[0].lower() == word[0].upper():
        return
    spaced = token_behind(model.tokenizer, completion.prompt, f" {word}")
    written = token_behind(model.tokenizer, completion.prompt, word)
    if spaced is None or written is None or spaced == written:
        return
    with torch.no_grad():
        logits = model(completion.prompt_tokens(model), return_type="logits")[0, -1]
    if logits[spaced] > logits[written]:
        raise ValueError(
            f"{word!r} continues the last word of {completion.prompt[-20:]!r}, and the model finds "
            f"{' ' + word!r} likelier there. Write the space before it: {' ' + word!r}."
        )


_QUOTED_BEHIND_A_SPACE = re.compile(r'\s+".*"\s*', re.DOTALL)
_COLUMNS = tuple(field.name for field in fields(Completion))


def load_completions(path: str | os.PathLike[str]) -> list[Completion]:
    """Read completions, in the order of the file.

    Args:
        path: A CSV file with the columns ``prompt`` and ``target``, and perhaps ``foil``,
            ``dimension`` and ``kind``; or JSON lines with these keys (``.jsonl``, ``.ndjson``).
            Spaces count: most targets begin with one. Other columns are ignored. An empty or blank
            cell in one of the last three columns counts as missing.

    Raises:
        ValueError: If the file is missing, empty or malformed; names row and column.
    """
    path = check_is_file(path, _FILE)
    completions = [_completion(path, number, row) for number, row in _rows(path)]
    if not completions:
        raise ValueError(f"'{path}' has no completions.")
    return completions


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return json_rows(path, _FILE)
    return _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, row in read_csv(path, _FILE, strip=False).rows:
        for column in _COLUMNS:
            if _QUOTED_BEHIND_A_SPACE.fullmatch(row.get(column) or ""):
                raise ValueError(
                    f"'{path}', row {number}, column {column!r}: got {shown(row[column])}. A "
                    "quote must follow the comma directly: remove the space before it."
                )
        yield number, row


def _is_empty(column: str, value: object) -> bool:
    if column not in _NEEDED and isinstance(value, str):
        return not value.strip(" \t")
    return value in (None, "")


def _completion(path: Path, number: int, row: Mapping[str, Any]) -> Completion:
    given = {name: row[name] for name in _COLUMNS if not _is_empty(name, row.get(name))}
    for column in (*_NEEDED, *given):
        if not isinstance(given.get(column), str):
            raise ValueError(
                f"'{path}', row {number}, column {column!r}: got {shown(row.get(column))}. Each "
                f"row needs a text in the columns or keys {' and '.join(_NEEDED)}."
            )
    try:
        return Completion(**given)
    except ValueError as error:
        raise ValueError(f"'{path}', row {number}: {error}") from error
