"""The processes that work in a folder: several with the same settings, or one.

Processes of one job share its folder and its units of work. A process with other settings, or one
that replaces the folder, must be alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from kb_lens.files import delete_abandoned, locked
from kb_lens.records.objects import read_json, write_json
from kb_lens.written import BOOKS


@dataclass(frozen=True)
class Holder:
    """A process that works in a folder."""

    command: str
    """Its command."""
    settings: str
    """A digest of the settings of its results: processes with the same digest share the folder."""
    alone: bool = False
    """Whether it must be alone, because it replaces the folder."""
    process: int = 0
    """Its process number."""
    host: str = ""
    """Its machine."""
    since: str = ""
    """When it began."""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (kb-lens {self.command}, since {self.since})"

    def check(self, other: Holder, folder: Path) -> None:
        """Raise `ValueError` unless it may work in a folder together with `other`."""
        if self.settings != other.settings:
            reason = "its results depend on other settings"
        elif self.alone or other.alone:
            reason = "--overwrite needs the folder for itself"
        else:
            return
        raise ValueError(
            f"'{folder}' is in use by {other}: {reason}. Wait until it has ended, or choose "
            "another --out."
        )


@contextmanager
def holding(folder: Path, holder: Holder) -> Iterator[None]:
    """Register as working in a folder inside the block.

    Files that killed processes left half-written are deleted.

    Args:
        folder: The folder; created if missing.
        holder: The process; its number, machine and time are filled in.

    Raises:
        ValueError: If a living process, which the message names, does not share the folder.
    """
    now = datetime.now().isoformat(sep=" ", timespec="seconds")
    present = replace(holder, process=os.getpid(), host=platform.node(), since=now)
    path = _holders(folder) / f"{uuid.uuid4().hex}.json"
    with ExitStack() as stack:
        with step(folder):
            others = _living(folder)
            for other in others:
                present.check(other, folder)
            delete_abandoned(folder, alone=not others)
            # A lock ends with its process, so a dead process holds none.
            stack.enter_context(locked(path.with_suffix(".lock")))
            write_json(path, asdict(present))
        try:
            yield
        finally:
            with step(folder):
                stack.close()
                _forget(path)
                _tidy(folder)


@contextmanager
def step(folder: Path) -> Iterator[None]:
    """A block that only one process at a time may run in a folder; the others wait."""
    with locked(folder / BOOKS / "step.lock"):
        yield


def _holders(folder: Path) -> Path:
    return folder / BOOKS / "holders"


def _living(folder: Path) -> list[Holder]:
    """The living processes in a folder; entries of dead ones are deleted."""
    living: list[Holder] = []
    for lock in sorted(_holders(folder).glob("*.lock")):
        path = lock.with_suffix(".json")
        with locked(lock, timeout=0) as free:
            if not free:
                living.append(read_json(path, Holder))
        if free:
            _forget(path)
    return living


def _tidy(folder: Path) -> None:
    """Delete a folder that stayed empty, for example because the model was not found."""
    is_left = any(path.name != "step.lock" for path in (folder / BOOKS).iterdir() if path.is_file())
    if not is_left and all(path.name == BOOKS for path in folder.iterdir()) and not _living(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_suffix(".lock").unlink(missing_ok=True)
