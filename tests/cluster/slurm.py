"""A real Slurm of two nodes on this machine shares a run, and requeues one; the tables are equal.

``python -m tests.cluster.slurm`` as root, with Debian's ``slurm-wlm`` and ``munge``. It starts a
controller and two node daemons in a temporary folder, and prints what was run and what came out;
it ends with status 1 if a result differs.

1. One process alone makes the run that the others are held against.
2. ``srun --ntasks=2`` over both nodes: two processes, one folder.
3. A batch job is requeued at work: it is told by SIGTERM, starts again by itself, and goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "reliability")]

from commands import COMMANDS, make_inputs  # noqa: E402
from folders import contents  # noqa: E402

_NODES = ("n1", "n2")
_CONFIGURATION = """
ClusterName=kb_lens
SlurmctldHost=localhost
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName=n1 NodeHostname=localhost Port=17001
NodeName=n2 NodeHostname=localhost Port=17002
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
_JOB = """#!/bin/bash
#SBATCH --job-name=kb_lens --requeue --open-mode=append --output={log}
#SBATCH --signal=B:TERM@60
exec {command}
"""


def main() -> None:
    """Run all three, and compare."""
    with tempfile.TemporaryDirectory(prefix="kb-lens-slurm-") as folder, cluster(Path(folder)):
        root = make_inputs(Path(folder) / "work")
        _say(_output("sinfo", "--Node", "--long"))
        alone = _run("alone", root, [])
        nodes = ["srun", "--nodes=2", "--ntasks=2", "--label"]
        shared = _run("srun", root, nodes)
        requeued = _requeued(root)
        ends = [_equal(alone, other) for other in (shared, requeued)]
    sys.exit(0 if all(ends) else 1)


@contextmanager
def cluster(root: Path) -> Iterator[None]:
    """Two nodes, while inside."""
    configuration = root / "slurm.conf"
    configuration.write_text(_CONFIGURATION.format(root=root))
    os.environ["SLURM_CONF"] = str(configuration)
    subprocess.run(["service", "munge", "start"], check=True)
    for node in _NODES:
        (root / node).mkdir()
    daemons = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in _NODES)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for daemon in daemons:
            log = (root / f"{'-'.join(daemon)}.log").open("wb")
            started.append(subprocess.Popen(daemon, stdout=log, stderr=log))
        _wait(lambda: _output("sinfo", "--noheader", "--format=%T %D").split() == ["idle", "2"])
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _command(root: Path, out: Path) -> list[str]:
    kb_lens = Path(sys.executable).with_name("kb-lens")
    return [str(kb_lens), *COMMANDS["run"].arguments(root, out)]


def _run(name: str, root: Path, before: list[str]) -> Path:
    """Run to the end; the folder."""
    out = root.parent / name / "out"
    start = time.monotonic()
    said = subprocess.run(
        [*before, *_command(root, out)], capture_output=True, text=True, check=False
    )
    _say(f"{name}: status {said.returncode}, {time.monotonic() - start:.1f} s")
    if said.returncode:
        _say(said.stdout + said.stderr)
    return out


def _requeued(root: Path) -> Path:
    """A batch job that is requeued when it has begun to attribute."""
    out, log = root.parent / "requeued" / "out", root.parent / "job.log"
    script = root.parent / "job.sh"
    script.write_text(_JOB.format(log=log, command=" ".join(_command(root, out))))
    number = _output("sbatch", "--parsable", str(script)).strip()
    _wait(lambda: any((out / "store").glob("*.safetensors")))
    _output("scontrol", "requeue", number)
    _say(f"requeued: job {number}, with {len(list((out / 'store').glob('*')))} files in its store")
    _wait(lambda: number in _output("squeue", "--noheader", "--format=%i", "--states=PENDING"))
    _output("scontrol", "update", f"JobId={number}", "StartTime=now")
    _wait(lambda: not _output("squeue", "--noheader", f"--jobs={number}").strip())
    last = [
        line for line in log.read_text().splitlines() if "terminated" in line or "CANCEL" in line
    ]
    _say("\n".join(f"  {line.strip()}" for line in last))
    return out


def _equal(alone: Path, other: Path) -> bool:
    """Whether two folders hold the same results; run.json says how they came about."""
    mine, others = contents(alone), contents(other)
    # plotly gives the parts of a drawing random names
    names = {name for name in {*mine, *others} if not name.endswith((".svg", ".pdf"))}
    different = [
        name for name in sorted(names - {"run.json"}) if mine.get(name) != others.get(name)
    ]
    _say(f"{other.parent.name}: {len(names)} files compared, different: {different or 'none'}")
    return not different


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _wait(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        time.sleep(0.2)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
