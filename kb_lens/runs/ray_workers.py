"""A whole job on the workers of a Ray cluster, or of a Ray that is started here.

Every worker does the same job in the same folder, as so many processes of a batch system would:
they share the pieces of work through the folder's store (`kb_lens.shared_work`). So there is no
driver that hands out work and needs the model. Ray starts the workers, gives each its GPUs, and
starts one that died again; what it had begun is free for the others as soon as it is dead.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm.auto import tqdm

from kb_lens.runs.execution import Workers
from kb_lens.shared_work import Progress, watcher
from kb_lens.store import POLL_SECONDS

Result = TypeVar("Result")

_DEATHS = 3
"""So often may a worker die: a death may be chance, a machine that was switched off, but work that
does not fit the memory kills again and again."""
_ENVIRONMENT = ("KB_LENS_DATA", "HF_HOME", "HF_HUB_OFFLINE")
"""What a worker of a running cluster has to know of this process's environment."""

_working: ContextVar[bool] = ContextVar("working", default=False)


def hands_out(workers: Workers) -> bool:
    """Whether this process is to leave the job to workers of Ray: it is not one itself."""
    return workers.engine == "ray" and not _working.get()


def by_workers(
    job: Callable[..., Result], workers: Workers, **channels: Callable[[str], object]
) -> Result:
    """Do a job with several workers; one that dies is started again.

    Args:
        job: Does its share of the work and waits for the rest; all see the folder that it works
            in. It travels to the workers.
        workers: How many, where, with which devices.
        channels: Further arguments of `job`. Called here with the texts that the first worker
            calls them with.

    Returns:
        What the first worker's job returned.

    Raises:
        ValueError: If Ray is not installed, no cluster answers or it is too small, the job raised
            one, or a worker died again and again. Finished work stays.
    """
    check_ray(workers)
    with _ray(workers.address) as ray:
        n_workers, needs = _room(ray, workers)
        options: dict[str, Any] = {"max_restarts": _DEATHS, "max_task_retries": _DEATHS}
        options |= {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"]}
        if workers.address is not None:
            known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            options["runtime_env"] = {"env_vars": known}
        threads = 1
        if workers.address is None:
            threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // n_workers)
        messages = import_module("ray.util.queue").Queue(actor_options={"num_cpus": 0})
        worker = ray.remote(**options)(_Worker)
        crew = [
            worker.remote(rank, threads, str(Path.cwd()), messages) for rank in range(n_workers)
        ]
        try:
            return _Watch(ray, messages, channels).results(
                [member.do.remote(job, tuple(channels)) for member in crew]
            )[0]
        finally:
            for member in crew:
                ray.kill(member)
            messages.shutdown()


def check_ray(workers: Workers) -> None:
    """Raise `ValueError` unless Ray is installed and the job can be left to it."""
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
        where: dict[str, Any] = {"address": address} if address else _OF_THIS_MACHINE
        ray.init(**where, log_to_driver=False)
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


def _room(ray: Any, workers: Workers) -> tuple[int, dict[str, float]]:
    """How many workers, and what each is given.

    Raises:
        ValueError: If fewer would fit on all nodes together: Ray would wait for ever.
    """
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    gpus = workers.gpus
    if gpus == "auto":
        gpus = min(n_gpus, 1)
        if workers.device_map is not None and workers.workers is not None:
            gpus = n_gpus // workers.workers  # a model over several
    n_workers = workers.workers or (int(n_gpus / gpus) if gpus else 2)
    # Nothing else is given work on this machine.
    needs = {"CPU": 0 if workers.address is None else 1, "GPU": gpus}
    room = sum(_fits(node, needs, n_workers) for node in ray.nodes() if node["Alive"])
    if room < n_workers:
        each = " and ".join(f"{need:g} {name}" for name, need in needs.items() if need)
        raise ValueError(
            f"there is room for {room} workers of {each} each, asked for were {n_workers}. "
            "Ask for fewer or smaller ones, or add nodes to the cluster."
        )
    return n_workers, needs


def _fits(node: Mapping[str, Any], needs: Mapping[str, float], most: int) -> int:
    """How many workers fit on a node."""
    # A little more, since 1 / (1 / 3) may come out below 3.
    fits = [
        int(node["Resources"].get(name, 0) / need + 1e-6) for name, need in needs.items() if need
    ]
    return min(fits, default=most)


class _Message(NamedTuple):
    """What a worker tells this process."""

    rank: int
    channel: str
    """One of the job's, ``warning``, or ``progress``."""
    content: Any


class _Worker:
    """Lives in a process of its own, as a Ray actor."""

    def __init__(self, rank: int, threads: int, folder: str, messages: Any) -> None:
        import torch

        torch.set_num_threads(threads)
        self._rank = rank
        self._folder = folder
        self._messages = messages

    def do(self, job: Callable[..., Any], channels: tuple[str, ...]) -> Any:
        if not Path(self._folder).is_dir():
            raise ValueError(
                f"a worker does not see '{self._folder}': all must see the folder that the job "
                "works in. Begin in one that every machine has."
            )
        os.chdir(self._folder)  # paths are as they were given
        _working.set(True)
        watcher.set(partial(self._send, "progress"))
        warnings.showwarning = self._warn
        return job(**{channel: partial(self._send, channel) for channel in channels})

    def _warn(self, message: Warning | str, *_where: Any, **_further: Any) -> None:
        self._send("warning", str(message))

    def _send(self, channel: str, content: Any) -> None:
        if self._rank == 0 or channel == "progress":
            self._messages.put(_Message(self._rank, channel, content))


class _Watch:
    """What this process sees of the workers: a bar, the first one's words, and what went wrong."""

    def __init__(
        self, ray: Any, messages: Any, channels: Mapping[str, Callable[[str], object]]
    ) -> None:
        self._ray = ray
        self._messages = messages
        self._channels = {**channels, "warning": warnings.warn, "progress": lambda text: None}
        self._bar: Any = None
        self._at: dict[int, str] = {}
        """Rank -> the piece of work that it was last at."""

    def results(self, answers: list[Any]) -> list[Any]:
        """What the jobs return, when all are done.

        Raises:
            ValueError: If a worker died too often; it names what that one was at. What a job
                raised is raised as it is.
        """
        waiting = list(answers)
        try:
            while waiting:
                done, waiting = self._ray.wait(waiting, timeout=POLL_SECONDS)
                self._relay()
                for answer in done:
                    self._check(answer, answers.index(answer))
        finally:
            self._close()
        return self._ray.get(answers)

    def _check(self, answer: Any, rank: int) -> None:
        try:
            self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:  # the job raised it
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            at = self._at.get(rank)
            raise ValueError(
                f"{at or 'the start of a worker'}: a worker died of it {_DEATHS + 1} times, the "
                f"last like this: {' '.join(str(error).split())} If memory ran out, ask for fewer "
                "workers."
            ) from error

    def _relay(self) -> None:
        for message in self._messages.get_nowait_batch(self._messages.qsize()):
            if message.channel != "progress":
                self._channels[message.channel](message.content)
                continue
            if message.content.kind != "slice":  # those of a unit, which is shown
                self._show(message.content)
            if message.content.current:
                self._at[message.rank] = message.content.current

    def _show(self, progress: Progress) -> None:
        if self._bar is None or (self._bar.unit, self._bar.total) != (
            progress.kind,
            progress.total,
        ):
            self._close()
            self._bar = tqdm(
                total=progress.total,
                initial=progress.done,
                unit=progress.kind,
                desc=f"{progress.kind}s",
            )
        self._bar.update(max(0, progress.done - self._bar.n))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
