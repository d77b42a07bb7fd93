"""Items of the user's own: a file in the format of a benchmark, with any bias types.

Results have the name of the file behind the benchmark's (``stereoset-mine``), so that they stand
beside those of the benchmark itself. The form of a row is checked as the authors' is, but a bias
type may be any name that no metric has already.
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
"""A bias type becomes a part of metrics' names, which stand in tables and figures."""


def load_own(spec: BenchmarkSpec, path: str | os.PathLike[str]) -> tuple[pd.DataFrame, str, str]:
    """The items of a file, and what to call the file and its content.

    Args:
        spec: The benchmark whose format the file has.
        path: The file.

    Returns:
        The items; the name of the data set, which is the file's without ending; the source in
        words: the file's name and the beginning of its SHA-256, which changes when it is edited.

    Raises:
        ValueError: If the benchmark reads no file, there is no such file, or a row is not as
            expected.
    """
    file = own_path(path)
    if spec.read is None or spec.items is None:
        raise ValueError(f"{spec.name} has a source of its own: it reads no file of yours.")
    rows = read_file(spec.read, file)
    if not rows:
        raise ValueError(f"{file} has no items of {spec.name}: it is empty.")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return spec.items(rows), dataset_name(file), f"{file.name}, SHA-256 {digest[:16]}"


def own_path(path: object) -> Path:
    """The path of a file that is there, with the home folder for ``~``."""
    try:
        path = Path(path).expanduser() if isinstance(path, str | os.PathLike) else path
    except RuntimeError as error:
        raise ValueError(f"the path is {shown(path)}: there is no such home folder.") from error
    return check_is_file(path, "file of benchmark items")


def dataset_name(path: Path) -> str:
    """What results on a file are called behind the benchmark's name."""
    return re.sub(r"\W+", "_", path.stem).strip("_") or "items"


def own_type(row: Row, column: str, taken: Sequence[str]) -> str:
    """A bias type that the user chose.

    Args:
        row: The row.
        column: Where it stands.
        taken: Other endings of metrics' names: no type may be called so, or begin so.

    Raises:
        ValueError: If it is no name, or taken.
    """
    name = row.text(column)
    if not _TYPE.fullmatch(name):
        raise row.error(column, "a name of at most 40 letters, digits, spaces, _, - and /")
    if any(f"{name}_".startswith(f"{ending}_") for ending in taken):
        raise row.error(column, f"a name that is not and does not begin with {', '.join(taken)}")
    return name


def check_once(rows: Sequence[Row], items: pd.DataFrame) -> pd.DataFrame:
    """The items, of which no two may be the same.

    Raises:
        ValueError: Names the rows of two that are.
    """
    first: dict[str, str] = {}
    for row, item in zip(rows, items["item"], strict=True):
        if item in first:
            raise ValueError(f"{row.where}: the same item as {first[item]}. Leave one of them out.")
        first[item] = row.where
    return items


def own_jsonl(path: Path) -> Iterable[Row]:
    """Rows of a file of JSON lines; says what the file is if it is something else."""
    start = read_utf8(path).lstrip()
    if start.startswith("["):
        raise ValueError(
            f"{path}, line 1: a JSON array. Needed is one JSON object a line, with no brackets "
            "around the lines and no commas between them."
        )
    if start and not start.startswith("{"):
        raise ValueError(
            f"{path}, line 1: no JSON, but {shown(start.splitlines()[0])}. Needed is one JSON "
            "object a line."
        )
    return read_jsonl(path)


def own_csv(path: Path) -> Iterable[Row]:
    """Rows of a CSV file; says so if it is JSON."""
    if read_utf8(path).lstrip().startswith(("{", "[")):
        raise ValueError(
            f"{path}, line 1: JSON. Needed is a CSV file whose first row names the columns."
        )
    return read_csv(path)
