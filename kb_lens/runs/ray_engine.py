"""Units of work on the workers of a Ray cluster, or of a Ray that is started here."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kb_lens.evaluation.results import EvaluationResult
from kb_lens.runs.engines import _POLL_SECONDS, Unit, _Queue, _queue
from kb_lens.runs.unit_store import UnitStore


def run_ray(
    units: Mapping[str, Unit],
    store: UnitStore,
    make_work: Callable[[], Callable[[Unit], EvaluationResult]],
    *,
    workers: int = 2,
    address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: float = 0,
    progress: bool = True,
) -> None:
    """Do the same with several workers; the unit of one that dies goes to another.

    Args:
        units: As for `run_serial`; they travel to the workers.
        store: Where the results are; only this process needs the folder.
        make_work: Called once by each worker, to load the model; returns what does a unit.
        workers: How many at a time.
        address: Of a running cluster, ``host:port`` or ``auto``; None starts Ray on this machine.
        num_cpus: As many threads torch may use in each worker, and on a cluster as many processors
            are reserved for it. Default: an equal share of this machine; one on a cluster.
        num_gpus: GPUs reserved for each worker; 0.5 puts two workers on one.
        progress: As for `run_serial`.

    Raises:
        ValueError: If Ray is not installed, no cluster answers or it is too small, work raised
            one, or worker after worker died of a unit. Finished units stay.
    """
    check_ray(workers)
    with _queue(units, store, progress) as queue, ExitStack() as stack:
        if not queue.left:
            return
        ray = stack.enter_context(_ray(address))
        share = 1 if address else max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
        threads = num_cpus or share
        reserved = threads if address else 0  # nothing else is given work on this machine
        _check_room(ray.nodes(), workers, {"CPU": reserved, "GPU": num_gpus})
        worker = ray.remote(num_cpus=reserved, num_gpus=num_gpus)(_Worker)
        _Crew(ray, queue, lambda: worker.remote(make_work, threads)).work(workers)


def check_ray(workers: int) -> None:
    """Raise `ValueError` unless Ray is installed and asked for at least one worker."""
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least 1 is needed.")
    if find_spec("ray") is None:
        raise ValueError("Ray is not installed: pip install 'kb-lens[ray]'.")


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """The package, connected to a cluster; what is started here is stopped here."""
    if address is None:
        _keep_to_itself()
    ray: Any = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_address(address)
        ray.init(address=address or "local", include_dashboard=None if address else False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        what = f"join the cluster at {address!r}" if address else "start on this machine"
        raise ValueError(
            f"Ray cannot {what}: {error}. A cluster is started with 'ray start --head --port=6379' "
            "and joined from one of its nodes; without an address Ray works on this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _keep_to_itself() -> None:
    """Let a Ray that is started here admit only this process, and report its use to nobody.

    Whoever connects needs a token that is written nowhere. What the environment says goes first.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_MODE" not in os.environ:  # without a token Ray writes one into the home folder
        os.environ.setdefault("RAY_AUTH_TOKEN", _token())


@cache
def _token() -> str:
    """One for as long as this process lives: Ray remembers the first that it sees."""
    return secrets.token_hex(32)


def _check_address(address: str | None) -> None:
    """Raise `OSError` if nobody listens at ``host:port``; Ray would take minutes to say so."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _check_room(nodes: list[dict[str, Any]], workers: int, needs: dict[str, float]) -> None:
    """Raise `ValueError` if fewer workers would fit on all nodes together."""
    asked = {name: need for name, need in needs.items() if need}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    fit = [[int(one.get(name, 0) / need + 1e-6) for name, need in asked.items()] for one in alive]
    room = sum(min(one, default=workers) for one in fit)
    if room < workers:
        each = " and ".join(f"{need:g} {name}" for name, need in asked.items())
        raise ValueError(
            f"there is room for {room} workers of {each} each, asked for were {workers}. "
            "Ask for fewer or smaller ones, or add nodes to the cluster."
        )


class _Worker:
    """Lives in a process of its own, as a Ray actor."""

    def __init__(self, make_work: Callable[[], Callable[[Any], EvaluationResult]], threads: int):
        import torch

        torch.set_num_threads(threads)
        self._make_work, self._work = make_work, None

    def ready(self) -> None:
        """Answered when the process is there."""

    def do(self, unit: Any) -> EvaluationResult:
        if self._work is None:  # here, where an exception reaches the driver as it is
            self._work = self._make_work()
        return self._work(unit)


@dataclass(frozen=True)
class _Crew:
    """The workers, as the driver sees them."""

    ray: Any
    queue: _Queue[Any]
    hire: Callable[[], Any]
    hired: list[Any] = field(default_factory=list)
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, str | None, ExitStack]] = field(default_factory=dict)
    """What is awaited -> worker, unit (None while it starts) and its claim."""
    deaths: Counter[str | None] = field(default_factory=Counter)

    def work(self, workers: int) -> None:
        """Until every unit has a result."""
        try:
            for _ in range(workers):
                self._start()
            while self.queue.left or any(key for _, key, _ in self.busy.values()):
                self._hand_out()
                self._collect()
        finally:
            for _, _, claim in self.busy.values():
                claim.close()
            for worker in self.hired:
                self.ray.kill(worker)

    def _start(self) -> None:
        self.hired.append(worker := self.hire())
        self.busy[worker.ready.remote()] = worker, None, ExitStack()

    def _hand_out(self) -> None:
        while self.idle and (taken := self.queue.take()):
            worker, (key, claim) = self.idle.pop(), taken
            self.busy[worker.do.remote(self.queue.units[key])] = worker, key, claim

    def _collect(self) -> None:
        if not self.busy:  # all that is left is in the hands of other processes
            time.sleep(_POLL_SECONDS)
            return
        done, _ = self.ray.wait(list(self.busy), timeout=_POLL_SECONDS)
        for one in done:
            worker, key, claim = self.busy.pop(one)
            with claim:
                self._receive(one, worker, key)

    def _receive(self, one: Any, worker: Any, key: str | None) -> None:
        try:
            result = self.ray.get(one)
        except self.ray.exceptions.RayTaskError as error:
            with self.queue.named(key):
                raise error.cause from error
        except self.ray.exceptions.RayError as error:
            self._replace(worker, key, error)
            return
        if key is not None:
            self.queue.finish(key, result)
        self.idle.append(worker)

    def _replace(self, worker: Any, key: str | None, error: Exception) -> None:
        """Hire another worker for one that died; its unit goes back to the queue."""
        self.ray.kill(worker)  # if it is only out of reach
        self.deaths[key] += 1
        if self.deaths[key] == _DEATHS:
            raise ValueError(
                f"{self.queue.name(key)}: {_DEATHS} workers died of it, the last like this: "
                f"{' '.join(str(error).split())} If memory ran out, ask for fewer workers."
            ) from error
        if key is not None:
            self.queue.left.insert(0, key)
        self._start()


_DEATHS = 3
"""So many workers may die of one unit before it is given up."""
