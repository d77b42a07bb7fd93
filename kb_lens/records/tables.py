"""Tables as parquet and CSV: each names its model, and its columns are checked when it is read."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kb_lens.files import moved_whole, shared_name, write_text
from kb_lens.models.digests import same_weights
from kb_lens.records.objects import parsed, short

Kind = Literal["number", "count", "text", "any"]
"""What a column of a table holds. A number may be missing, a count is a whole number from 0."""

_METADATA = b"kb_lens"
"""The key of our JSON in the metadata of a parquet file's schema."""
_WHOSE = ("model", "fingerprint")
_RUN_BY_SPREADSHEETS = re.compile(r"'*[=+\-@\t\r\n|%]")
"""Beginnings of a cell that Excel and LibreOffice may take for a formula, or that were escaped."""


@dataclass(frozen=True)
class Belongs:
    """The model that a file belongs to."""

    model: str = ""
    """The model's name."""
    fingerprint: str = ""
    """The model's weights (`kb_lens.models.hooked.fingerprint`); empty if it is not known."""

    def __str__(self) -> str:
        whose = f"{self.model or 'a model'} (weights {self.fingerprint or 'unknown'})"
        return " ".join(whose.split())  # one line in a message, whatever a file says

    @classmethod
    def of(cls, source: Any) -> Belongs:
        """The model of something that has a ``model`` and its ``fingerprint``."""
        return cls(source.model, source.fingerprint)

    @classmethod
    def stated_in(cls, settings: Mapping[str, Any]) -> Belongs:
        """The model of settings; ValueError unless ``model`` and ``fingerprint`` are texts."""
        stated = {name: settings.get(name) or "" for name in _WHOSE}
        for name, text in stated.items():
            if not isinstance(text, str):
                raise ValueError(f"settings.{name} must be a text, got {short(text)}")
        return cls(**stated)

    def may_be(self, other: Belongs) -> bool:
        """Whether both are of one model, as far as they state it."""
        if self.fingerprint and other.fingerprint:
            return same_weights(self.fingerprint, other.fingerprint)
        # older files have the whole path of a model
        return len({shared_name(name) for name in (self.model, other.model) if name}) < 2

    def check(self, other: Belongs, name: str, beside: str = "what is beside it") -> None:
        """Refuse a file of another model.

        Args:
            other: The model that it should belong to.
            name: The file, for the message.
            beside: What belongs to `other`, for the message.

        Raises:
            ValueError: If the weights differ, or the names if the weights are not known.
        """
        if not self.may_be(other):
            raise ValueError(
                f"{name} is of {self}, but {beside} is of {other}. Keep each model's results in "
                "a folder of its own."
            )


def table_to_bytes(table: pd.DataFrame, about: Any) -> bytes:
    """A table as a parquet file, with JSON data about it in the metadata of its schema."""
    columns = pa.Table.from_pandas(table)
    # beside the types and the index, which pandas writes there
    metadata = {**(columns.schema.metadata or {}), _METADATA: json.dumps(about)}
    file = io.BytesIO()
    pq.write_table(columns.replace_schema_metadata(metadata), file)
    return file.getvalue()


def write_parquet(path: str | os.PathLike[str], table: pd.DataFrame, about: Any) -> None:
    """Write `table_to_bytes` into a file; folders are made."""
    with moved_whole(path) as unfinished:
        unfinished.write_bytes(table_to_bytes(table, about))


def read_parquet(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, Any]:
    """Read a table and what was written about it; None where nothing was.

    Raises:
        ValueError: Names the file that is missing or damaged.
    """
    if not Path(path).is_file():
        raise ValueError(f"'{path}' is missing: the results that it belongs to are not complete.")
    return table_from_bytes(Path(path).read_bytes(), f"'{path}'")


def table_from_bytes(content: bytes, where: str = "the table") -> tuple[pd.DataFrame, Any]:
    """What `table_to_bytes` wrote; `where` names it in the `ValueError` if it is damaged."""
    try:
        columns = pq.read_table(pa.BufferReader(content))
        # Check now: a text that is not UTF-8 would fail later, when it is first used.
        columns.validate(full=True)
        table = columns.to_pandas()
    # pyarrow's errors, and Python's own if the metadata for pandas is damaged
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{where} is damaged: {_first_line(error)}.") from error
    metadata = (columns.schema.metadata or {}).get(_METADATA)
    return table, None if metadata is None else parsed(metadata, where)


def write_csv(
    path: str | os.PathLike[str], table: pd.DataFrame, belongs: Belongs | None = None
) -> None:
    """Write a table as CSV, with the columns ``model`` and ``fingerprint`` that say whose it is.

    A text that a spreadsheet would run as a formula gets an apostrophe before it; `read_table`
    removes it.
    """
    if belongs is not None:
        table = table.assign(model=belongs.model, fingerprint=belongs.fingerprint)
    write_text(path, table.map(_escaped).to_csv(index=False))


def read_table(
    path: str | os.PathLike[str], columns: Mapping[str, Kind]
) -> tuple[pd.DataFrame, Belongs]:
    """Read a table of `write_csv` without the columns that say whose it is.

    Args:
        path: The file.
        columns: The columns that it has to have. In a ``text`` column an empty cell or ``NA`` is a
            text, not a missing value.

    Raises:
        ValueError: Names the file, and the row or column.
    """
    table = _cells(Path(path))
    # files from before the two columns do not say whose they are
    whose = {
        name: "; ".join(sorted(set(table.pop(name)))) for name in _WHOSE if name in table.columns
    }
    for name in table.columns:
        if columns.get(name) != "text":
            table[name] = _values(pd.Series(table[name]))
    check_columns(table, columns, path)
    return table, Belongs(**whose)


def _cells(path: Path) -> pd.DataFrame:
    """The cells of a CSV file as texts."""
    if not path.is_file():
        raise ValueError(f"no such table: '{path}'.")
    try:
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' is not a table of kb_lens: {error}.") from error
    names, rows = (rows[0], rows[1:]) if rows else ([], [])
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' has a column twice: {short(', '.join(names))}.")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ValueError(f"'{path}', row {number}: {len(row)} cells for {len(names)} columns.")
    cells = [[_unescaped(cell) for cell in row] for row in rows]
    return pd.DataFrame(cells, columns=names, dtype="str")


def _values(column: pd.Series) -> pd.Series:
    """A column of texts as numbers or booleans, if all are; an empty cell is missing."""
    if len(column) and set(column) <= {"True", "False"}:
        return column == "True"
    try:
        return pd.Series(pd.to_numeric(column.replace("", None)))
    except ValueError:
        return column


def read_table_of(
    path: str | os.PathLike[str],
    columns: Mapping[str, Kind],
    whose: Belongs,
    beside: str = "what is beside it",
) -> pd.DataFrame:
    """Read a table that must belong to a model, see `read_table`.

    Raises:
        ValueError: Also if it is of another model.
    """
    table, stated = read_table(path, columns)
    stated.check(whose, f"'{path}'", beside)
    return table


def check_columns(
    table: pd.DataFrame, columns: Mapping[str, Kind], path: str | os.PathLike[str]
) -> None:
    """Refuse a table that lacks a column, or has something else in it.

    Raises:
        ValueError: Names the file and the column.
    """
    for name, kind in columns.items():
        if name not in table.columns:
            there = short(", ".join(map(str, table.columns)))
            raise ValueError(f"'{path}' has no column {name!r}; its columns: {there}.")
        if not _is_of_kind(table[name], kind):
            raise ValueError(f"'{path}', column {name!r}: every cell must be a {kind}.")


def _is_of_kind(values: Any, kind: Kind) -> bool:
    if kind == "any":
        return True
    if kind == "text":
        return all(isinstance(value, str) for value in values)
    # pandas counts booleans as numbers
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if kind == "count":
        return is_number and bool(((values >= 0) & (values % 1 == 0)).all())
    return bool(values.isna().all()) or (is_number and not bool(values.abs().eq(math.inf).any()))


def _escaped(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and _RUN_BY_SPREADSHEETS.match(cell)
    return f"'{cell}" if is_formula else cell


def _unescaped(cell: Any) -> Any:
    was_escaped = isinstance(cell, str) and cell[:1] == "'" and _RUN_BY_SPREADSHEETS.match(cell)
    return cell[1:] if was_escaped else cell


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
