"""The files of the question bank that benchmarks read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from kb_lens.benchmarks.data import NoDataError, data_folder
from kb_lens.benchmarks.source_rows import Row, read_csv, read_file, read_jsonl
from kb_lens.files import bank_folder
from kb_lens.rows import path_exists, shown


def bank_rows(file: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[list[Row], str]:
    """The rows of a file of the bank, or of your own file of that name.

    Args:
        file: Its name, with the suffix ``.csv`` or ``.jsonl``.
        data_dir: A folder whose file of that name is read instead, if it has one; None for the
            folder in ``KB_LENS_DATA``.

    Returns:
        The rows, and their file: a path below the data folder, or in ``question_bank``.

    Raises:
        ValueError: If the file is not UTF-8 text, is empty, or a row does not match the header;
            `NoDataError` if the bank lacks it.
    """
    folder = data_folder(data_dir)
    if folder is not None and path_exists(folder / file):
        return file_rows(folder / file), file
    path = bank_folder() / file
    if not path.is_file():
        raise NoDataError(f"'{path}' is missing, a file of kb_lens: install kb_lens again.")
    return file_rows(path), f"question_bank/{file}"


def file_rows(path: Path) -> list[Row]:
    """The rows of a file: JSON lines if its suffix is ``.jsonl``, else CSV.

    Raises:
        ValueError: As `read_file`, or if there are none.
    """
    rows = read_file(read_jsonl if path.suffix.lower() == ".jsonl" else read_csv, path)
    if not rows:
        raise ValueError(f"{path} has no rows; at least one is needed.")
    return rows


@runtime_checkable
class _OfDimension(Protocol):
    @property
    def dimension(self) -> str: ...


_Entry = TypeVar("_Entry", bound=_OfDimension)


def of_dimensions(
    entries: Sequence[_Entry], dimension: str | Iterable[str] | None, path: Path
) -> tuple[_Entry, ...]:
    """The entries of a file that are about one of the dimensions, in the order of the file.

    Args:
        entries: All entries of the file.
        dimension: One dimension or several; None for all.
        path: The file, for the message.

    Raises:
        ValueError: For a dimension that is not in the file.
    """
    if dimension is None:
        return tuple(entries)
    if not isinstance(dimension, Iterable):
        raise ValueError(f"dimension is {dimension!r}: give a name or several, or None for all.")
    wanted = [dimension] if isinstance(dimension, str) else list(dimension)
    present = sorted({entry.dimension for entry in entries})
    if not wanted or any(name not in present for name in wanted):
        raise ValueError(f"there are no dimensions {shown(wanted)}: '{path}' has {shown(present)}.")
    return tuple(entry for entry in entries if entry.dimension in wanted)
