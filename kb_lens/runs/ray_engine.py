"""Units of work on the workers of a Ray cluster, or of a Ray that is started here."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from kb_lens.runs.engines import Queue, Unit, naming
from kb_lens.store import POLL_SECONDS, Store

_DEATHS = 3
"""So many workers may die of one unit before it is given up: one death may be chance, a machine
that was switched off, but a unit that does not fit the memory kills every worker."""


def run_ray(
    units: Mapping[str, Unit],
    store: Store,
    make_work: Callable[[], Callable[[Unit], bytes]],
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
        store: Where the entries are; only this process needs the folder.
        make_work: Called once by each worker, to load the model; returns what does a unit and
            gives the content of its entry.
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
    with Queue(units, store, progress) as queue, ExitStack() as stack:
        if not queue.left:
            return
        ray = stack.enter_context(_ray(address))
        threads = num_cpus or 1
        reserved = threads
        if address is None:
            processors = int(ray.cluster_resources().get("CPU", 1))
            threads = num_cpus or max(1, processors // workers)
            reserved = 0  # nothing else is given work on this machine
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
def _ray(address: str | None) -> Generator[Any, None, None]:
    """The package, connected to a cluster; what is started here is stopped here."""
    if address is None:
        _keep_to_itself()
    ray: Any = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_address(address)
        ray.init(**({"address": address} if address else _OF_THIS_MACHINE))
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


# The second address of the loopback: Ray replaces the first by one that the network reaches. macOS
# has no second; there a local Ray keeps to the loopback by itself.
_LOOPBACK = {"_node_ip_address": "127.0.0.2"} if sys.platform == "linux" else {}
_OF_THIS_MACHINE: dict[str, Any] = {"address": "local", "include_dashboard": False, **_LOOPBACK}
"""How a Ray of this machine alone is started."""


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
    needs = {name: need for name, need in needs.items() if need}
    room = 0
    for node in nodes:
        if node["Alive"]:
            # A little more, since 1 / (1 / 3) may come out below 3.
            fits = [
                int(node["Resources"].get(name, 0) / need + 1e-6) for name, need in needs.items()
            ]
            room += min(fits, default=workers)
    if room < workers:
        each = " and ".join(f"{need:g} {name}" for name, need in needs.items())
        raise ValueError(
            f"there is room for {room} workers of {each} each, asked for were {workers}. "
            "Ask for fewer or smaller ones, or add nodes to the cluster."
        )


class _Worker:
    """Lives in a process of its own, as a Ray actor."""

    def __init__(self, make_work: Callable[[], Callable[[Any], bytes]], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._make_work = make_work
        self._work: Callable[[Any], bytes] | None = None

    def ready(self) -> None:
        """Answered when the process is there."""

    def do(self, unit: Any) -> bytes:
        if self._work is None:  # here, where an exception reaches the driver as it is
            self._work = self._make_work()
        return self._work(unit)


class _Task(NamedTuple):
    """What the driver waits for."""

    worker: Any
    key: str | None
    """The unit; None is the start of the worker."""
    claim: ExitStack
    """Of the unit."""


class _Crew:
    """The workers, as the driver sees them."""

    def __init__(self, ray: Any, queue: Queue[Any], hire: Callable[[], Any]) -> None:
        self._ray = ray
        self._queue = queue
        self._hire = hire
        self._hired: list[Any] = []
        self._idle: list[Any] = []
        self._tasks: dict[Any, _Task] = {}
        """By what Ray gave for the task's result to come."""
        self._deaths: Counter[str | None] = Counter()

    def work(self, workers: int) -> None:
        """Until every unit has an entry."""
        try:
            for _ in range(workers):
                self._start()
            while self._queue.left or any(task.key for task in self._tasks.values()):
                self._hand_out()
                self._collect()
        finally:
            for task in self._tasks.values():
                task.claim.close()
            for worker in self._hired:
                self._ray.kill(worker)

    def _start(self) -> None:
        worker = self._hire()
        self._hired.append(worker)
        self._tasks[worker.ready.remote()] = _Task(worker, None, ExitStack())

    def _hand_out(self) -> None:
        while self._idle:
            claimed = self._queue.claim()
            if claimed is None:
                return
            key, claim = claimed
            worker = self._idle.pop()
            self._tasks[worker.do.remote(self._queue.units[key])] = _Task(worker, key, claim)

    def _collect(self) -> None:
        if not self._tasks:  # all that is left is in the hands of other processes
            time.sleep(POLL_SECONDS)
            return
        answered, _ = self._ray.wait(list(self._tasks), timeout=POLL_SECONDS)
        for answer in answered:
            task = self._tasks.pop(answer)
            with task.claim:
                self._receive(answer, task)

    def _receive(self, answer: Any, task: _Task) -> None:
        try:
            content = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # the work raised it
            with naming(self._name(task.key)):
                raise error.cause from error
        except self._ray.exceptions.RayError as error:  # the worker died
            self._replace(task, error)
            return
        if task.key is not None:
            self._queue.finish(task.key, content)
        self._idle.append(task.worker)

    def _replace(self, task: _Task, error: Exception) -> None:
        """Hire another worker for one that died; its unit goes back to the queue."""
        self._ray.kill(task.worker)  # if it is only out of reach
        self._deaths[task.key] += 1
        if self._deaths[task.key] == _DEATHS:
            raise ValueError(
                f"{self._name(task.key)}: {_DEATHS} workers died of it, the last like this: "
                f"{' '.join(str(error).split())} If memory ran out, ask for fewer workers."
            ) from error
        if task.key is not None:
            self._queue.put_back(task.key)
        self._start()

    def _name(self, key: str | None) -> str:
        return "the start of a worker" if key is None else str(self._queue.units[key])
