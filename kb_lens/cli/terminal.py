"""What the command prints: tables of numbers with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.knowledge import Knowledge


def show_knowledge(found: Knowledge) -> None:
    """What a model answers, over all questions and by dimension and kind."""
    parts = [found.summary(), found.summary("dimension"), found.summary("kind")]
    table = pd.concat(parts).rename_axis("questions").reset_index()
    show_table(table, f"What {found.model} answers")


def show_table(table: pd.DataFrame, title: str) -> None:
    """Any small table."""
    shown = Table(title=title, title_justify="left")
    for column in table.columns:
        numbers = pd.api.types.is_numeric_dtype(table[column])
        shown.add_column(str(column), justify="right" if numbers else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*map(_cell, row))
    _console().print(shown)


_INTERVALS = {
    "value": ("low", "high", ""),
    "difference": ("difference_low", "difference_high", "+"),
    "gain": ("low", "high", "+"),
    "control_mean": ("control_low", "control_high", "+"),
    "average_rank": ("rank_low", "rank_high", ""),
}
"""Column -> the columns with the ends of its interval, and the sign that it is written with."""


def show_study(table: pd.DataFrame, title: str) -> None:
    """A study's table, each interval beside its value in one column; ranks by their average."""
    shown = table.copy()
    for column, (low, high, sign) in _INTERVALS.items():
        if {column, low, high} <= set(table.columns):
            ends = zip(table[column], table[low], table[high], strict=True)
            shown[column] = ["" if pd.isna(v) else _interval(v, a, b, sign) for v, a, b in ends]
    ends = {end for low, high, _ in _INTERVALS.values() for end in (low, high)}
    kept = [name for name in shown if name not in ends and not name.endswith((" change", " rank"))]
    show_table(pd.DataFrame(shown[kept]), title)


def show_summary(summary: pd.DataFrame, benchmarks: Sequence[Benchmark] = ()) -> None:
    """Value and interval of every condition, and the paired difference from the first one."""
    shown = Table(title="Value [95 % interval], and paired difference from the base model")
    for column in ("benchmark", "metric", "condition", "value", "difference", "n"):
        shown.add_column(column, justify="right" if column == "n" else "left")
    above: tuple[str, ...] = ()
    for row in summary.to_dict("records"):
        head = (str(row["benchmark"]), str(row["metric"]))
        if above and head != above:
            shown.add_section()
        names = ("", "") if head == above else head
        value = "" if np.isnan(row["value"]) else _interval(row["value"], row["low"], row["high"])
        shown.add_row(*names, str(row["condition"]), value, _difference(row), str(row["n"]))
        above = head
    _console().print(shown)
    for benchmark in benchmarks:
        typer.echo(f"{benchmark.key}: {len(benchmark.items)} items. {benchmark.source}")


def _console() -> Console:
    """Wide enough for a row a line where the output goes into a file."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _difference(row: dict[Any, Any]) -> str:
    if bool(np.isnan(row.get("difference", np.nan))):
        return ""
    return _interval(row["difference"], row["difference_low"], row["difference_high"], "+")


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.2f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)
