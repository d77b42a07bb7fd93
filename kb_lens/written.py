"""Note in a folder which files were written there, so that these alone can be deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

BOOKS = ".kb_lens"
"""The subfolder of a folder of results for internal files: locks, who is at work, what was
written."""
_WRITTEN = "written.jsonl"
_NOTED_IN: ContextVar[Path | None] = ContextVar("noted_in", default=None)
_KEPT = (BOOKS, "store")
"""What is not noted and stays: the store's files are checked by their content."""


@contextmanager
def noting(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Note in a folder what is written into it inside the block, for `delete_noted`."""
    noted_in = _NOTED_IN.set(Path(folder).resolve())
    try:
        yield
    finally:
        _NOTED_IN.reset(noted_in)


def note(path: Path) -> None:
    """Note a file that is about to be written, if it is in the folder of a `noting` block."""
    folder = _NOTED_IN.get()
    if folder is None or not path.resolve().is_relative_to(folder):
        return
    name = path.resolve().relative_to(folder)
    if name.parts[0] in _KEPT:
        return
    books = folder / BOOKS
    books.mkdir(parents=True, exist_ok=True)
    _append(books / _WRITTEN, json.dumps(name.as_posix()))


def _append(path: Path, line: str) -> None:
    """Add a line in a single step, so that what other processes add meanwhile stays whole."""
    with path.open("a+b") as file:
        file.seek(max(file.tell() - 1, 0))
        is_cut_off = file.read() not in (b"", b"\n")  # by a disk that was full
        file.write(f"{chr(10) * is_cut_off}{line}\n".encode())


def has_notes(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says what was written into it."""
    return (Path(folder) / BOOKS / _WRITTEN).is_file()


def _noted_names(books: Path) -> list[str]:
    """The noted files, in order. A file whose note is cut off was never written."""
    names: list[str] = []
    for line in books.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            names.append(str(json.loads(line)))
    return list(dict.fromkeys(names))


def delete_noted(folder: str | os.PathLike[str]) -> None:
    """Delete the noted files and the folders that this leaves empty, nothing else.

    The newest file goes first. The file that identifies the folder was written first, so it goes
    last, and after a kill the same call continues.

    Raises:
        ValueError: If nothing was noted there, so that it is unknown what may be deleted.
    """
    folder = Path(folder).resolve()
    books = folder / BOOKS / _WRITTEN
    if not books.is_file():
        raise ValueError(
            f"'{folder}' does not say which of its files kb_lens wrote: empty it yourself, or "
            "choose another --out."
        )
    names = reversed(_noted_names(books))
    paths = [path for name in names if (path := folder / name).resolve().is_relative_to(folder)]
    for path in paths:
        if not path.is_dir():
            path.unlink(missing_ok=True)
    books.unlink()
    parents = {parent for path in paths for parent in path.parents if folder in parent.parents}
    for parent in sorted(parents, reverse=True):  # inner folders before outer ones
        _delete_if_empty(parent)


def _delete_if_empty(folder: Path) -> None:
    if folder.is_dir() and all(path.name == BOOKS for path in folder.iterdir()):
        shutil.rmtree(folder)
