"""The command that writes benchmarks for lm-evaluation-harness: tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kb_lens.benchmarks.export_tasks import DEFAULT_TASKS, write_tasks
from kb_lens.cli.options import Config, Out, tell
from kb_lens.runs.benchmark_names import load_named
from kb_lens.runs.settings import Items


def tasks(
    *,
    out: Out = Path("out/tasks"),
    benchmarks: Annotated[
        tuple[str, ...],
        Parameter(help="Comma-separated: NAME[=FILE][:PROTOCOL][@ITEMS], else --limit."),
    ] = DEFAULT_TASKS,
    limit: Annotated[
        int | None, Parameter(help="Items per benchmark, balanced; default all.")
    ] = None,
    data_dir: Annotated[Path | None, Parameter(help="Folder with the benchmarks' files.")] = None,
    seed: Annotated[int, Parameter(help="Seed of samples.")] = 0,
    config: Config = None,
) -> None:
    """Write benchmarks as task files of lm-evaluation-harness, which need no kb_lens."""
    loaded = load_named(benchmarks, Items(limit=limit, data_dir=data_dir), seed)
    names = write_tasks(out, loaded)
    tell(f"Written to {out}. For example:")
    tell(
        "lm_eval --model hf --model_args pretrained=MODEL --apply_chat_template "
        f"--include_path {out} --tasks {','.join(names)}"
    )
