"""Turn a question into a prompt: the words around it, worked examples, tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from jaxtyping import Int
from torch import Tensor

from kb_lens.models.chat import DATE, ChatFormat, chat_text, has_template, token_ids
from kb_lens.models.hooked import HookedModel
from kb_lens.rows import json_rows, read_csv, shown

_FILE = "file of examples"


@dataclass(frozen=True)
class PromptTemplate:
    """The words around a question. The default is the paper's."""

    system: str = "You are a useful assistant."
    """The system text; put into the user's text if a chat template has no system role."""
    instruction: str = "Answer the question with yes or no only."
    """The instruction, in a line above the question."""
    examples: Sequence[Sequence[str]] = ()
    """(question, answer) of each example before the question, as turns of a chat if the template
    has them. Answers are written as given. A base model needs some examples."""
    options: Mapping[str, Any] = field(
        default_factory=lambda: {"enable_thinking": False},
        hash=False,  # a dict has no hash, and equal templates have equal hashes without it
    )
    """Variables of the chat template, see `ChatFormat`."""
    date: str = DATE
    """The date that the chat template takes as today, as YYYY-MM-DD."""

    def __post_init__(self) -> None:
        for example in self.examples:
            if isinstance(example, str) or len(example) != 2 or not all(map(_is_text, example)):
                raise ValueError(
                    f"an example is {example!r}: give a question and its answer, two texts that "
                    "are not empty."
                )
        # JSON has lists instead of tuples; options get their defaults.
        object.__setattr__(self, "examples", tuple(map(tuple, self.examples)))
        object.__setattr__(self, "options", dict(self.chat_format.options))

    @property
    def chat_format(self) -> ChatFormat:
        """How the chat template is rendered."""
        return ChatFormat(tuple(self.options.items()), self.date)

    def text(self, tokenizer: Any, question: str) -> str:
        """The whole prompt as text, with special tokens.

        A space at the end of a chat template is left out: the answer's first token has it.
        """
        turns: list[tuple[str, str]] = []
        lines: list[str] = []
        for example, answer in self.examples:
            turns += [("user", self._request(f"Question: {example}")), ("assistant", answer)]
            lines.append(f"Question: {example}\nAnswer: {answer}\n")
        lines.append(f"Question: {question}")
        turns.append(("user", self._request(lines[-1])))
        user = self._request("\n".join(lines))
        return chat_text(tokenizer, self.system, user, self.chat_format, turns).rstrip(" ")

    def tokens(self, model: HookedModel, question: str) -> Int[Tensor, "1 pos"]:
        """The prompt's tokens; a chat template adds its own BOS, plain text gets one.

        Raises:
            ValueError: If the chat template does not write the question, or the prompt is longer
                than the model's context.
        """
        tokenizer = model.tokenizer
        text = self.text(tokenizer, question)
        ids = token_ids(tokenizer, text, templated=has_template(tokenizer))
        remedy = "Take fewer or shorter examples"
        return prompt_tensor(model, ids, f"of {question[:60]!r}", remedy)

    def _request(self, questions: str) -> str:
        return f"{self.instruction}\n{questions}" if self.instruction.strip() else questions


def prompt_tensor(
    model: HookedModel, ids: Sequence[int], which: str, remedy: str
) -> Int[Tensor, "1 pos"]:
    """A prompt's tokens on the model's device.

    Raises:
        ValueError: If they are more than the model's context; names the prompt and a remedy.
    """
    n_ctx = getattr(model.cfg, "n_ctx", None)
    if n_ctx is not None and len(ids) > n_ctx:
        raise ValueError(
            f"the prompt {which} has {len(ids)} tokens, but the model's context is {n_ctx}. "
            f"{remedy}, or a model with a longer context."
        )
    return torch.tensor([ids], device=model.cfg.device)


def load_examples(path: str | os.PathLike[str]) -> tuple[tuple[str, str], ...]:
    """Read examples for a `PromptTemplate`.

    Args:
        path: A CSV file with the columns ``question`` and ``answer``, or JSON lines with these
            keys (``.jsonl``).

    Raises:
        ValueError: If the file is missing, empty or malformed; names the row.
    """
    is_json = str(path).lower().endswith(".jsonl")
    rows = json_rows(path, _FILE) if is_json else read_csv(path, _FILE).rows
    examples: list[tuple[str, str]] = []
    for number, row in rows:
        question, answer = row.get("question"), row.get("answer")
        if not (_is_text(question) and _is_text(answer)):
            raise ValueError(
                f"'{path}', row {number}: the columns or keys question and answer need texts "
                f"that are not empty; got {shown(dict(row))}."
            )
        examples.append((question, answer))
    if not examples:
        raise ValueError(f"'{path}' has no examples.")
    return tuple(examples)


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())
