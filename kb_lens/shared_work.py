"""Do many pieces of work together with all processes that share the store.

Any number of processes, on any machines that see the folder, may be given the same pieces. Each
takes a piece that no process has finished or claimed, and all return when every piece is finished.
A process that starts later helps, and the unfinished piece of a killed process goes to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from kb_lens.progress import progress_bar
from kb_lens.store import POLL_SECONDS, Store

Piece = TypeVar("Piece")


class Progress(NamedTuple):
    """How far the work on some pieces is."""

    kind: str
    """What a piece is."""
    done: int
    """How many are finished, by any process."""
    total: int
    """How many there are."""
    current: str
    """The piece that this process begins; empty if it has just finished one."""


watcher: ContextVar[Callable[[Progress], object] | None] = ContextVar("watcher", default=None)
"""Called at every step, for a process whose progress bars nobody sees."""


def work_off(
    pieces: Mapping[str, Piece],
    store: Store,
    work: Callable[[Piece], bytes],
    *,
    kind: str = "measurement",
    name: Callable[[Piece], str] = str,
    assist: Callable[[Piece], bool] = lambda piece: False,
    progress: bool = True,
) -> None:
    """Do every piece that has no entry yet, in order, and write its entry.

    Returns when all pieces have an entry, including those that other processes work on.

    Args:
        pieces: Key (see `entry_key`) -> piece.
        store: Where the entries are.
        work: Does a piece and returns the content of its entry.
        kind: What a piece is, for the progress bar.
        name: What this work is called there.
        assist: Called with a piece that another process works on, when nothing else is left. It
            does some of that piece and returns whether there was anything to do.
        progress: Whether to show one.
    """
    with _Queue(pieces, store, kind, name, progress) as queue:
        while queue.left:
            claimed = queue.claim()
            if claimed is None:  # other processes have claimed the rest, and may die
                if not queue.assist(assist):
                    time.sleep(POLL_SECONDS)
                continue
            key, claim = claimed
            with claim:
                queue.finish(key, work(pieces[key]))


def entries(
    pieces: Sequence[Piece],
    store: Store | None,
    key: Callable[[Piece], str],
    work: Callable[[Piece], bytes],
    *,
    kind: str = "measurement",
    name: Callable[[Piece], str] = lambda piece: "",
    progress: bool = True,
) -> Iterator[bytes]:
    """Every piece's entry, in order: from the store, done here, or done by another process.

    Args:
        pieces: The pieces.
        store: Where entries are kept; None for nowhere.
        key: Names the entry of a piece, see `entry_key`; not called without a store.
        work: As for `work_off`.
        kind: As for `work_off`.
        name: As for `work_off`.
        progress: As for `work_off`.
    """
    if store is None:
        yield from map(work, progress_bar(pieces, desc=f"{kind}s", unit=kind, shown=progress))
        return
    keys = [key(piece) for piece in pieces]
    options: dict[str, Any] = {"kind": kind, "name": name, "progress": progress}
    work_off(dict(zip(keys, pieces, strict=True)), store, work, **options)
    for entry, piece in zip(keys, pieces, strict=True):
        yield store.obtain(entry, partial(work, piece))  # done again if it was damaged meanwhile


def assist_with(
    pieces: Mapping[str, Piece],
    store: Store,
    work: Callable[[Piece], bytes],
    is_over: Callable[[], bool],
) -> bool:
    """Do the pieces that no process has finished or claimed, without waiting for others.

    Args:
        pieces: As for `work_off`.
        store: As for `work_off`.
        work: As for `work_off`.
        is_over: Says whether the whole is finished, so that its pieces are deleted.

    Returns:
        Whether there was a piece to do.
    """
    any_done = False
    for key, piece in pieces.items():
        if is_over():
            break
        if key not in store:
            with store.claimed(key) as free:
                if free and key not in store:
                    store.write(key, work(piece))
                    any_done = True
    return any_done


@contextmanager
def naming(piece: str) -> Generator[None, None, None]:
    """Name the piece of work in an exception."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{piece}: {error}") from error
    except Exception as error:
        error.add_note(f"This happened in {piece}.")
        raise


class _Queue(Generic[Piece]):
    """The pieces that have no entry yet, and a progress bar of all."""

    def __init__(
        self,
        pieces: Mapping[str, Piece],
        store: Store,
        kind: str,
        name: Callable[[Piece], str],
        progress: bool,
    ) -> None:
        self.left = [key for key in pieces if key not in store]
        self._pieces = pieces
        self._store = store
        self._kind = kind
        self._name = name
        self._divided: set[str] = set()
        """Pieces that other processes work on and that need no more help."""
        self._done = done = len(pieces) - len(self.left)
        self._bar = progress_bar(
            total=len(pieces), initial=done, desc=f"{kind}s", unit=kind, shown=progress
        )

    def __enter__(self) -> _Queue[Piece]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def claim(self) -> tuple[str, ExitStack] | None:
        """A piece to do, and its claim; None if other processes have claimed all that are left."""
        for key in tuple(self.left):
            with ExitStack() as claim:
                if not claim.enter_context(self._store.claimed(key)):
                    continue
                self.left.remove(key)
                if key not in self._store:
                    name = self._name(self._pieces[key])
                    self._bar.set_postfix_str(name)
                    self._tell(name or f"a {self._kind}")
                    return key, claim.pop_all()
                self._count()  # another process has done it
        if self.left:
            self._bar.set_postfix_str("waiting for another process")
        return None

    def assist(self, assist: Callable[[Piece], bool]) -> bool:
        """Do some of an unfinished piece; False if there is nothing to do in any."""
        for key in self.left:
            if key in self._store or key in self._divided:
                continue
            if assist(self._pieces[key]):
                return True
            # All of it is done or claimed; its holder redoes what a dead process leaves.
            self._divided.add(key)
        return False

    def finish(self, key: str, content: bytes) -> None:
        """Write a piece's entry."""
        self._store.write(key, content)
        self._count()

    def _count(self) -> None:
        self._done += 1
        self._bar.update()
        self._tell("")

    def _tell(self, current: str) -> None:
        watch = watcher.get()
        if watch is not None:
            watch(Progress(self._kind, self._done, len(self._pieces), current))
