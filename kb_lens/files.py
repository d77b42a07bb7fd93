"""Where the package's own data are, and writing files so that none is ever left half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


@contextmanager
def moved_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process's number keeps two that write the same file from writing into each other.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text; folders are made."""
    with moved_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def bank_folder() -> Path:
    """The bank's folder: inside an installed wheel, beside the package in a checkout."""
    spec = find_spec("kb_lens")
    package = Path(spec.origin).parent if spec and spec.origin else Path(__file__).parent
    installed = package / "_question_bank"
    return installed if installed.is_dir() else package.parent / "question_bank"
