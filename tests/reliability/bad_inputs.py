"""The table of bad inputs: what is given, and what the one line that refuses it has to say.

In a command line ``{MODEL}`` and other names in capitals stand for what `world.make_world` makes,
``{HERE}`` for the case's own folder, in which `BadInput.spoil` makes what is damaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BadInput:
    """What a user may give, and what is said to it."""

    kind: str
    """The row of the table in docs/reliability.md."""
    line: str
    """The command line, or for `call` how it is written."""
    words: tuple[str, ...]
    """What the line has to contain: the option's or argument's name, or the file's."""
    spoil: Callable[["Made"], object] | None = None
    """Makes the damaged files."""
    call: Callable[["Made"], object] | None = None
    """A call of the Python API instead of a command."""
    slow: bool = False
    """Whether a model is loaded before it can be refused."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.line}"


@dataclass(frozen=True)
class Made:
    """What there is to work with."""

    world: Path
    """The folder of `world.make_world`; nobody changes it."""
    here: Path
    """The case's own folder."""


MODEL_LINES = {
    "run": "run {MODEL} --bank {BANK} --data-dir {DATA} --benchmarks stereoset",
    "identify": "identify {MODEL} --bank {BANK}",
    "evaluate": "evaluate {MODEL} --data-dir {DATA} --benchmarks stereoset",
    "export": "export {MODEL} --neurons {NEURONS} --lam 2",
    "experiment": "experiment lambda {MODEL} --bank {BANK} --data-dir {DATA} "
    "--benchmarks stereoset",
    "paper": "paper {MODEL} --bank {BANK} --data-dir {DATA} --benchmarks stereoset",
    "tune": "tune {MODEL} --neurons {NEURONS} --data-dir {DATA}",
    "neurons": "neurons {MODEL} --neurons {NEURONS} --bank {BANK}",
    "doctor": "doctor {MODEL} --bank {BANK}",
}
"""Command -> a line that would run."""
READ_LINES = {
    "compare": "compare {BASE} {ENHANCED}",
    "figures": "figures {RUN} --formats html",
    "report": "report {RUN}",
}
"""The same, of the commands that need no model."""
TASK_LINES = {"tasks": "tasks --data-dir {DATA} --benchmarks stereoset"}
"""The same, of the command that needs benchmarks alone."""
OUT = " --out {HERE}/out"
LINES = {
    **{name: f"{line}{OUT}" for name, line in (MODEL_LINES | READ_LINES | TASK_LINES).items()},
    "report": f"{READ_LINES['report']}{OUT}/page.html",
}
