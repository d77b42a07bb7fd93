"""Items of the user's own: a file in the format of a benchmark, with any bias types.

Results have the benchmark's name with the file's (``stereoset-mine``), so that they can be in one
folder with the benchmark's own. Rows are checked like the authors', but a bias type may be any name
that metrics do not use already.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from kb_lens.benchmarks.benchmark import BenchmarkSpec
from kb_lens.benchmarks.source_rows import Row, read_csv, read_file, read_jsonl
from kb_lens.rows import check_is_file, read_utf8, shown

_TYPE = re.compile(r"\w[\w /-]{0,39}")
"""A bias type becomes part of metrics' names in tables and figures."""


def load_own(spec: BenchmarkSpec, path: str | os.PathLike[str]) -> tuple[pd.DataFrame, str, str]:
    """The items of a file, and the names of the data set and its source.

    Args:
        spec: The benchmark whose format the file has.
        path: The file.

    Returns:
        The items; the name of the data set (the file's name without suffix); the source in words
        (the file's name and the beginning of its SHA-256).

    Raises:
        ValueError: If the benchmark reads no file, there is no such file, or a row is not as
            expected.
    """
    file = own_path(path)
    if spec.read is None or spec.items is None:
        raise ValueError(f"{spec.name} has its own source: it reads no file of yours.")
    rows = read_file(spec.read, file)
    if not rows:
        raise ValueError(f"{file} has no items of {spec.name}: it is empty.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return spec.items(rows), dataset_name(file), f"{file.name}, SHA-256 {digest[:16]}"


def own_path(path: object) -> Path:
    """The path of an existing file, with ``~`` expanded."""
    try:
        path = Path(path).expanduser() if isinstance(path, str | os.PathLike) else path
    except RuntimeError as error:
        raise ValueError(f"the path is {shown(path)}: there is no such home folder.") from error
    return check_is_file(path, "file of benchmark items")


def dataset_name(path: Path) -> str:
    """The name of a file in its results' keys."""
    return re.sub(r"\W+", "_", path.stem).strip("_") or "items"


def own_type(row: Row, column: str, taken: Sequence[str]) -> str:
    """A bias type that the user chose.

    Args:
        row: The row.
        column: Its column.
        taken: Other suffixes of metrics' names: a type must not be one of these or begin with one.

    Raises:
        ValueError: If it is not a name, or taken.
    """
    name = row.text(column)
    if not _TYPE.fullmatch(name):
        raise row.error(column, "a name of at most 40 letters, digits, spaces, _, - and /")
    if any(f"{name}_".startswith(f"{ending}_") for ending in taken):
        raise row.error(column, f"a name that is not and does not begin with {', '.join(taken)}")
    return name


def check_once(rows: Sequence[Row], items: pd.DataFrame) -> pd.DataFrame:
    """The items, without repeats.

    Raises:
        ValueError: Names the rows of two equal items.
    """
    first: dict[str, str] = {}
    for row, item in zip(rows, items["item"], strict=True):
        if item in first:
            raise ValueError(f"{row.where}: the same item as {first[item]}. Leave one of them out.")
        first[item] = row.where
    return items


def own_jsonl(path: Path) -> Iterable[Row]:
    """Rows of a file of JSON lines; an error says what the file is if it is something else."""
    start = read_utf8(path).lstrip()
    if start.startswith("["):
        raise ValueError(
            f"{path}, line 1: a JSON array. Write one JSON object a line, with no brackets "
            "around the lines and no commas between them."
        )
    if start and not start.startswith("{"):
        raise ValueError(
            f"{path}, line 1: not JSON, but {shown(start.splitlines()[0])}. Write one JSON "
            "object a line."
        )
    return read_jsonl(path)


def own_csv(path: Path) -> Iterable[Row]:
    """Rows of a CSV file; an error says so if it is JSON."""
    if read_utf8(path).lstrip().startswith(("{", "[")):
        raise ValueError(
            f"{path}, line 1: JSON. Give a CSV file whose first row names the columns."
        )
    return read_csv(path)
