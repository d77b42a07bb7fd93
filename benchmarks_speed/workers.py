"""One process, two processes and two Ray workers on the same run and study: seconds and results.

    python benchmarks_speed/workers.py
    python benchmarks_speed/workers.py --model meta-llama/Llama-3.2-3B-Instruct --limit 200

Every process has the same number of threads, so that sums are rounded alike and the tables must be
equal to the bit. With fewer processors than processes there is no gain.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

WAYS = {"one process": (1, ()), "two processes": (2, ()), "two of Ray's": (1, ("--engine", "ray"))}
"""Way -> how often the command is started, and its further options."""
RESULTS = ("*.csv", "neurons*.json", "*.safetensors", "*.parquet")


def main() -> None:
    """Print a table per job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--questions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    items = ["--questions", str(given.questions), "--benchmarks", "stereoset,openbookqa"]
    items += ["--limit", str(given.limit)]
    jobs = {"run": ["run", given.model], "study": ["experiment", "aggregation", given.model]}
    for name, job in jobs.items():
        sys.stdout.write(f"{name}: {_table([*job, *items], given.threads).to_string()}\n")


def _table(command: Sequence[str], threads: int) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for way, (times, further) in WAYS.items():
            out = Path(folder) / way.replace(" ", "-")
            seconds = _seconds([*command, *further, "--out", str(out)], times, threads)
            rows[way] = {"seconds": round(seconds, 1), "tables": _tables(out)}
    table = pd.DataFrame(rows).T
    table["of one"] = (table["seconds"] / table["seconds"].iloc[0]).astype(float).round(2)
    table["same"] = table["tables"] == table["tables"].iloc[0]
    return table.drop(columns="tables")


def _seconds(command: Sequence[str], times: int, threads: int) -> float:
    """The seconds until all started processes have ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    kb_lens = str(Path(sys.executable).with_name("kb-lens"))
    start = time.perf_counter()
    started = [
        subprocess.Popen([kb_lens, *command], env=environment, stdout=subprocess.DEVNULL)
        for _ in range(times)
    ]
    if any(process.wait() for process in started):
        raise SystemExit("a process failed: see above")
    return time.perf_counter() - start


def _tables(folder: Path) -> dict[str, object]:
    """The content of the results by file, without times and the order of metadata."""
    read = {".parquet": _items, ".safetensors": _tensors}
    return {
        path.relative_to(folder).as_posix(): read.get(path.suffix, Path.read_bytes)(path)
        for pattern in RESULTS
        for path in sorted(folder.rglob(pattern))
        if "store" not in path.parts
    }


def _items(path: Path) -> str:
    return pd.read_parquet(path).to_csv()


def _tensors(path: Path) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


if __name__ == "__main__":
    main()
