"""Finished pieces of long work, kept so that it can be killed at any moment and go on.

Bytes in, bytes out: an entry is named by what was asked (`entry_key`), its file by what was answered:
``<key>-<digest of the content><suffix>``. A file is there whole or not at all, and one that a disk or
a hand has altered is known by its name. What the bytes mean is the caller's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kb_lens.files import moved_whole

POLL_SECONDS = 0.5
"""How often an entry that another process has claimed is looked at again."""


def entry_key(content: Any) -> str:
    """The name of an entry: 32 hex digits of the SHA-256 of its description.

    Args:
        content: JSON data that says everything the entry depends on.

    Raises:
        ValueError: If it holds a number that is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Store:
    """A folder of entries of one format; any number of processes may share it."""

    folder: str | os.PathLike[str]
    """Where the files are; made when something is written."""
    suffix: str
    """The ending of its files, which says how the bytes are to be read: ``.safetensors``."""

    def write(self, key: str, content: bytes) -> Path:
        """Write an entry into a file of its own, and return its path."""
        path = Path(self.folder) / f"{key}-{_digest(content)}{self.suffix}"
        with moved_whole(path) as part:
            part.write_bytes(content)
        return path

    def read(self, key: str) -> bytes | None:
        """An entry as it was written; None if there is no whole file of it.

        A damaged file gets ``.damaged`` behind its name, with a warning: it is to be done again.
        """
        for path in sorted(Path(self.folder).glob(f"{key}-*{self.suffix}")):
            with suppress(FileNotFoundError):  # another process has moved it aside meanwhile
                content = path.read_bytes()
                if path.name == f"{key}-{_digest(content)}{self.suffix}":
                    return content
                path.replace(f"{path}.damaged")
                warnings.warn(
                    f"'{path}' is damaged: it was moved to '{path.name}.damaged' and has to be "
                    "done again.",
                    stacklevel=3,
                )
        return None

    def __contains__(self, key: str) -> bool:
        """Whether the entry has a whole file; a damaged one is treated as by `read`."""
        return self.read(key) is not None

    def remove(self, key: str) -> None:
        """Delete an entry, if it is there."""
        for path in Path(self.folder).glob(f"{key}-*{self.suffix}"):
            path.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Yield True if nobody else is at the entry, who then has to wait; False if somebody is.

        The claim is a lock of the operating system: it ends with the process, however that ends.
        """
        folder = Path(self.folder)
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(folder / "locks" / f"{key}.lock", timeout=0))
            except Timeout:
                yield False
                return
            for part in folder.glob(f"{key}-*.part"):  # left half-written by a holder who died
                part.unlink(missing_ok=True)
            yield True

    def obtain(self, key: str, work: Callable[[], bytes]) -> bytes:
        """An entry, done here if it is not there and nobody else is at it.

        Args:
            key: Its name.
            work: Does it.
        """
        while True:
            if (content := self.read(key)) is not None:
                return content
            with self.claimed(key) as mine:
                if mine and (content := self.read(key)) is None:
                    content = work()
                    self.write(key, content)
            if content is not None:
                return content
            time.sleep(POLL_SECONDS)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
