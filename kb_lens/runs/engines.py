"""Work off the units of a study: one after another, or on the workers of a Ray cluster.

Both engines take units from the same queue: a unit that has a whole result is done, and one that
another process has claimed is left to it and looked at again later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from kb_lens.evaluation.results import EvaluationResult
from kb_lens.runs.unit_store import UnitStore

Unit = TypeVar("Unit")

_POLL_SECONDS = 0.5
"""How often units that another process has are looked at again."""


def run_serial(
    units: Mapping[str, Unit],
    store: UnitStore,
    work: Callable[[Unit], EvaluationResult],
    *,
    progress: bool = True,
) -> None:
    """Do every unit that has no result yet, in order, and write what comes out.

    Returns when all units have a result, also those that other processes are doing meanwhile.

    Args:
        units: Key (see `unit_key`) -> what is to be done; ``str`` gives its name.
        store: Where the results are.
        work: Does a unit.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If `work` raised one; it names the unit. Finished units stay.
    """
    with _queue(units, store, progress) as queue:
        while queue.left:
            taken = queue.take()
            if taken is None:
                time.sleep(_POLL_SECONDS)
                continue
            key, claim = taken
            with claim, queue.named(key):
                queue.finish(key, work(units[key]))


@dataclass(frozen=True)
class _Queue(Generic[Unit]):
    """The units that have no result yet."""

    units: Mapping[str, Unit]
    store: UnitStore
    left: list[str]
    bar: Any

    def take(self) -> tuple[str, ExitStack] | None:
        """Claim a unit that is to be done; None if there is none that others do not have."""
        for key in tuple(self.left):
            with ExitStack() as claim:
                if not claim.enter_context(self.store.claimed(key)):
                    continue
                self.left.remove(key)
                if key not in self.store:
                    self.bar.set_postfix_str(self.name(key))
                    return key, claim.pop_all()
                self.bar.update()  # another process has done it
        if self.left:
            self.bar.set_postfix_str("waiting for another process")
        return None

    def finish(self, key: str, result: EvaluationResult) -> None:
        self.store.write(key, result)
        self.bar.update()

    def name(self, key: str | None) -> str:
        """What a unit is called; None is the start of a worker."""
        return "the start of a worker" if key is None else str(self.units[key])

    @contextmanager
    def named(self, key: str | None) -> Iterator[None]:
        """Say of which unit an exception is."""
        name = self.name(key)
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        except Exception as error:
            error.add_note(f"This happened in {name}.")
            raise


@contextmanager
def _queue(units: Mapping[str, Unit], store: UnitStore, progress: bool) -> Iterator[_Queue[Unit]]:
    left = [key for key in units if key not in store]
    n, done = len(units), len(units) - len(left)
    with tqdm(total=n, initial=done, desc="units", unit="unit", disable=not progress) as bar:
        yield _Queue(units, store, left, bar)
