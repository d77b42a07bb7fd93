"""The folder of an exported checkpoint: always complete, and other files in it are kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb_lens.files import (
    as_the_umask_allows,
    delete,
    naming_file,
    unfinished_name,
    writer_is_dead,
)
from kb_lens.records.objects import read_json, validated

RECORD = "kb_lens.json"
"""The file that records the change and the source model."""
FORMAT = "kb_lens export 2"
"""Since version 2 the record lists the files; an export without the list is not replaced."""


def check_target(folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """The folder as an absolute path, if an export may be written there.

    Raises:
        ValueError: If it is a file, or a folder with contents that may not be replaced.
    """
    path = Path(folder).expanduser().resolve()
    _delete_abandoned(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"'{folder}' is a file: give a new or empty folder.")
    if not path.is_dir() or not any(path.iterdir()):
        return path
    if not (path / RECORD).is_file():
        raise ValueError(f"'{folder}' is not empty and is not an export: choose a new folder.")
    if not overwrite:
        raise ValueError(
            f"'{folder}' holds an export: choose another folder, or --overwrite to replace it."
        )
    _check_unchanged(path)
    return path


def _old(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


@dataclass(frozen=True)
class _Written:
    """The part of a record that is needed to replace an export."""

    files: dict[str, str]


def _written(folder: Path) -> dict[str, str]:
    """The files of an export apart from its record, name -> SHA-256.

    Raises:
        ValueError: If the record is not that of an export, or does not list them.
    """
    content = read_json(folder / RECORD, dict[str, Any], finite=False)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"'{folder / RECORD}' does not list the files of an export (its format is "
            f"{content.get('format')!r}), so it cannot be replaced: choose a new folder."
        )
    return validated({"files": content.get("files")}, _Written, f"'{folder / RECORD}'").files


def _check_unchanged(folder: Path) -> None:
    """Raise `ValueError` if a file of an export was changed since: it may be somebody's work."""
    for name, digest in _written(folder).items():
        path = folder / name
        if path.is_file() and file_digest(path) != digest:
            raise ValueError(
                f"'{path}' was changed since it was exported: move it away, or choose a new folder."
            )


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder -> its SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def put_in_place(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; it replaces `folder` if the block succeeds.

    Files in `folder` that are not of the old export are kept: they are copied first.
    """
    unfinished, old = unfinished_name(folder), unfinished_name(_old(folder))
    with naming_file(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.mkdir()
            yield unfinished
            as_the_umask_allows(unfinished)
            if folder.is_dir():
                _copy_others(folder, unfinished)
                folder.rename(old)  # a folder cannot replace one that is not empty
            unfinished.rename(folder)
        finally:
            if old.is_dir() and not folder.is_dir():
                old.rename(folder)
            delete(unfinished)
            delete(old)


def _copy_others(folder: Path, target: Path) -> None:
    """Copy the files that are not of the old export.

    Raises:
        ValueError: If the new export has a file of that name.
    """
    if not any(folder.iterdir()):
        return
    written = {RECORD, *_written(folder)}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if name.as_posix() in written or (path.is_dir() and not path.is_symlink()):
            continue
        if (target / name).exists():
            raise ValueError(f"'{path}' is not a file of the old export: move it away.")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / name, follow_symlinks=False)


def _delete_abandoned(folder: Path) -> None:
    """Restore or delete what a killed export left beside its folder."""
    for path in folder.parent.glob(f"{folder.name}.*.part"):
        if not writer_is_dead(path):
            continue
        if path.name.startswith(f"{_old(folder).name}.") and not folder.is_dir():
            path.rename(folder)
        else:
            delete(path)
