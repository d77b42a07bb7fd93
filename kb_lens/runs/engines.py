"""Work off the units of a study: one after another, or on the workers of a Ray cluster.

Both engines take units from the same queue: a unit that has a whole entry in the store is done, and
one that another process has claimed is left to it and looked at again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

from tqdm.auto import tqdm

from kb_lens.store import POLL_SECONDS, Store

Unit = TypeVar("Unit")


def run_serial(
    units: Mapping[str, Unit],
    store: Store,
    work: Callable[[Unit], bytes],
    *,
    progress: bool = True,
) -> None:
    """Do every unit that has no entry yet, in order, and write what comes out.

    Returns when all units have an entry, also those that other processes are doing meanwhile.

    Args:
        units: Key (see `entry_key`) -> what is to be done; ``str`` gives its name.
        store: Where the entries are.
        work: Does a unit; gives the content of its entry.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If `work` raised one; it names the unit. Finished units stay.
    """
    with Queue(units, store, progress) as queue:
        while queue.left:
            claimed = queue.claim()
            if claimed is None:  # others are at all that is left, and may die
                time.sleep(POLL_SECONDS)
                continue
            key, claim = claimed
            with claim, naming(str(units[key])):
                queue.finish(key, work(units[key]))


@contextmanager
def naming(unit: str) -> Generator[None, None, None]:
    """Say of which unit an exception is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{unit}: {error}") from error
    except Exception as error:
        error.add_note(f"This happened in {unit}.")
        raise


class Queue(Generic[Unit]):
    """The units that have no entry yet, and a progress bar of all."""

    def __init__(self, units: Mapping[str, Unit], store: Store, progress: bool) -> None:
        self.units = units
        self.left = [key for key in units if key not in store]
        self._store = store
        done = len(units) - len(self.left)
        self._bar = tqdm(
            total=len(units), initial=done, desc="units", unit="unit", disable=not progress
        )

    def __enter__(self) -> Queue[Unit]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def claim(self) -> tuple[str, ExitStack] | None:
        """A unit that is to be done, and its claim; None if others have all that are left."""
        for key in tuple(self.left):
            with ExitStack() as claim:
                if not claim.enter_context(self._store.claimed(key)):
                    continue
                self.left.remove(key)
                if key not in self._store:
                    self._bar.set_postfix_str(str(self.units[key]))
                    return key, claim.pop_all()
                self._bar.update()  # another process has done it
        if self.left:
            self._bar.set_postfix_str("waiting for another process")
        return None

    def finish(self, key: str, content: bytes) -> None:
        """Write a unit's entry."""
        self._store.write(key, content)
        self._bar.update()

    def put_back(self, key: str) -> None:
        """Let a unit be the next to be claimed."""
        self.left.insert(0, key)
