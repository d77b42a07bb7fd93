"""The bias-knowledge questions: read, checked, and drawn as balanced nested subsets.

First step of the method (paper, section 3.1): yes/no questions with a known right answer, in
three kinds for each dimension.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kb_lens.files import bank_folder as bank_folder
from kb_lens.files import read_csv

KINDS = ("causal_rejection", "bias_recognition", "normative_judgment")
"""The paper's three question types."""
UNSPECIFIED = "unspecified"
"""The kind of a question of which nobody has said it."""
DIMENSIONS = ("gender", "race", "religion")
"""The paper's three dimensions: the default."""
LANGUAGES = ("en", "es", "de", "zh")
"""English, Spanish, German, Chinese (simplified): the languages that the bank comes in."""
_ENGLISH_ONLY = (
    *("age", "disability", "nationality", "sexual_orientation", "socioeconomic"),
    *("physical_appearance", "intersectional", "safety", "control"),
)
BANK = dict.fromkeys(LANGUAGES, (*DIMENSIONS, "culture")) | {"en": (*DIMENSIONS, *_ENGLISH_ONLY)}
"""Language -> the dimensions that the bank has in it, a file each. ``safety`` asks about harm,
``control`` about plain facts, ``culture`` about stereotypes of the language's cultures."""
COLUMNS = ("id", "dimension", "kind", "concept", "text", "answer")
"""The columns of a file of questions."""
_RELEASE_COLUMNS = {"gold", "bias_cat", "concept", "question"}
_DEFAULT_CONCEPTS = 5
"""A dimension and kind unless told otherwise: 45 questions take a minute on two CPU cores."""

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
    """The social dimension that it asks about: one of `BANK`, or your own."""
    kind: str = "bias_recognition"
    """The type of question: one of `KINDS`, or your own."""
    concept: str = ""
    """What the question is about (``mathematics``); shared by a concept's three kinds."""
    id: str = ""
    """A name that is unique in its bank."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a question's text is empty.")
        if self.answer not in get_args(Answer):
            raise ValueError(f"answer is {self.answer!r}: allowed are 'yes' and 'no'.")
        for name in ("dimension", "kind"):
            if not getattr(self, name).strip():
                raise ValueError(f"a question's {name} is empty.")


def load_questions(
    n: int | Literal["default"] | None = "default",
    *,
    dimension: str | Iterable[str] | None = None,
    kind: str | Iterable[str] | None = None,
    language: str = "en",
    path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
) -> list[Question]:
    """Read questions from the bank, as a balanced subset.

    Of each dimension and kind come equally many questions, in the order of the file, so a larger
    `n` contains a smaller one. With a filter the cells that are left share `n` evenly:
    ``dimension="gender"`` alone has three cells.

    Args:
        n: How many; None for all. The default is 5 concepts a cell (45 of the whole bank, 15 of
            one dimension), and of a file of your own all rows.
        dimension: One dimension or several of `BANK`; default ``gender``, ``race`` and
            ``religion``, or with `path` all in the file.
        kind: One kind or several; default all three.
        language: One of `LANGUAGES`; the instruction and the answers stay English.
        path: A CSV file of your own (or several): the bank's columns, or the columns of the
            authors' release. Default: the bank that comes with kb_lens.

    Returns:
        The questions, by dimension, then kind, then concept.

    Raises:
        ValueError: For a missing or malformed file (row and column are named), an unknown
            dimension, kind or language, or an `n` that is no multiple of the number of cells.
    """
    dimensions = _listed(dimension)
    files = _bank_files(dimensions, language) if path is None else _files(path)
    questions = [question for file in dict.fromkeys(files) for question in read_bank(file)]
    cells = _cells(questions, dimensions, _listed(kind))
    if n == "default":
        n = None if path is not None else _DEFAULT_CONCEPTS * len(cells)
    size = None if n is None else _cell_size(n, cells)
    return [question for cell in cells for question in cell[:size]]


def _cell_size(n: int, cells: Sequence[Sequence[Question]]) -> int:
    """How many questions of each cell make `n`."""
    size, rest = divmod(n, len(cells))
    smallest = min(len(cell) for cell in cells)
    if rest or not 1 <= size <= smallest:
        raise ValueError(
            f"n is {n}: {len(cells)} cells (dimension x kind) share the questions evenly, so "
            f"allowed are the multiples of {len(cells)} up to {len(cells) * smallest}, "
            "or None for all."
        )
    return size


def read_bank(path: str | os.PathLike[str]) -> list[Question]:
    """Read one CSV file in the bank's format or that of the authors' release.

    Raises:
        ValueError: Names the file, and for a malformed row its number and column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no such question file: '{path}'.")
    table = read_csv(path)
    release = _RELEASE_COLUMNS.issubset(table.columns)
    if not release and (missing := [name for name in COLUMNS if name not in table.columns]):
        raise ValueError(
            f"'{path}' lacks the column {missing[0]!r}. Needed: {', '.join(COLUMNS)}; or the "
            f"columns of the authors' release: {', '.join(sorted(_RELEASE_COLUMNS))}."
        )
    rows = table.rows
    if not rows:
        raise ValueError(f"'{path}' has no rows.")
    if release:
        return _from_release(path, rows)
    questions = [_question(path, number, row) for number, row in rows]
    _check_unique(path, questions)
    return questions


def _bank_files(dimensions: list[str] | None, language: str) -> list[Path]:
    """The bank's file of each dimension."""
    if language not in BANK:
        raise ValueError(f"language is {language!r}: allowed are {', '.join(BANK)}.")
    if dimensions is None:
        dimensions = list(DIMENSIONS)
    if unknown := [dimension for dimension in dimensions if dimension not in BANK[language]]:
        raise ValueError(
            f"no dimension {unknown[0]!r}: in {language} there are {', '.join(BANK[language])}."
        )
    folder = bank_folder() if language == "en" else bank_folder() / language
    return [folder / f"{dimension}.csv" for dimension in dimensions]


def _files(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(path, str | os.PathLike):
        return [Path(path)]
    return [Path(file) for file in path]


def _listed(value: str | Iterable[str] | None) -> list[str] | None:
    """One value or several as a list, each once; None stays None."""
    if value is None:
        return None
    return [value] if isinstance(value, str) else list(dict.fromkeys(value))


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


def _question(path: Path, number: int, row: Mapping[str, str]) -> Question:
    return _build(path, number, {column: row[column] for column in COLUMNS}, needed=COLUMNS)


def _build(path: Path, number: int, fields: Mapping[str, str], needed: Iterable[str]) -> Question:
    for column in needed:
        if not fields[column]:
            raise ValueError(f"'{path}', row {number}, column {column!r}: empty.")
    if fields["answer"] not in get_args(Answer):
        raise ValueError(
            f"'{path}', row {number}, column 'answer': got {fields['answer']!r}, allowed are "
            f"{', '.join(get_args(Answer))}."
        )
    return Question(**cast(dict[str, Any], fields))


def _check_unique(path: Path, questions: Sequence[Question]) -> None:
    for column in ("id", "text"):
        seen: dict[str, int] = {}
        for number, question in enumerate(questions, start=2):
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
        fields = {
            "id": f"release-{dimension}-{index}",
            "dimension": dimension,
            "kind": _kind_in_thirds(index, totals[dimension]),
            "concept": row["concept"],
            "text": row["question"],
            "answer": row["gold"],
        }
        questions.append(_build(path, number, fields, needed=("dimension", "text")))
    return questions


def _kind_in_thirds(index: int, total: int) -> str:
    # A file of another length is not laid out as the authors' file is.
    return UNSPECIFIED if total % len(KINDS) else KINDS[index * len(KINDS) // total]
