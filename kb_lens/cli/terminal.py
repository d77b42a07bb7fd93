"""The output of commands: tables of numbers with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kb_lens.cli.options import QUOTE, tell
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import count_text, interval_text
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.report.page import INTERVALS, SIGNED, Section

_WIDTH = 80
"""Letters per line of the headline tables."""
_SUMMARY = ["benchmark", "metric", "condition", "value", "difference", "n", "clusters"]
_HEADLINE = (
    "Gain: how much nearer to the best value, in the metric's unit, with 95 % paired\n"
    "intervals. The files have all metrics."
)


def show_knowledge(knowledge: Knowledge) -> None:
    """A model's answers, over all questions and by dimension and kind."""
    groups = [knowledge.summary(), knowledge.summary("dimension"), knowledge.summary("kind")]
    table = pd.concat([*groups, knowledge.form_summary()]).rename_axis("questions").reset_index()
    brief = _with_intervals(table).drop(columns="said_no")  # the rest of said_yes
    show_table(brief, f"What {knowledge.model} answers")


def show_table(table: pd.DataFrame, title: str) -> None:
    """Any small table."""
    on_screen = Table(title=title, title_justify="left")
    for column in table.columns:
        numbers = pd.api.types.is_numeric_dtype(table[column])
        on_screen.add_column(str(column), justify="right" if numbers else "left")
    for row in table.itertuples(index=False):
        on_screen.add_row(*map(_cell, row))
    _print(on_screen)


def show_study(table: pd.DataFrame, title: str) -> None:
    """A study's table, with each value and its interval in one column; ranks by their average."""
    brief = _with_intervals(table)
    for name in brief.columns.intersection(["p", "q"]):
        # two significant digits: 0.004 is not 0
        brief[name] = ["" if pd.isna(value) else f"{value:.2g}" for value in brief[name]]
    details = [name for name in brief if str(name).endswith((" change", " rank"))]
    # A column without values, such as the draw without draws, would only make the others narrow.
    show_table(brief.drop(columns=details).dropna(axis="columns", how="all"), title)


def show_answer(summary: Section) -> None:
    """A report's answer and its headline metrics, in 80 columns."""
    for sentence in summary.words:
        _print("\n".join(textwrap.wrap(sentence, _WIDTH)), style="bold")
    if summary.headline is None:
        return
    on_screen = _columns({"metric": 25, "before, after": 13, "gain": 20, "gain minus random's": 19})
    rows = _with_intervals(summary.headline.data, digits=1)
    for condition, changes in rows.groupby("condition", sort=False):
        on_screen.add_row(f"[bold]{escape(str(condition))}[/bold]")
        for row in changes.to_dict("records"):
            values = f"{row['before']:.1f}, {row['after']:.1f}"
            on_screen.add_row(escape(row["metric"]), values, row["gain"], row["beyond"])
    _print(on_screen)
    _print(f"[dim]{_HEADLINE}[/dim]")


def show_summary(summary: pd.DataFrame, results: Sequence[EvaluationResult] = ()) -> None:
    """Value and interval of every condition, and the paired difference from the first one.

    Args:
        summary: `kb_lens.evaluation.comparison.summarize`.
        results: Results of one condition, whose benchmarks are described below the table.
    """
    brief = _with_intervals(summary).reindex(columns=_SUMMARY, fill_value="")
    if len(set(summary["condition"])) == 1:
        _print(_values(brief))
    else:
        _print("Value [95 % interval], and paired difference from the first condition")
        for _, rows in brief.groupby(["benchmark", "metric"], sort=False):
            first = rows.to_dict("records")[0]
            _print(f"\n[bold]{escape(_subject(first))}[/bold], n = {_count(first)}")
            _print(_differences(rows))
    for result in results:
        tell(f"{result.key}: {len(result.items)} items. {result.source}")


def _columns(widths: Mapping[str, int], *, head: bool = True) -> Table:
    """An empty table of 80 letters: column's name -> letters."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0), show_edge=False, show_header=head)
    for number, (name, width) in enumerate(widths.items()):
        table.add_column(name, width=width, justify="right" if number else "left")
    return table


def _values(brief: pd.DataFrame) -> Table:
    """The metrics of one condition."""
    on_screen = _columns({"metric": 37, "value [95 %]": 22, "n": 19})
    for row in brief.to_dict("records"):
        on_screen.add_row(escape(_subject(row)), _cell(row["value"]), _count(row))
    return on_screen


def _differences(rows: pd.DataFrame) -> Table:
    """One metric under every condition."""
    on_screen = _columns({"condition": 30, "value": 23, "difference": 25}, head=False)
    for row in rows.to_dict("records"):
        cells = (_cell(row["value"]), _cell(row["difference"]))
        on_screen.add_row(escape(f"  {row['condition']}"), *cells)
    return on_screen


def _subject(row: Mapping[Any, Any]) -> str:
    return f"{row['benchmark']} {row['metric']}"


def _count(row: Mapping[Any, Any]) -> str:
    return count_text(int(row["n"]), int(row["clusters"]))


def _with_intervals(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """Each value with its interval as text in one column."""
    brief = table.copy()
    present = [interval for interval in INTERVALS if set(interval) <= set(table.columns)]
    for column, low, high in present:
        spec = f"{'+' if column in SIGNED else ''}.{digits}f"
        rows = zip(table[column], table[low], table[high], strict=True)
        brief[column] = ["" if pd.isna(row[0]) else interval_text(*row, spec=spec) for row in rows]
    ends = {end for _, low, high in present for end in (low, high)}
    return brief.drop(columns=list(ends))


def _print(content: Any, **settings: Any) -> None:
    """Print; a file gets lines that are wide enough for a row each."""
    console = Console()
    # Rich treats a file like a terminal of 80 columns, which would break the rows of a study.
    console = console if console.is_terminal else Console(width=120)
    console.print(content, highlight=False, **settings)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        # At most two decimals, without trailing zeros: 2 and not 2.00.
        return "" if pd.isna(value) else f"{value:.2f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value).replace("`", QUOTE)
