"""The command in processes of its own that start in no time, to be killed.

A server imports torch and kb_lens once and forks for every command. Run as a script it is the
server: it reads a job a line and answers with a line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 120
_COUNT = "changes: "
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")
"""What Python tells of before it changes something in a folder; opening to write comes to it."""


@dataclass(frozen=True)
class Job:
    """A command and the circumstances in which it runs."""

    arguments: Sequence[str]
    said: str
    """The file of what it prints."""
    counted: str = ""
    """Changes of files below this folder are counted ..."""
    killed_at: int = 0
    """... and before this one the process kills itself; 0 for never."""
    umask: int = 0o022
    slowed: float = 0.0
    """Seconds that each pass of the model takes more."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Process:
    """A command at work."""

    number: int
    said: Path
    _answer: Callable[..., Any]

    def kill(self) -> int:
        """Kill it, and return its status."""
        with suppress(ProcessLookupError):
            os.kill(self.number, signal.SIGKILL)
        return self.wait()

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.number, sign)

    def ended(self) -> int | None:
        """Its exit status, negative after a signal; None while it is at work."""
        return self._answer("ended", self.number)

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """Its exit status, once it has ended."""
        end = time.monotonic() + seconds
        while (status := self.ended()) is None:
            if time.monotonic() > end:
                os.kill(self.number, signal.SIGKILL)
                raise AssertionError(f"after {seconds} s it is still at work: {self.text()}")
            time.sleep(0.01)
        return status

    def text(self) -> str:
        """What it has printed."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def n_changes(self) -> int:
        """How often it has changed something below the folder that is counted in."""
        return int(self.text().rpartition(_COUNT)[2])

    def error(self) -> str:
        """The one line that says why it ended."""
        lines = [line for line in self.text().split("\n") if "kb-lens: " in line]
        if len(lines) != 1:
            raise AssertionError(f"not one line of error: {self.text()}")
        return lines[0][lines[0].index("kb-lens: ") :]


class Server:
    """Starts commands; any number may be at work."""

    def __init__(self, pipe: subprocess.Popen[str]) -> None:
        self._pipe = pipe

    def start(self, job: Job) -> Process:
        """Start a command."""
        return Process(self._answer("start", asdict(job)), Path(job.said), self._answer)

    def _answer(self, verb: str, content: Any) -> Any:
        pipe = self._pipe
        if pipe.stdin is None or pipe.stdout is None:
            raise AssertionError("the server has no pipes")
        pipe.stdin.write(json.dumps([verb, content]) + "\n")
        pipe.stdin.flush()
        return json.loads(pipe.stdout.readline())


@contextmanager
def server() -> Iterator[Server]:
    """A server, until the block ends."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{tests}:{tests.parent}",
    }
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as pipe:
        try:
            yield Server(pipe)
        finally:
            pipe.kill()


# --- in the server -------------------------------------------------------------------------------


def _serve() -> None:
    import kb_lens.cli.jobs
    import kb_lens.cli.pages
    import kb_lens.cli.studies  # noqa: F401  # all that a command imports, once

    statuses: dict[int, int] = {}
    for line in sys.stdin:
        verb, content = json.loads(line)
        answer = _fork(Job(**content)) if verb == "start" else _status(content, statuses)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _status(number: int, statuses: dict[int, int]) -> int | None:
    """A child's status; what has ended is no zombie any more."""
    if number not in statuses:
        ended, status = os.waitpid(number, os.WNOHANG)
        if not ended:
            return None
        statuses[number] = os.waitstatus_to_exitcode(status)
    return statuses[number]


def _fork(job: Job) -> int:
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        status = _command(job)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # what is printed may go to a full disk too
                stream.flush()
        os._exit(status)


def _command(job: Job) -> int:
    from kb_lens.cli.main import main

    file = os.open(job.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(job.environment)
    os.umask(job.umask)
    # Tests in a shell's background ignore Ctrl-C, and who they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _change(job)
    changes: list[str] = []
    if job.counted:
        _count_changes(job, changes)
    sys.argv = ["kb-lens", *job.arguments]
    try:
        main()
    except SystemExit as stop:
        sys.stdout.write(f"{_COUNT}{len(changes)}\n")
        return int(stop.code or 0)
    return 71


def _change(job: Job) -> None:
    """Make what takes a command minutes, or a browser, small."""
    import torch

    import kb_lens.evaluation.slices as slices

    slices.SLICE_ITEMS = 4  # so that little data has unfinished slices too
    sys.modules["kaleido"] = None  # type: ignore[assignment]  # a browser takes seconds to start
    if job.slowed:
        torch.nn.modules.module.register_module_forward_pre_hook(partial(_sleep, job.slowed))


def _sleep(seconds: float, module: object, inputs: object) -> None:
    """Take longer before a pass of the whole model."""
    if type(module).__name__.endswith("ForCausalLM"):
        time.sleep(seconds)


def _count_changes(job: Job, changes: list[str]) -> None:
    """Note what is changed below a folder, and die before a change that was chosen."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not (opened or event in _CHANGES) or isinstance(arguments[0], int):
            return
        if os.fsdecode(arguments[0]).startswith(job.counted):
            changes.append(event)
            if len(changes) == job.killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    _serve()
