"""Common parts of the figures of studies: the metric of a panel, grids of panels, axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.benchmarks.measures import DAMAGE
from kb_lens.benchmarks.titles import benchmark_title, metric_title
from kb_lens.figures.column import STACK
from kb_lens.figures.layout import AXIS, LINE, MAX_HEIGHT, Stack, panel_title_height
from kb_lens.figures.marks import ZERO_LINE, error_bars, panel_title, rows_axis
from kb_lens.figures.style import BEST_LINE, METHOD, finish, rounded
from kb_lens.statistics import MetricInfo

_COLUMNS, _PAGE = 2, MAX_HEIGHT - 110
"""Panels side by side; pixels of panels, one below the other, in one figure."""
_PANEL, _LOWEST = 170, 60
"""Pixels of a panel with a y axis of numbers, and of the lowest panel."""
_LETTERS = 32
"""Letters in a line of a panel's title."""
PAIRED = "95 % paired bootstrap interval over the clusters of n items"
"""The kind of the intervals of differences."""
TITLES = {
    "aggregation": "How should the neurons of the dimensions be joined?",
    "lambda": "What does the factor do?",
    "methods": "What does each method change?",
    "quadrature": "Does the integral's precision matter?",
    "question-types": "Which kinds of questions are needed?",
    "questions": "How many questions does it take?",
    "right-answers": "Do questions that the model answers right find better neurons?",
    "site": "Which activations should be scaled, and where?",
    "thresholds": "What do the thresholds do?",
    "transfer": "Do the neurons of one dimension help the others?",
}
"""Study -> its question, the title of its figure."""

Position = dict[str, Any]
"""Row and column of a panel."""
Panel = tuple[str, Callable[[go.Figure, Position], None]]
"""The title of a panel, and the function that draws it."""


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one benchmark in a study."""

    key: str
    """The benchmark."""
    name: str
    """The metric."""
    info: MetricInfo
    """What the metric is."""
    base: float
    """The base model's value."""
    n: int
    """Items."""
    cases: pd.DataFrame
    """Its rows of the results, without the base model's."""

    @property
    def title(self) -> str:
        """The metric, and the base model's value."""
        full = f"{benchmark_title(self.key)}: {metric_title(self.name)}"
        name = "<br>".join(textwrap.wrap(full, _LETTERS))
        best = "" if self.info.best is None else f"best {self.info.best:g}, "
        # A log-probability has no best value, but should not fall.
        best = "lower is damage, " if self.info == DAMAGE else best
        return f"<b>{name}</b><br>base {self.number(self.base)}, {best}n = {self.n}"

    @property
    def difference(self) -> str:
        """The title of an axis of differences; differences of percents are points."""
        return "difference, " + self.info.unit.replace("%", "points")

    def number(self, value: float, sign: str = "") -> str:
        """A value with a suitable number of digits."""
        # A tenth of a nat a token is damage already.
        return rounded(value, sign, 2 if self.info.unit == DAMAGE.unit else 1)

    def best_within(self, ends: tuple[float, float], start: float = 0.0) -> float | None:
        """The best value minus `start`, if it is between the ends of an axis."""
        if self.info.best is None:
            return None
        best = self.info.best - start
        return best if ends[0] <= best <= ends[1] else None


def metric_of(results: pd.DataFrame, key: str, name: str, info: MetricInfo) -> Metric:
    """The rows of one metric of one benchmark.

    Args:
        results: The table ``results`` of a study.
        key: The benchmark.
        name: The metric.
        info: What the metric is.

    Raises:
        ValueError: If the base model does not have one row, or the cases have none.
    """
    rows = results.loc[results["benchmark"].eq(key) & results["metric"].eq(name)]
    is_base = rows["role"].eq("base")
    base, cases = rows.loc[is_base], rows.loc[~is_base]
    if len(base) != 1 or cases.empty:
        raise ValueError(
            f"{key} {name} has {len(base)} rows of the base model and {len(cases)} of cases: "
            "expected 1 and at least 1, as kb_lens.studies.experiments.experiment gives."
        )
    return Metric(key, name, info, float(base["value"].iloc[0]), int(base["n"].iloc[0]), cases)


def grids(
    name: str,
    panels: Sequence[Panel],
    note: str,
    *,
    height: int = _PANEL,
    apart: float = 0.13,
    title: str = "",
) -> dict[str, go.Figure]:
    """Panels in rows of two, on several figures if needed.

    Args:
        name: Name of the first figure; ``_2`` and so on is appended for the others.
        panels: Titles and drawing functions.
        note: The note under the title.
        height: Pixels of a panel without its axis.
        apart: Space between panels side by side, as a share of the figure's width.
        title: Title of the figures; default that of the study `name`.

    Returns:
        Name -> figure; empty without panels.
    """
    n_rows = -(-len(panels) // _COLUMNS)
    rows_a_page = max(1, _PAGE // (height + AXIS))
    n_pages = -(-n_rows // rows_a_page) or 1
    # Equal pages, so that the last one does not have a single panel.
    size = _COLUMNS * -(-n_rows // n_pages) or 1
    figures: dict[str, go.Figure] = {}
    for start in range(0, len(panels), size):
        number = start // size + 1
        page_name = name if number == 1 else f"{name}_{number}"
        page = panels[start : start + size]
        figures[page_name] = _grid(page, title or TITLES[name], note, height, apart)
    return figures


def _grid(panels: Sequence[Panel], title: str, note: str, height: int, apart: float) -> go.Figure:
    n_columns = min(_COLUMNS, len(panels))
    above = panel_title_height(*(heading for heading, _ in panels))
    stack = Stack(-(-len(panels) // n_columns), height, above + AXIS)
    figure = make_subplots(
        stack.n, n_columns, horizontal_spacing=apart, vertical_spacing=stack.spacing
    )
    for number, (heading, draw) in enumerate(panels):
        row, column = divmod(number, n_columns)
        draw(figure, {"row": row + 1, "col": column + 1})
        panel_title(figure, heading, row + 1, column + 1)
    legend = _shared_legend(figure)
    finish(
        figure,
        title,
        note,
        top=above + legend * (LINE + 12),
        legend={"y": stack.above(above)},
        showlegend=legend,
        meta={"column": STACK, "between": stack.between},
    )
    margin: Any = figure.layout["margin"]
    total = margin.t + stack.plot + margin.b
    lower = height - math.ceil((total - MAX_HEIGHT) / stack.n)
    if _LOWEST <= lower < height:  # slightly lower panels fit on the page
        return _grid(panels, title, note, lower, apart)
    return figure.update_layout(height=total)


def _shared_legend(figure: go.Figure) -> bool:
    """Show each name once in the legend, for its first trace; return whether there is any."""
    names: set[str | None] = {None}
    traces: Any = figure.data
    for trace in traces:
        trace.showlegend = trace.name not in names
        names.add(trace.name)
    return len(names) > 1


def reach(ends: Iterable[float]) -> tuple[float, float]:
    """The range from the least to the largest value, with some margin."""
    ends = list(ends)
    # the range must not be empty if all values are equal
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def difference_axis(
    metric: Metric, table: pd.DataFrame, figure: go.Figure, axis: str, position: Position
) -> None:
    """Set title and range; add a line at 0 and one at the best value if it is in the range."""
    ends = reach([0, *table["difference_low"].dropna(), *table["difference_high"].dropna()])
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    zero = {**ZERO_LINE, "zerolinewidth": 1.5}
    update(title_text=metric.difference, range=ends, nticks=6, **zero, **position)
    best = metric.best_within(ends, start=metric.base)
    if best is not None:
        add_line = figure.add_vline if axis == "x" else figure.add_hline
        add_line(**{axis: best}, line=BEST_LINE, layer="below", **position)


def difference_bars(table: pd.DataFrame, colour: str = METHOD) -> dict[str, Any]:
    """The intervals of the differences, as plotly's error bars."""
    low, high = table["difference_low"], table["difference_high"]
    return error_bars(table["difference"], low, high, colour)


def shared_rows(figure: go.Figure, names: Sequence[str], position: Position) -> None:
    """Names at the left of the first column of panels, the first at the top."""
    first = position["col"] == 1
    figure.update_yaxes(**rows_axis(names), showticklabels=first, **position)
