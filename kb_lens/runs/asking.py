"""The options of commands that ask a model: the questions and their wording."""

# No `from __future__ import annotations`: as in `kb_lens.runs.settings`.
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb_lens.models.chat import DATE, ChatFormat
from kb_lens.models.prompts import PromptTemplate, load_examples
from kb_lens.questions import Question, load_questions
from kb_lens.rows import shown


class Checked:
    """The base of all option groups, where the chain of their checks ends."""

    def __post_init__(self) -> None:
        """Check nothing: this is the last check of the chain."""


@dataclass(frozen=True, kw_only=True)
class Rendering(Checked):
    """How the model's chat template is rendered."""

    template_option: tuple[str, ...] = ()
    """KEY=VALUE for the chat template, such as enable_thinking=true."""
    date: str = DATE
    """The date that the chat template uses as today."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chat_format()  # raises before anything is loaded

    def chat_format(self) -> ChatFormat:
        """The parsed options: JSON's true, false, null and numbers; everything else is text.

        Raises:
            ValueError: If an option has no = or is given twice, or `ChatFormat` refuses it.
        """
        options: dict[str, Any] = {}
        for text in self.template_option:
            name, equals, value = text.partition("=")
            if not (name and equals):
                raise ValueError(f"--template-option is {shown(text)}: write KEY=VALUE.")
            if name in options:
                raise ValueError(f"--template-option has {shown(name)} twice: give each key once.")
            options[name] = _json_or_text(value)
        return ChatFormat(tuple(options.items()), self.date)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


@dataclass(frozen=True, kw_only=True)
class Wording(Rendering):
    """The words around a question."""

    system: str = PromptTemplate.system
    """The system text; empty for none."""
    instruction: str = PromptTemplate.instruction
    """The instruction, on the line above the question."""
    examples: Path | None = None
    """Worked examples: a CSV or .jsonl with question and answer. A base model needs them."""

    def template(self) -> PromptTemplate:
        """The template of all questions.

        Raises:
            ValueError: As `chat_format` and `load_examples`.
        """
        chat_format = self.chat_format()
        examples = () if self.examples is None else load_examples(self.examples)
        options = dict(chat_format.options)
        return PromptTemplate(self.system, self.instruction, examples, options, self.date)


@dataclass(frozen=True, kw_only=True)
class Asking(Wording):
    """The questions and their wording."""

    questions: int | None = None
    """Number of questions, balanced over dimensions and kinds; 0 for all. Default 5 concepts of
    each, or all of --bank."""
    dimensions: tuple[str, ...] = ()
    """Parts of the question bank; default gender,race,religion, or all of --bank."""
    language: str = "en"
    """Language of the questions: en, es, de or zh."""
    bank: Path | None = None
    """A question CSV of your own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError(f"--dimensions has a name twice: {','.join(self.dimensions)}.")

    def load_questions(self, n: int | None = None) -> list[Question]:
        """The questions, balanced over dimensions and kinds, from the bank or the caller's file.

        Args:
            n: Their number, 0 for all; default as in the settings.

        Raises:
            ValueError: As `load_questions`, or if a language is given with a file.
        """
        count = self.questions if n is None else n
        size = "default" if count is None else count or None
        dimension = self.dimensions or None
        if self.bank is None:
            return load_questions(size, dimension=dimension, language=self.language)
        if self.language != "en":
            raise ValueError("--language chooses a part of the package's bank: drop it or --bank.")
        return load_questions(size, dimension=dimension, path=self.bank)


@dataclass(frozen=True, kw_only=True)
class ControlBank:
    """The control questions, on which the neurons must not depend."""

    control_bank: Path | None = None
    """Plain factual questions of your own, a CSV like --bank; default the package's."""

    def load_control(self) -> list[Question] | None:
        """All questions of the caller's own file; None for the package's."""
        return self.control_bank and load_questions(path=self.control_bank)
