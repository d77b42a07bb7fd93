"""A chat as text and as tokens, by the checkpoint's own template, the same on every day.

A template is a program that comes with the checkpoint. It may drop texts, open a block of thoughts
or write today's date; each of these is handled or refused here.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from kb_lens.models.template_syntax import variables_read
from kb_lens.models.time_limit import LimitError, limited

DATE = "2024-07-26"
"""The date for templates that write it: the one of Llama 3.1's template without a clock."""

_SWITCHES = {"enable_thinking": False, "thinking": False, "reasoning": False, "thinking_budget": 0}
"""Names of the switch of thinking in templates, with the value for off: Qwen's and most; Granite's
and DeepSeek's; Cohere's; Seed's."""

_DATED = (
    "{% macro strftime_now(format) %}{% set date = namespace(text=format) %}"
    "{% for code, text in date_codes.items() %}"
    "{% set date.text = date.text.replace(code, text) %}"
    "{% endfor %}{{ date.text }}{% endmacro %}\n"  # the newline is trimmed, the template's is not
)
"""Put before a template, it hides the clock of transformers. It is a macro because transformers
passes only plain data to a template, not Python functions."""

_DATE_CODES = "aAbBcCdDeFgGhHIjmMprRSTuUVwWxXyY"
"""The letters that C99 allows after ``%``."""

_THOUGHT = re.compile(
    r"(?P<left><\|?|\[|◁)(?P<name>(?:[a-z]+[:_])*(?:think|thinking|thoughts?|reasoning))"
    r"(?P<right>\|?>|\]|▷)[^<\[◁]*\Z",
    re.IGNORECASE,
)
"""The tag that opens a block of thoughts, with no other tag between it and the end."""

_CHANNELS = {
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel>thought": "<channel|>",
    "Here are my reasoning steps:": "\n[BEGIN FINAL RESPONSE]\n",
}
"""Openings of thoughts that are not tags (gpt-oss, Gemma 4, Apriel), and what starts the answer."""

# a template takes less than 1 ms, the first time about 10 ms; a busy machine may stall
_SECONDS = 5.0
"""How long a template may take."""
_MEMORY = 256 << 20
"""Bytes of memory that a template may take."""
_ADDED = 1_000_000
"""Characters that a template may add to the chat; tools and rules take about ten thousand."""

Turns = Sequence[tuple[str, str]]
"""(role, text) of each turn of a chat."""


@dataclass(frozen=True)
class ChatFormat:
    """How a chat template is rendered, apart from the chat itself. It is hashable."""

    options: tuple[tuple[str, Any], ...] = ()
    """Variables of the template and their values. ``enable_thinking`` is False by default, by
    whatever name the template has for it, since the answer is read where the prompt ends."""
    date: str = DATE
    """The date that the template takes as today, as YYYY-MM-DD."""

    def __post_init__(self) -> None:
        options = {"enable_thinking": False, **dict(self.options)}
        for name, value in options.items():
            if not isinstance(value, bool | int | float | str | None):
                raise ValueError(
                    f"the template option {name!r} is {value!r}: allowed are true, false, null, "
                    "numbers and texts."
                )
            if name in ("messages", "add_generation_prompt"):
                raise ValueError(f"the template option {name!r} is set by kb_lens: leave it out.")
        object.__setattr__(self, "options", tuple(sorted(options.items())))
        try:
            datetime.strptime(self.date, "%Y-%m-%d")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"date is {self.date!r}: write the day as YYYY-MM-DD, for example {DATE}."
            ) from error

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers."""
        return any(value for name, value in self.options if name in _SWITCHES)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Every variable that is passed to a template."""
        today = datetime.strptime(self.date, "%Y-%m-%d")  # at midnight, for templates with hours
        codes = {f"%{letter}": today.strftime(f"%{letter}") for letter in _DATE_CODES}
        # ``%-d`` is ``%d`` without its zero; not every platform's strftime knows it.
        short = {code.replace("%", "%-"): text.lstrip("0") or "0" for code, text in codes.items()}
        # A thinking budget is a number: the template's own, unless the caller gives one.
        on = {name: True for name, off in _SWITCHES.items() if off is False}
        return {
            "date_codes": {**codes, **short},
            "date_string": today.strftime("%d %b %Y"),  # as Llama 3.1's template reads it
            **(on if self.thinks else _SWITCHES),
            **{name: value for name, value in self.options if value or name != "enable_thinking"},
        }

    def to_json(self) -> dict[str, Any]:
        """As ``results.json`` records it."""
        return {"options": dict(self.options), "date": self.date}


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(
    tokenizer: Any,
    system: str,
    user: str,
    chat_format: ChatFormat | None = None,
    turns: Turns = (),
) -> str:
    """A chat as text, up to where the model's answer begins, with special tokens.

    Without a chat template it is plain text that ends in ``Answer:``. If a template refuses or
    drops a text, it is put into the user's text. If a template opens a block of thoughts, the
    block is closed, unless thinking is on.

    Args:
        tokenizer: The model's.
        system: The system text; none if empty.
        user: Everything that the user says, in one text.
        chat_format: How the template is rendered.
        turns: The same as `user` in several turns, for templates that take them.

    Raises:
        ValueError: If the template fails, takes too long, writes too much, drops the user's text,
            or does not read an option.
    """
    chat_format = chat_format or ChatFormat()
    if not has_template(tokenizer):
        _check_options(chat_format, frozenset(), "")
        return f"{_below(system, user)}\nAnswer:"
    fault = ""
    for form in _forms(system, user, turns):
        try:
            text, read = limited(partial(_render, tokenizer, form, chat_format), _SECONDS, _MEMORY)
        except LimitError as error:
            fault = str(error)
            break  # the other forms would take as long
        except Exception as error:  # foreign code may raise anything
            fault = f"fails with {type(error).__name__}: {error}"
            continue
        if role := _lost(text, form):
            fault = f"does not write the {role}'s text into the prompt"
            continue
        _check_options(chat_format, read, text)
        return text if chat_format.thinks else text + _closing(text)
    raise ValueError(
        f"the chat template of {getattr(tokenizer, 'name_or_path', '')!r} "
        f"{' '.join(fault.split())}. Correct the template, or remove it: then the prompt is "
        "plain text."
    )


def token_ids(tokenizer: Any, text: str, *, templated: bool = False) -> list[int]:
    """The tokens of a text that will be continued: no EOS or SEP at its end.

    Args:
        tokenizer: The model's.
        text: A prompt.
        templated: Whether a chat template wrote it, which adds its own BOS. Other texts get
            what the tokenizer puts before a text (`leading_ids`), once.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    leading = [] if templated else leading_ids(tokenizer)
    return ids if ids[: len(leading)] == leading else leading + ids


def leading_ids(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text: mostly BOS or nothing.

    What it puts after a text, EOS or SEP, belongs to finished texts.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    starts = range(len(ids) - len(bare) + 1)
    return ids[: next((k for k in starts if ids[k : k + len(bare)] == bare), 0)]


def _forms(system: str, user: str, turns: Turns) -> Iterator[Turns]:
    """The forms of the same chat, the best first."""
    alone = (("user", user),)
    for chat in (turns, alone) if turns else (alone,):
        if system.strip():
            yield ("system", system), *chat
        yield ("user", _below(system, chat[0][1])), *chat[1:]


def _below(system: str, user: str) -> str:
    return f"{system}\n\n{user}" if system.strip() else user


def _render(tokenizer: Any, turns: Turns, chat_format: ChatFormat) -> tuple[str, frozenset[str]]:
    """The text that the template writes, and the names that it reads."""
    template = tokenizer.get_chat_template()
    read = variables_read(template)
    offered = read
    if "strftime_now" in read:
        template, offered = _DATED + template, read | {"date_codes"}
    variables = {name: value for name, value in chat_format.variables.items() if name in offered}
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        **variables,
    )
    # Checked at once: reading gigabytes of text takes time as well.
    if len(text) > _ADDED + 10 * sum(len(content) for _, content in turns):
        raise LimitError(f"writes {len(text):,} characters")
    return text, read


def _check_options(chat_format: ChatFormat, read: frozenset[str], text: str) -> None:
    if not read.isdisjoint(_SWITCHES) or _closing(text):
        read |= {"enable_thinking"}  # it is passed by the template's own name for it
    for name, value in chat_format.options:
        if name not in read and (name, value) != ("enable_thinking", False):
            raise ValueError(
                f"the chat template reads no option {name!r}, so it would change nothing. Its "
                f"variables are {', '.join(sorted(read)) or 'none'}."
            )


def _lost(text: str, turns: Turns) -> str | None:
    """The role whose text is not in the rendered one, or None.

    The turns must be in order. The system text may be anywhere but inside a turn.
    """
    rest = _comparable(text)
    start = 0
    for role, content in sorted(turns, key=lambda turn: turn[0] == "system"):
        content = _comparable(content)
        position = rest.find(content, 0 if role == "system" else start)
        if position < 0:
            return role
        start = position + 1
        rest = f"{rest[:position]}\0{rest[position + len(content) :]}"
    return None


def _comparable(text: str) -> str:
    """A text without the changes that templates make: spaces, case, HTML and JSON escapes."""
    return re.sub(r"\\[nrt]|[\s\\]", "", html.unescape(text)).casefold()


def _closing(text: str) -> str:
    """What closes the block of thoughts at the text's end; empty if there is none."""
    for opening, closing in _CHANNELS.items():
        if text.rstrip().endswith(opening):
            return closing
    match = _THOUGHT.search(text)
    if match is None or match["name"].lower().startswith(("end", "no_")):
        return ""
    name = re.sub(r"^start|^begin", "end", match["name"], flags=re.IGNORECASE)
    if name == match["name"]:
        name = f"/{name}"
    elif match["name"].isupper():
        name = name.upper()
    # As in the empty block that templates with a switch write, with an empty line before it.
    newlines = "\n" * (2 - len(text) + len(text.rstrip("\n")))
    return f"{newlines}{match['left']}{name}{match['right']}\n\n"
