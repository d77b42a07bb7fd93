"""Work off many pieces of work together with whoever shares the store.

Any number of processes, on any machines that see the folder, may be given the same pieces: each
takes one that nobody has finished or claimed, and all return when all are finished. So a job needs
no list of who does what. Who comes later helps, and what one that was killed had begun goes to
another.
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
    """How many are finished, by anybody."""
    total: int
    """Of how many."""
    current: str
    """The one that this process begins; empty if it has ended one."""


watcher: ContextVar[Callable[[Progress], object] | None] = ContextVar("watcher", default=None)
"""Told of every step in this process, where nobody sees its progress bars."""


def work_off(
    pieces: Mapping[str, Piece],
    store: Store,
    work: Callable[[Piece], bytes],
    *,
    kind: str = "unit",
    name: Callable[[Piece], str] = str,
    assist: Callable[[Piece], bool] = lambda piece: False,
    progress: bool = True,
) -> None:
    """Do every piece that has no entry yet, in order, and write what comes out.

    Returns when all pieces have an entry, also those that other processes are at meanwhile.

    Args:
        pieces: Key (see `entry_key`) -> what is to be done.
        store: Where the entries are.
        work: Does a piece; gives the content of its entry.
        kind: What a piece is, for the progress bar.
        name: What a piece is called there.
        assist: Called with a piece that another process is at, when nothing else is left: does
            some of it, and returns whether there was anything to do.
        progress: Whether to show one.
    """
    with _Queue(pieces, store, kind, name, progress) as queue:
        while queue.left:
            claimed = queue.claim()
            if claimed is None:  # others are at all that is left, and may die
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
    kind: str = "unit",
    name: Callable[[Piece], str] = lambda piece: "",
    progress: bool = True,
) -> Iterator[bytes]:
    """Every piece's entry, in order: kept, done here, or by others who share the store.

    Args:
        pieces: What is to be done.
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
        yield store.obtain(entry, partial(work, piece))  # done again if it was damaged since


def assist_with(
    pieces: Mapping[str, Piece],
    store: Store,
    work: Callable[[Piece], bytes],
    is_over: Callable[[], bool],
) -> bool:
    """Do those pieces that nobody has finished or claimed; wait for nobody.

    Args:
        pieces: As for `work_off`.
        store: As for `work_off`.
        work: As for `work_off`.
        is_over: Whether the whole that they are pieces of is finished, and they are deleted.

    Returns:
        Whether there was one.
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
    """Say of which piece of work an exception is."""
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
        """What others are at and nothing more can be done of."""
        self._done = done = len(pieces) - len(self.left)
        self._bar = progress_bar(
            total=len(pieces), initial=done, desc=f"{kind}s", unit=kind, shown=progress
        )

    def __enter__(self) -> _Queue[Piece]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def claim(self) -> tuple[str, ExitStack] | None:
        """A piece that is to be done, and its claim; None if others have all that are left."""
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
        """Do some of a piece that is not finished; False if there is nothing to do in any."""
        for key in self.left:
            if key in self._store or key in self._divided:
                continue
            if assist(self._pieces[key]):
                return True
            # All of it is done or claimed: what a dead process leaves is for who has the whole.
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
