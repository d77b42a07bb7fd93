"""Read CSV files and JSON lines; a malformed file raises one line that says what is wrong."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

_LONGEST = 200
"""Characters of a value in an error message: enough to recognize it, and still one line."""


class EncodingError(ValueError):
    """A file is not UTF-8 text."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(
            f"'{path}' is not UTF-8 text ({reason}). Save it as UTF-8; in Excel that is the type "
            "'CSV UTF-8'."
        )
        self.line = line
        """The line that is not UTF-8, from 1."""
        self.reason = reason
        """What is wrong in that line, and which encoding the file seems to have."""


def check_is_file(path: object, what: str) -> Path:
    """The path of a file that can be opened.

    Args:
        path: A text or path.
        what: The kind of file that is needed, for the message: ``question file``.

    Raises:
        ValueError: If it is not a path, or there is no regular file.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ValueError(f"the path of a {what} must be a text or a path, got {path!r}.")
    path = Path(path)
    if path_exists(path) and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"'{path}' is {kind}: give a {what}.")
    if not path.is_file():
        raise ValueError(f"no such {what}: '{path}'.")
    return path


def path_exists(path: Path) -> bool:
    """Whether anything is there; ValueError where that cannot be told."""
    try:
        return path.exists()
    except OSError as error:  # a folder without read permission, or a name that is too long
        raise ValueError(f"'{path}' cannot be read: {error.strerror}.") from error


def read_utf8(path: str | os.PathLike[str], what: str = "text file") -> str:
    """The text of a file, without the byte order mark that some editors write.

    Raises:
        EncodingError: If it is not UTF-8.
        ValueError: As `check_is_file`, or if the file cannot be read.
    """
    path = check_is_file(path, what)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"'{path}' cannot be read: {error.strerror}. Check its permissions and its disk."
        ) from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise EncodingError(path, 1, "it seems to be UTF-16: its first two bytes say so")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Without the three bytes of a byte order mark, which the error's position leaves out.
        start = error.start + 3 * data.startswith(b"\xef\xbb\xbf")
        line = len(data[: start + 1].splitlines())
        reason = f"perhaps cp1252: line {line} has the byte 0x{data[start]:02x}"
        raise EncodingError(path, line, reason) from error
    if "\0" in text:
        line = len(data[: data.index(0) + 1].splitlines())
        raise EncodingError(path, line, f"line {line} has a NUL byte; perhaps it is UTF-16")
    return text


@dataclass(frozen=True)
class CsvTable:
    """A CSV file: every row has a cell for every column."""

    columns: tuple[str, ...]
    """The names in the first row."""
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    """Each row's number, counted from 1 at the names, and its column -> text, without spaces
    around it unless they were asked for."""


class CsvRecord(NamedTuple):
    """A row of a CSV file that is not blank."""

    row: int
    """Its number as a spreadsheet shows it, from 1."""
    line: int
    """The line that it begins in as an editor shows it, from 1."""
    cells: tuple[str, ...]
    """Its texts, without spaces around them unless they were asked for."""


def read_csv(
    path: str | os.PathLike[str], what: str = "CSV file", *, strip: bool = True
) -> CsvTable:
    """Read a CSV file in UTF-8, with commas, semicolons or tabs between its columns.

    Args:
        path: The file.
        what: The kind of file, for messages.
        strip: Whether spaces around a cell's text are left out.

    Raises:
        ValueError: Names the file, and a row with too few or too many cells.
    """
    columns, records = csv_records(path, what, strip=strip)
    for record in records:
        if len(record.cells) != len(columns):
            raise ValueError(
                f"'{path}', row {record.row}: {len(record.cells)} cells under {len(columns)} "
                "columns. Put a text that has a comma, semicolon or tab into double quotes."
            )
    rows = ((record.row, dict(zip(columns, record.cells, strict=True))) for record in records)
    return CsvTable(columns, tuple(rows))


def csv_records(
    path: str | os.PathLike[str], what: str = "CSV file", *, strip: bool = True
) -> tuple[tuple[str, ...], list[CsvRecord]]:
    """The names of a CSV file's columns (none if it is empty), and its rows as they are.

    Raises:
        ValueError: As `read_utf8`; if a quote is not closed, a cell is longer than `csv` allows,
            or a column is there twice. Names the line.
    """
    header, *records = list(_records(read_utf8(path, what), path, strip)) or [CsvRecord(1, 1, ())]
    columns = tuple(name.strip() for name in header.cells)
    twice = [name for name in columns if columns.count(name) > 1]
    if twice:
        raise ValueError(
            f"'{path}', row {header.row} has a column twice: {shown(twice[0])} in "
            f"{shown(list(columns))}. Give them different names."
        )
    return columns, records


def _records(text: str, path: str | os.PathLike[str], strip: bool) -> Iterator[CsvRecord]:
    # csv itself handles the ends of lines.
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    row = 0
    while True:
        first_line = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            raise ValueError(
                f"'{path}', line {first_line}: {error}. Is a double quote missing or left over?"
            ) from error
        if cells is None:
            return
        row += 1
        stripped = tuple(cell.strip() for cell in cells)
        if any(stripped):
            yield CsvRecord(row, first_line, stripped if strip else tuple(cells))


def _delimiter(text: str) -> str:
    """What separates the columns' names; Excel writes semicolons where 1,5 is a number."""
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    return max(",;\t", key=re.sub(r'"[^"]*"', "", header).count)


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line that is not blank, with its number from 1."""
    # Not str.splitlines: it also splits at characters that JSON texts may contain.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line


def json_rows(
    path: str | os.PathLike[str], what: str = "file of JSON lines"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number, keys and values; a value that is not an object gets an empty key.

    Raises:
        ValueError: As `check_is_file`; for a line that is not JSON in UTF-8, which it names.
    """
    try:
        text = read_utf8(path, what)
    except EncodingError as error:
        raise ValueError(
            f"'{path}', row {error.line} is not JSON in UTF-8: {error.reason}. Save it as UTF-8."
        ) from error
    for number, line in text_lines(text):
        try:
            row = json_value(line)
        except ValueError as error:
            raise ValueError(f"'{path}', row {number} is not JSON in UTF-8: {error}.") from error
        yield number, row if isinstance(row, dict) else {"": row}


def json_value(line: str) -> Any:
    """The value that a line has as JSON.

    Raises:
        ValueError: Says what is wrong in which column. NaN, Infinity, lone surrogates, and huge
            numbers and nestings are not JSON.
    """
    try:
        return from_json(line.rstrip(), allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(str(error).replace(" at line 1 column", ", column")) from error


def shown(value: object) -> str:
    """A value for an error message, in one line and not too long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
