"""Every command is killed at any moment, started again, and has to end as if nothing had been.

``python -m tests.reliability.kills --n 40 --seed 0`` prints a table of what was killed and whether
the results are equal; it ends with status 1 if any differ, or if something is left lying about.
Every second kill is by the clock. The others come just before a file is made, renamed or deleted,
which is where a moment too early or too late would matter, and a clock hardly ever hits.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from commands import COMMANDS, FIRST, Command, make_inputs, without_figures  # noqa: E402
from folders import difference, litter  # noqa: E402
from processes import Job, Process, Server, server  # noqa: E402


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing happened to."""

    seconds: float
    n_changes: int
    """How often it changes something in its folder."""
    out: Path


@dataclass
class Tally:
    """What came of killing a command."""

    kills: int = 0
    equal: int = 0
    clean: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Workshop:
    """Where commands are run, and killed."""

    root: Path
    processes: Server
    _usual: dict[str, Undisturbed] = field(default_factory=dict)

    def job(self, command: Command, out: Path, **circumstances: Any) -> Job:
        """A command into a folder, as it is run; `circumstances` are fields of `Job`."""
        said = str(self.root / f"{out.name}.{uuid.uuid4().hex}.txt")
        return Job(command.arguments(self.root, out), said, **circumstances)

    def start(self, name: str, out: Path, **circumstances: Any) -> Process:
        """Start a command into a folder."""
        return self.processes.start(self.job(COMMANDS[name], out, **circumstances))

    def undisturbed(self, name: str) -> Undisturbed:
        """A command that nothing happened to; run when it is needed first."""
        if name not in self._usual:
            out = self.root / "undisturbed" / name
            COMMANDS[name].prepare(self.root, out)
            self._usual[name] = self.finish(COMMANDS[name], out)
        return self._usual[name]

    def finish(self, command: Command, out: Path) -> Undisturbed:
        """Run a command to its end.

        Raises:
            AssertionError: If it fails; with what it said.
        """
        start = time.monotonic()
        process = self.processes.start(self.job(command, out, counted=str(out)))
        if process.wait():
            raise AssertionError(f"{command.text}: {process.text()[-500:]}")
        return Undisturbed(time.monotonic() - start, process.n_changes(), out)

    def kill(self, name: str, out: Path, draw: random.Random) -> bool:
        """Kill a command at a random moment; whether it was still at work."""
        usual, counted = self.undisturbed(name), str(out)
        COMMANDS[name].prepare(self.root, out)
        if draw.random() < 0.5:
            process = self.start(name, out, counted=counted)
            time.sleep(draw.uniform(0, 0.9 * usual.seconds))
            if process.kill():
                return True
            shutil.rmtree(out)  # it was faster than usual
            COMMANDS[name].prepare(self.root, out)
        at = draw.randint(1, usual.n_changes)
        return self.start(name, out, counted=counted, killed_at=at).wait() != 0

    def check(self, name: str, draw: random.Random, tally: Tally) -> None:
        """Kill a command once, run it again, compare; note what came of it."""
        command, usual = COMMANDS[name], self.undisturbed(name)
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            # The same name everywhere: a folder's name is that of a condition.
            out = Path(folder) / usual.out.name
            tally.kills += self.kill(name, out, draw)
            self.finish(command, out)
            differs, left = difference(usual.out, out), litter(out)
        tally.equal += not differs
        tally.clean += not left
        tally.faults += [differs] if differs else []
        tally.faults += [f"left: {', '.join(left[:3])}"] if left else []


@contextmanager
def workshop(root: Path) -> Iterator[Workshop]:
    """A folder with all that the commands read, and a server of processes."""
    with server() as processes:
        shop = Workshop(make_inputs(root), processes)
        shop.finish(FIRST, root / "run")
        without_figures(root)
        yield shop


def kill_all(shop: Workshop, names: Sequence[str], n: int, seed: int) -> dict[str, Tally]:
    """Kill commands in turn, `n` times in all; name -> what came of it."""
    draw = random.Random(seed)
    tallies = {name: Tally() for name in names}
    for k in range(n):
        name = names[k % len(names)]
        shop.check(name, draw, tallies[name])
        sys.stderr.write(f"{k + 1} of {n}: {name} {tallies[name].faults or ''}\n")
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """The tallies as Markdown."""
    rows = [
        f"| {name} | {tally.kills} | {tally.equal} | {tally.clean} | {'; '.join(tally.faults)} |"
        for name, tally in tallies.items()
    ]
    return "\n".join(["| command | kills | equal | clean | |", "|---|--:|--:|--:|---|", *rows])


def main() -> None:
    """Kill, print the table, end with status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=40, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, comma-separated")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, workshop(Path(root)) as shop:
        tallies = kill_all(shop, options.only.split(","), options.n, options.seed)
    sys.stdout.write(table(tallies) + "\n")
    raise SystemExit(int(any(tally.faults for tally in tallies.values())))


if __name__ == "__main__":
    main()
