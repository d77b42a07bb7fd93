"""The bias-knowledge questions: read, checked, and drawn as balanced nested subsets.

First step of the method (paper, section 3.1): yes/no questions with a known right answer, in
three kinds for each dimension.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kb_lens.files import bank_folder as bank_folder
from kb_lens.files import check_file_name, folded_name
from kb_lens.rows import CsvTable, check_is_file, read_csv, shown

KINDS = ("causal_rejection", "bias_recognition", "normative_judgment")
"""The paper's three question types."""
UNSPECIFIED = "unspecified"
"""The kind of a question from a file that does not state it."""
DIMENSIONS = ("gender", "race", "religion")
"""The paper's three dimensions: the default."""
LANGUAGES = ("en", "es", "de", "zh")
"""English, Spanish, German, Chinese (simplified): the languages that the bank comes in."""
_ENGLISH_ONLY = (
    *("age", "disability", "nationality", "sexual_orientation", "socioeconomic"),
    *("physical_appearance", "intersectional", "safety", "control"),
)
BANK = dict.fromkeys(LANGUAGES, (*DIMENSIONS, "culture")) | {"en": (*DIMENSIONS, *_ENGLISH_ONLY)}
"""Language -> its dimensions in the bank, one file each. ``safety`` asks about harm,
``control`` about plain facts, ``culture`` about stereotypes of the language's cultures."""
COLUMNS = ("id", "dimension", "kind", "concept", "text", "answer")
"""The columns of a file of questions."""
_RELEASE_COLUMNS = {
    "answer": "gold",
    "dimension": "bias_cat",
    "concept": "concept",
    "text": "question",
}
"""Their names in the authors' release, which has no kind and no id."""
_DEFAULT_CONCEPTS = 5
"""Concepts for each dimension and kind: the 45 questions take a minute on two CPU cores."""

Answer = Literal["yes", "no"]
"""The right answer to a question."""


@dataclass(frozen=True)
class Question:
    """One yes/no question with its right answer."""

    text: str
    """The question itself, without instruction or template."""
    answer: Answer
    """The right answer."""
    dimension: str
    """The social dimension that it asks about: one of `BANK`, or your own. Files are named
    after it."""
    kind: str = "bias_recognition"
    """The type of question: one of `KINDS`, or your own."""
    concept: str = ""
    """What the question is about (``mathematics``); shared by a concept's three kinds."""
    id: str = ""
    """A name that is unique in its bank."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"a question's {name} must be a text, got {shown(value)}.")
            if name in ("text", "dimension", "kind") and not value.strip():
                raise ValueError(f"a question's {name} is empty.")
        if self.answer not in get_args(Answer):
            raise ValueError(f"answer is {shown(self.answer)}: allowed are 'yes' and 'no'.")
        check_file_name(self.dimension, "dimension")


def load_questions(
    n: int | Literal["default"] | None = "default",
    *,
    dimension: str | Iterable[str] | None = None,
    kind: str | Iterable[str] | None = None,
    language: str = "en",
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> list[Question]:
    """Read questions from the bank, as a balanced subset.

    Each dimension and kind (a cell) gives equally many questions, in the order of the file, so a
    larger set contains a smaller one. With a filter the cells that are left share `n` evenly:
    ``dimension="gender"`` has three cells.

    Args:
        n: Number of questions; None for all. The default is 5 concepts a cell (45 questions, or 15
            of one dimension), and all rows of a file of your own.
        dimension: One dimension or several of `BANK`. Default: ``gender``, ``race`` and
            ``religion``, or with `path` all in the file.
        kind: One kind or several; default all three.
        language: One of `LANGUAGES`; the instruction and the answers stay English.
        path: A CSV file of your own (or several): the bank's columns, or the columns of the
            authors' release. Default: the bank that comes with kb_lens.

    Returns:
        The questions, by dimension, then kind, then concept.

    Raises:
        ValueError: For a missing or malformed file (row and column are named), dimensions that
            differ only in case, an unknown dimension, kind or language, or an `n` that is not
            a multiple of the number of cells.
    """
    dimensions, kinds = _listed("dimension", dimension), _listed("kind", kind)
    if language not in LANGUAGES:
        raise ValueError(f"language is {shown(language)}: allowed are {', '.join(LANGUAGES)}.")
    files = _bank_files(dimensions, language) if path is None else _files(path)
    questions = [question for file in dict.fromkeys(files) for question in read_bank(file)]
    _check_dimensions(files, questions)
    cells = _cells(questions, dimensions, kinds)
    if n == "default":
        n = None if path is not None else _DEFAULT_CONCEPTS * len(cells)
    size = None if n is None else _cell_size(n, cells)
    return [question for cell in cells for question in cell[:size]]


def _cell_size(n: object, cells: Sequence[Sequence[Question]]) -> int:
    """How many questions of each cell make `n`."""
    smallest = min(len(cell) for cell in cells)
    # Not isinstance: True would be one question.
    size, rest = divmod(n, len(cells)) if type(n) is int else (0, 0)
    if rest or not 1 <= size <= smallest:
        raise ValueError(
            f"n is {shown(n)}: {len(cells)} cells (dimension x kind) share the questions evenly, "
            f"so allowed are the multiples of {len(cells)} up to {len(cells) * smallest}, "
            "or None for all."
        )
    return size


def read_bank(path: str | os.PathLike[str]) -> list[Question]:
    """Read one CSV file in the bank's format or that of the authors' release.

    Raises:
        ValueError: Names the file, and for a malformed row its number and column.
    """
    path = check_is_file(path, "question file")
    table = read_csv(path)
    release = set(_RELEASE_COLUMNS.values()).issubset(table.columns)
    _check_columns(path, table, release)
    if release:
        return _from_release(path, table.rows)
    columns = {column: column for column in COLUMNS}
    questions = [_build(path, number, row, columns) for number, row in table.rows]
    _check_unique(path, [number for number, _ in table.rows], questions)
    return questions


def _check_columns(path: Path, table: CsvTable, release: bool) -> None:
    if not table.columns:
        raise ValueError(f"'{path}' is empty. It needs the columns {', '.join(COLUMNS)}.")
    if {"prompt", "target"}.issubset(table.columns):
        raise ValueError(
            f"'{path}' has completions, not yes/no questions: read it with kb.load_completions."
        )
    if not release and (missing := [name for name in COLUMNS if name not in table.columns]):
        raise ValueError(
            f"'{path}' lacks the column {missing[0]!r}; it has {shown(', '.join(table.columns))}. "
            f"Needed: {', '.join(COLUMNS)}; or the columns of the authors' release: "
            f"{', '.join(sorted(_RELEASE_COLUMNS.values()))}."
        )
    if not table.rows:
        raise ValueError(f"'{path}' has no rows below its columns' names. Add a question.")


def _bank_files(dimensions: list[str] | None, language: str) -> list[Path]:
    """The bank's file of each dimension."""
    if dimensions is None:
        dimensions = list(DIMENSIONS)
    if unknown := [dimension for dimension in dimensions if dimension not in BANK[language]]:
        raise ValueError(
            f"no dimension {unknown[0]!r}: in {language} there are {', '.join(BANK[language])}."
        )
    folder = bank_folder() if language == "en" else bank_folder() / language
    return [folder / f"{dimension}.csv" for dimension in dimensions]


def _files(path: object) -> list[Path]:
    files: list[Any] = [path]
    if isinstance(path, Iterable) and not isinstance(path, str | os.PathLike):
        files = list(path)
    if not files:
        raise ValueError("path names no file: give a question file or several, or None.")
    return [check_is_file(file, "question file") for file in files]


def _listed(option: str, value: object) -> list[str] | None:
    """The names in an option as a list, each once; None stays None."""
    if value is None:
        return None
    names: list[Any] = [value] if isinstance(value, str) else []
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        names = list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(
            f"{option} is {shown(value)}: give a name or several of them, or None for the default."
        )
    return list(dict.fromkeys(names))


def _check_dimensions(files: Sequence[Path], questions: Sequence[Question]) -> None:
    """Files are named after dimensions, and for macOS and Windows Race and race are one name."""
    spelled: dict[str, str] = {}
    for dimension in dict.fromkeys(question.dimension for question in questions):
        first = spelled.setdefault(folded_name(dimension), dimension)
        if first != dimension:
            raise ValueError(
                f"'{', '.join(map(str, files))}': the dimensions {first!r} and {dimension!r} "
                "differ only in case or in how their characters are stored, and would share a "
                "file. Spell them alike, or as two names."
            )


def _cells(
    questions: Sequence[Question], dimensions: list[str] | None, kinds: list[str] | None
) -> list[list[Question]]:
    """The questions of each (dimension, kind), in the order of the file."""
    present = list(dict.fromkeys(question.dimension for question in questions))
    # The bank's kinds in their order, then those of a file of the caller's own.
    all_kinds = list(dict.fromkeys([*KINDS, *(question.kind for question in questions)]))
    for name, wanted, allowed in (("dimension", dimensions, present), ("kind", kinds, all_kinds)):
        if unknown := [value for value in wanted or () if value not in allowed]:
            raise ValueError(f"no {name} {unknown[0]!r}: there are {', '.join(allowed)}.")
    keys = product(dimensions or present, kinds or all_kinds)
    # In the order of the product, not of the file: the same call gives the same order everywhere.
    cells: dict[tuple[str, str], list[Question]] = {key: [] for key in keys}
    for question in questions:
        if (key := (question.dimension, question.kind)) in cells:
            cells[key].append(question)
    filled = [cell for cell in cells.values() if cell]
    if not filled:
        raise ValueError("no question is left: the filters on dimension and kind exclude all.")
    return filled


def _build(
    path: Path,
    number: int,
    row: Mapping[str, str],
    columns: Mapping[str, str],
    **further: str,
) -> Question:
    """The question of a row; `columns` names the columns of its fields, and the rest are given."""
    values = {field: row[column] for field, column in columns.items()} | further
    for field, column in columns.items():
        # Concepts of the release, whose rows have no id, may be empty.
        if not values[field] and (field != "concept" or "id" in columns):
            raise ValueError(f"'{path}', row {number}, column {column!r}: empty.")
    if values["answer"] not in get_args(Answer):
        raise ValueError(
            f"'{path}', row {number}, column {columns['answer']!r}: got "
            f"{shown(values['answer'])}, allowed are {', '.join(get_args(Answer))}."
        )
    try:
        return Question(**cast(dict[str, Any], values))
    except ValueError as error:
        column = columns["dimension"]
        raise ValueError(f"'{path}', row {number}, column {column!r}: {error}") from error


def _check_unique(path: Path, numbers: Sequence[int], questions: Sequence[Question]) -> None:
    for column in ("id", "text"):
        seen: dict[str, int] = {}
        for number, question in zip(numbers, questions, strict=True):
            value = getattr(question, column)
            if value in seen:
                raise ValueError(
                    f"'{path}', row {number}, column {column!r}: repeats row {seen[value]}."
                )
            seen[value] = number


def _from_release(path: Path, rows: Sequence[tuple[int, Mapping[str, str]]]) -> list[Question]:
    """The release's format has no kind: a dimension's thirds are the three kinds, in order."""
    totals = Counter(row["bias_cat"] for _, row in rows)
    seen: Counter[str] = Counter()
    questions: list[Question] = []
    for number, row in rows:
        dimension = row["bias_cat"]
        index = seen[dimension]
        seen[dimension] += 1
        kind = _kind_in_thirds(index, totals[dimension])
        name = f"release-{dimension}-{index}"
        questions.append(_build(path, number, row, _RELEASE_COLUMNS, kind=kind, id=name))
    return questions


def _kind_in_thirds(index: int, total: int) -> str:
    # A file of another length is not laid out as the authors' file is.
    return UNSPECIFIED if total % len(KINDS) else KINDS[index * len(KINDS) // total]
