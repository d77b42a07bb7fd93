"""Whole files: none is left half-written, and a table is read row by row or refused in one line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@contextmanager
def moved_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process's number keeps two that write the same file from writing into each other.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text; folders are made."""
    with moved_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class CsvTable:
    """A CSV file: every row has a cell for every column."""

    columns: tuple[str, ...]
    """The names in the first row."""
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    """Each row's number, counted from 1 at the names, and its column -> text, without spaces
    around it."""


def read_csv(path: str | os.PathLike[str]) -> CsvTable:
    """Read a CSV file in UTF-8, with commas, semicolons or tabs between its columns.

    Raises:
        ValueError: Names the file, and the row that has other cells than the names above it.
    """
    try:
        # Excel writes a byte order mark; csv itself minds the ends of lines.
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8; "
            "in Excel that is the type 'CSV UTF-8'."
        ) from error
    # Excel writes semicolons where a comma is the decimal mark.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        cells = [[cell.strip() for cell in row] for row in lines]
    except csv.Error as error:
        raise ValueError(
            f"'{path}', line {lines.line_num}: {error}. Is a double quote missing or left over?"
        ) from error
    columns = tuple(cells[0]) if cells else ()
    if len(set(columns)) < len(columns):
        raise ValueError(f"'{path}' has a column twice: {', '.join(columns)}. Name them apart.")
    rows = [(number, row) for number, row in enumerate(cells[1:], start=2) if any(row)]
    for number, row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"'{path}', row {number}: {len(row)} cells under {len(columns)} columns. Put a "
                f"text that holds {delimiter!r} into double quotes."
            )
    return CsvTable(columns, tuple((n, dict(zip(columns, row, strict=True))) for n, row in rows))


def bank_folder() -> Path:
    """The bank's folder: inside an installed wheel, beside the package in a checkout."""
    spec = find_spec("kb_lens")
    package = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent
    installed = package / "_question_bank"
    return installed if installed.is_dir() else package.parent / "question_bank"
