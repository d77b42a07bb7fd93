"""Read the rows of a benchmark's file and check them.

A bad row is an error that names file, line and column, since skipping items silently would change
the benchmark.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb_lens.rows import (
    EncodingError,
    csv_records,
    json_value,
    read_utf8,
    shown,
    text_lines,
)


@dataclass(frozen=True)
class Row:
    """One row of a source, with its place for error messages."""

    cells: Mapping[str, Any]
    """Column -> value, as in the source."""

    where: str
    """File and line, or data set and row."""

    def error(self, column: str, expected: str) -> ValueError:
        """The error to raise if `column` is not as expected."""
        got = f"no such column (there are {shown(list(self.cells))})"
        if column in self.cells:
            got = shown(self.cells[column])
        return ValueError(
            f"{self.where}: column {column!r} must be {expected}, got {got}. Repair the row."
        )

    def text(self, column: str) -> str:
        """The text in `column` without spaces around it; ValueError if there is none."""
        value = self.cells.get(column)
        if not isinstance(value, str) or not value.strip():
            raise self.error(column, "a text that is not empty")
        return value.strip()

    def one_of(self, column: str, allowed: Sequence[str]) -> str:
        """The value in `column`, which must be one of `allowed`."""
        value = self.cells.get(column)
        if value not in allowed:
            # Allowed values from the row itself may be long and have line breaks.
            names = (" ".join(name.split())[:60] for name in allowed)
            raise self.error(column, "one of " + ", ".join(names))
        return str(value)

    def whole_number(self, column: str) -> int:
        """The number in `column`; ValueError unless it is whole and at least 0."""
        value = self.cells.get(column)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(column, "a whole number of at least 0")
        return value


Reader = Callable[[Path], Iterable[Row]]
"""Reads a file into rows in the authors' published format."""


def read_file(reader: Reader, path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        ValueError: If it is not a file of UTF-8 text, or a row is not as expected.
    """
    try:
        return list(reader(path))
    except EncodingError as error:
        raise ValueError(
            f"{path}: cannot be read as UTF-8 text ({error.reason}). Save it as UTF-8."
        ) from error


def read_jsonl(path: Path) -> Iterable[Row]:
    """Rows of a file with one JSON object a line; blank lines are ignored."""
    for number, line in text_lines(read_utf8(path)):
        yield Row(_json_object(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json_object(line: str, origin: str) -> dict[str, Any]:
    try:
        value = json_value(line)
    except ValueError as error:
        raise ValueError(f"{origin}: not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{origin}: must be a JSON object, got {type(value).__name__}.")
    return value


def read_csv(path: Path) -> Iterable[Row]:
    """Rows of a CSV file; the line is where a row begins."""
    columns, records = csv_records(path)
    for record in records:
        where = f"{path}, line {record.line}"
        n_cells = len(record.cells)
        if n_cells > len(columns):
            raise ValueError(
                f"{where}: more cells than the header has columns ({n_cells}, not {len(columns)}). "
                "Put a text that has a comma, semicolon or tab between double quotes."
            )
        if n_cells < len(columns):
            raise ValueError(
                f"{where}: column {shown(columns[n_cells])} must be a text or empty, got no cell: "
                f"the row has {n_cells} cells for {len(columns)} columns. Repair the row."
            )
        yield Row(dict(zip(columns, record.cells, strict=True)), where)


def hub_rows(dataset: Any, name: str) -> Iterable[Row]:
    """Rows of a ``datasets.Dataset``."""
    for number, values in enumerate(dataset):
        yield Row(values, f"{name}, row {number}")


def item_key(*texts: str) -> str:
    """A key that depends only on the item's texts, so it is the same from every source."""
    # No text has the unit separator, so different lists of texts are joined differently.
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def item_keys(texts: Sequence[tuple[str, ...]]) -> list[str]:
    """A key for each item from its texts; repetitions are numbered."""
    seen: Counter[str] = Counter()
    keys = []
    for columns in texts:
        key = item_key(*(text.strip() for text in columns))
        seen[key] += 1
        keys.append(key if seen[key] == 1 else f"{key}-{seen[key]}")
    return keys
