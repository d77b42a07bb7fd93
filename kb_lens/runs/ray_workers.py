"""A whole job on the workers of a Ray cluster, or of a Ray that is started here.

Every worker does the same job in the same folder, like several processes of a batch system. They
share the pieces of work through the folder's store (`kb_lens.shared_work`), so no driver hands out
work or needs the model. Ray starts the workers, gives each its GPUs, and restarts a worker that
died; its unfinished work is free for the others at once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kb_lens.progress import progress_bar
from kb_lens.runs.execution import SharedExecution
from kb_lens.runs.ray_cluster import check_ray, connected, room_for
from kb_lens.shared_work import Progress, watcher
from kb_lens.store import POLL_SECONDS
from kb_lens.user_warnings import each_once, warn_user

Result = TypeVar("Result")

_DEATHS = 3
"""How often a worker may die. One death may be chance, such as a machine that was switched off;
work that does not fit the memory kills again and again."""
_ENVIRONMENT = ("KB_LENS_DATA", "HF_HOME", "HF_HUB_OFFLINE")
"""Environment variables that workers of a running cluster take from this process."""

_working: ContextVar[bool] = ContextVar("working", default=False)


def hands_out(workers: SharedExecution) -> bool:
    """Whether this process leaves the job to Ray's workers: it is not a worker itself."""
    return workers.engine == "ray" and not _working.get()


@each_once()
def by_workers(
    job: Callable[..., Result], workers: SharedExecution, **channels: Callable[[str], object]
) -> Result:
    """Do a job with several workers; a worker that dies is started again.

    Args:
        job: Does its share of the work and waits for the rest. It is sent to the workers, which
            must all see its folder.
        workers: Number of workers, where they run, their devices, and whether to show a progress
            bar.
        channels: Further arguments of `job`: functions that are called here with the texts with
            which the first worker calls them.

    Returns:
        The result of the first worker's job.

    Raises:
        ValueError: If Ray is not installed, no cluster answers, it is too small, the job raised a
            ValueError, or a worker died too often. Finished work stays.
    """
    check_ray()
    with connected(workers.address) as ray:
        n_workers, needs = room_for(ray, workers)
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
        crew = [worker.remote(rank, threads, str(Path.cwd())) for rank in range(n_workers)]
        try:
            answers = [member.do.remote(job, tuple(channels), messages) for member in crew]
            watch = _Watch(ray, messages, channels, workers.progress)
            return watch.results(answers)[0]
        finally:
            for member in crew:
                ray.kill(member)
            messages.shutdown()


class _Message(NamedTuple):
    """A message from a worker to this process."""

    rank: int
    channel: str
    """One of the job's channels, ``warning``, or ``progress``."""
    content: Any


class _Worker:
    """A worker in a process of its own, a Ray actor."""

    def __init__(self, rank: int, threads: int, folder: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self._rank = rank
        self._folder = folder
        self._messages: Any = None

    def do(self, job: Callable[..., Any], channels: tuple[str, ...], messages: Any) -> Any:
        self._messages = messages
        if not Path(self._folder).is_dir():
            raise ValueError(
                f"a worker does not see '{self._folder}': all must see the job's folder. Start in "
                "a folder that every machine has."
            )
        os.chdir(self._folder)  # paths may be relative
        _working.set(True)
        watcher.set(partial(self._send, "progress"))
        warnings.showwarning = self._warn
        return job(**{channel: partial(self._send, channel) for channel in channels})

    def _warn(self, message: Warning | str, *_where: Any, **_further: Any) -> None:
        self._send("warning", str(message))

    def _send(self, channel: str, content: Any) -> None:
        if self._rank == 0 or channel in ("progress", "warning"):
            self._messages.put(_Message(self._rank, channel, content))


class _Watch:
    """Shows the workers' progress and the first one's messages here, and raises their errors."""

    def __init__(
        self,
        ray: Any,
        messages: Any,
        channels: Mapping[str, Callable[[str], object]],
        progress: bool,
    ) -> None:
        self._ray = ray
        self._messages = messages
        self._channels = {**channels, "warning": warn_user}
        self._progress = progress
        self._bar: Any = None
        self._shown: tuple[str, int] | None = None
        """The kind of work that the bar counts."""
        self._at: dict[int, str] = {}
        """Rank -> the piece of work that the worker was last at."""

    def results(self, answers: list[Any]) -> list[Any]:
        """The results of the jobs, when all are done.

        Raises:
            ValueError: If a worker died too often; the message names its work. An error of a job
                is raised as it is.
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
                f"{at or 'the start of a worker'}: a worker died there {_DEATHS + 1} times. Last "
                f"error: {' '.join(str(error).split())} If memory ran out, ask for fewer workers."
            ) from error

    def _relay(self) -> None:
        for message in self._messages.get_nowait_batch(self._messages.qsize()):
            if message.channel != "progress":
                self._channels[message.channel](message.content)
                continue
            if message.content.kind != "slice":  # the unit of a slice is shown already
                self._show(message.content)
            if message.content.current:
                self._at[message.rank] = message.content.current

    def _show(self, progress: Progress) -> None:
        shown = (progress.kind, progress.total)
        if shown != self._shown:
            self._close()
            self._shown = shown
            self._bar = progress_bar(
                total=progress.total,
                initial=progress.done,
                unit=progress.kind,
                desc=f"{progress.kind}s",
                shown=self._progress,
            )
        self._bar.update(max(0, progress.done - self._bar.n))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
