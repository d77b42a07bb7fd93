"""What the command prints: tables of numbers with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from kb_lens.cli.options import tell
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import interval_text
from kb_lens.knowledge.verdict import Knowledge

_INTERVALS = {
    "value": ("low", "high", ""),
    "difference": ("difference_low", "difference_high", "+"),
    "gain": ("low", "high", "+"),
    "control_mean": ("control_low", "control_high", "+"),
    "balanced_accuracy": ("balanced_accuracy_low", "balanced_accuracy_high", ""),
    "auc": ("auc_low", "auc_high", ""),
    "average_rank": ("rank_low", "rank_high", ""),
}
"""Column -> the columns with the ends of its interval, and the sign that it is written with."""


def show_knowledge(knowledge: Knowledge) -> None:
    """What a model answers, over all questions and by dimension and kind."""
    groups = [knowledge.summary(), knowledge.summary("dimension"), knowledge.summary("kind")]
    table = pd.concat([*groups, knowledge.form_summary()]).rename_axis("questions").reset_index()
    show_table(_with_intervals(table), f"What {knowledge.model} answers")


def show_table(table: pd.DataFrame, title: str) -> None:
    """Any small table."""
    on_screen = Table(title=title, title_justify="left")
    for column in table.columns:
        numbers = pd.api.types.is_numeric_dtype(table[column])
        on_screen.add_column(str(column), justify="right" if numbers else "left")
    for row in table.itertuples(index=False):
        on_screen.add_row(*map(_cell, row))
    _console().print(on_screen)


def show_study(table: pd.DataFrame, title: str) -> None:
    """A study's table, each interval beside its value in one column; ranks by their average."""
    brief = _with_intervals(table)
    for name in brief.columns.intersection(["p", "q"]):
        # two digits that count: 0.004 is not 0
        brief[name] = ["" if pd.isna(value) else f"{value:.2g}" for value in brief[name]]
    details = [name for name in brief if str(name).endswith((" change", " rank"))]
    # A column without a value (the draw, where there are no draws) only makes the others narrow.
    show_table(brief.drop(columns=details).dropna(axis="columns", how="all"), title)


def show_summary(summary: pd.DataFrame, results: Sequence[EvaluationResult] = ()) -> None:
    """Value and interval of every condition, and the paired difference from the first one.

    Args:
        summary: `kb_lens.evaluation.comparison.summarize`.
        results: Of one condition: under the table stands what each benchmark is.
    """
    on_screen = Table(title="Value [95 % interval], and paired difference from the base model")
    columns = ["benchmark", "metric", "condition", "value", "difference", "n", "clusters"]
    for column in columns:
        on_screen.add_column(column, justify="right" if column in ("n", "clusters") else "left")
    brief = _with_intervals(summary).reindex(columns=columns, fill_value="")
    for number, (_, rows) in enumerate(brief.groupby(["benchmark", "metric"], sort=False)):
        if number:
            on_screen.add_section()
        repeated = rows[["benchmark", "metric"]].duplicated()
        rows.loc[repeated, ["benchmark", "metric"]] = ""
        for row in rows.itertuples(index=False):
            on_screen.add_row(*map(_cell, row))
    _console().print(on_screen)
    for result in results:
        tell(f"{result.key}: {len(result.items)} items. {result.source}")


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Each value with its interval as text in one column."""
    brief = table.copy()
    for column, (low, high, sign) in _INTERVALS.items():
        if {column, low, high} <= set(table.columns):
            rows = zip(table[column], table[low], table[high], strict=True)
            brief[column] = [
                "" if pd.isna(row[0]) else interval_text(*row, spec=f"{sign}.2f") for row in rows
            ]
    ends = {end for low, high, _ in _INTERVALS.values() for end in (low, high)}
    return brief.drop(columns=[name for name in brief if name in ends])


def _console() -> Console:
    """Wide enough for a row a line where the output goes into a file."""
    console = Console()
    # Rich takes a file for a terminal of 80 columns, which breaks the rows of a summary.
    return console if console.is_terminal else Console(width=120)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        # Two decimals at most, and none that says nothing: 2 and not 2.00.
        return "" if pd.isna(value) else f"{value:.2f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)
