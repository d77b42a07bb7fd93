"""Data that come with kb_lens: the files of the question bank that benchmarks read."""

from __future__ import annotations

import os
from pathlib import Path

from kb_lens.benchmarks.data import DATA_VARIABLE, NoDataError, Row, read_csv, read_file, read_jsonl
from kb_lens.files import bank_folder


def bank_rows(file: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[list[Row], str]:
    """The rows of a file of the bank, or of your own file of that name.

    Args:
        file: Its name; the ending says how it is read (``.csv`` or ``.jsonl``).
        data_dir: A folder whose file of that name is read instead, if it has one. None looks into
            the folder in ``KB_LENS_DATA``.

    Returns:
        The rows, and the path that they were read from.

    Raises:
        ValueError: If the file is no UTF-8 text, is empty, or a row has more cells than the
            header; `NoDataError` if the bank lacks it.
    """
    path = _path(file, data_dir)
    rows = read_file(read_csv if path.suffix == ".csv" else read_jsonl, path)
    if not rows:
        raise ValueError(f"{path} has no rows; at least one is needed.")
    for row in rows:
        if None in row.cells:  # where csv puts the cells that no column has a name for
            raise ValueError(
                f"{row.where}: more cells than the header has columns. Put a text that has a "
                "comma between quotation marks."
            )
    return rows, str(path)


def _path(file: str, data_dir: str | os.PathLike[str] | None) -> Path:
    folder = os.environ.get(DATA_VARIABLE) if data_dir is None else data_dir
    if folder and (path := Path(folder).expanduser() / file).is_file():
        return path
    path = bank_folder() / file
    if not path.is_file():
        raise NoDataError(f"'{path}' is missing, which comes with kb_lens: install it again.")
    return path
