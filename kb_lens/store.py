"""Keep the finished pieces of long work, so that it can be killed at any moment and continued.

An entry is bytes, whose meaning is the caller's business. Its key is a digest of what it depends on
(`entry_key`), and its file is ``<key>-<digest of the content><suffix>``, so an altered file does
not match its name. A file is written whole or not at all. An entry that takes long keeps pieces of
its own (`Store.pieces`) until it is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kb_lens.files import locked, moved_whole, writer_is_dead
from kb_lens.user_warnings import warn_user

POLL_SECONDS = 0.5
"""Seconds between two looks at an entry that another process has claimed: short beside work of
seconds to minutes, and little load on a disk."""


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
        """Write an entry into a file of its own, and return its path; its pieces are deleted."""
        path = Path(self.folder) / self._name(key, content)
        with moved_whole(path) as unfinished:
            unfinished.write_bytes(content)
        shutil.rmtree(self.pieces(key).folder, ignore_errors=True)
        return path

    def read(self, key: str) -> bytes | None:
        """An entry as it was written; None if there is no complete file of it.

        A damaged file gets the suffix ``.damaged``, with a warning; the entry has to be done again.
        """
        for path in self._files(key):
            with suppress(FileNotFoundError):  # another process has moved it aside meanwhile
                content = path.read_bytes()
                if path.name == self._name(key, content):
                    # The writer may have been killed before it deleted them.
                    shutil.rmtree(self.pieces(key).folder, ignore_errors=True)
                    return content
                path.replace(f"{path}.damaged")
                warn_user(
                    f"'{path}' is damaged: it was moved to '{path.name}.damaged' and has to be "
                    "done again.",
                )
        return None

    def __contains__(self, key: str) -> bool:
        """Whether the entry has a whole file; a damaged one is treated as by `read`."""
        return self.read(key) is not None

    def remove(self, key: str) -> None:
        """Delete an entry, if it is there, and its pieces."""
        for path in self._files(key):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.pieces(key).folder, ignore_errors=True)

    def pieces(self, key: str) -> Store:
        """The store of an unfinished entry's pieces; deleted when the entry is written."""
        return replace(self, folder=Path(self.folder) / "pieces" / key)

    @contextmanager
    def claimed(self, key: str) -> Generator[bool, None, None]:
        """Claim the entry: yield True, or False if another process or thread has claimed it.

        The claim is a lock of the operating system: it ends with the process, however that ends.
        Half-written files of dead processes in the folder are deleted.
        """
        for unfinished in Path(self.folder).glob(f"*{self.suffix}.*.part"):
            self._delete_if_abandoned(unfinished)
        with self._locked(key) as free:
            yield free

    def obtain(self, key: str, work: Callable[[], bytes]) -> bytes:
        """An entry; it is done here if it is missing and no other process has claimed it.

        Args:
            key: Its name.
            work: Does it and returns its content.
        """
        while True:
            content = self.read(key)
            if content is not None:
                return content
            with self.claimed(key) as free:
                if free:  # else another process works on it, and may finish or die
                    # another process may have finished it before the claim
                    content = self.read(key)
                    if content is None:
                        content = work()
                        self.write(key, content)
                    return content
            time.sleep(POLL_SECONDS)

    def _name(self, key: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()[:16]
        return f"{key}-{digest}{self.suffix}"

    def _files(self, key: str) -> list[Path]:
        return sorted(Path(self.folder).glob(f"{key}-*{self.suffix}"))

    @contextmanager
    def _locked(self, key: str) -> Generator[bool, None, None]:
        with locked(Path(self.folder) / "locks" / f"{key}.lock", timeout=0) as free:
            yield free

    def _delete_if_abandoned(self, unfinished: Path) -> None:
        """Delete a half-written file whose writer is dead."""
        if not writer_is_dead(unfinished):
            return
        # No such process here, but the folder may be shared: a writer elsewhere holds the claim.
        with self._locked(unfinished.name.partition("-")[0]) as free:
            if free:
                unfinished.unlink(missing_ok=True)
