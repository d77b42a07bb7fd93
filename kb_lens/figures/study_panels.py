"""What the figures of all studies share: the metric of a panel, grids of panels, axes, bands."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.column import STACK
from kb_lens.figures.style import COLOURS, GREY, MINUS, finish, label

_COLUMNS, _PAGE = 2, 900
"""Panels side by side; pixels of panels, one below the other, in one figure."""
_LINE, _BELOW, _PANEL = 18, 56, 170
"""Pixels: a line of text, a panel's axis, a panel with a y axis."""
BLUE, BEST = COLOURS[0], {"color": COLOURS[2], "dash": "dot"}
"""The colour of what is measured; the line of the best value."""
GLUE = "\N{NO-BREAK SPACE}"
"""Between words that stay on one line."""
FLUENCY = "logprob_per_token"
"""The metric that plain text is shown by."""
_PERCENT = ("acc", "any", "lms", "ss", "stereotype_share")
"""How the names of metrics in percent begin; the others are points, but for two."""
PAIRED = "95 % paired bootstrap interval over n items"
"""What the intervals of differences are."""
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
"""Study -> what it asks."""

Where = dict[str, Any]
"""Row and column of a panel."""
Draw = Callable[[go.Figure, Where], Any]
"""Draws a panel."""


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one benchmark in a study."""

    key: str
    """The benchmark."""
    name: str
    """The metric."""
    best: float | None
    """Its best value, if it has one."""
    base: float
    """The base model's value."""
    n: int
    """Items."""
    cases: pd.DataFrame
    """Its rows of the results, without the base model's."""

    @property
    def title(self) -> str:
        """What it is, and where it starts from."""
        name = "<br>".join(textwrap.wrap(f"{self.key} {self.name}", 32))
        best = "" if self.best is None else f"best {self.best:g}, "
        best = "lower is damage, " if self.key == "plain_text" else best
        return f"<b>{name}</b><br>base {self.number(self.base)}, {best}n = {self.n}"

    @property
    def unit(self) -> str:
        """Of its values; differences of percents are points."""
        named = {FLUENCY: "nats a token", "perplexity": "perplexity"}
        return named.get(self.name, "%" if self.name.startswith(_PERCENT) else "points")

    @property
    def difference(self) -> str:
        """What an axis of differences says."""
        return "difference, " + self.unit.replace("%", "points")

    def number(self, value: float, sign: str = "") -> str:
        """A value with the digits that it deserves."""
        return rounded(value, sign, 2 if self.name == FLUENCY else 1)


def metric_of(results: pd.DataFrame, key: str, name: str, best: float | None) -> Metric:
    """The rows of one metric of one benchmark.

    Args:
        results: The table ``results`` of a study.
        key: The benchmark.
        name: The metric.
        best: Its best value, if it has one.

    Raises:
        ValueError: Unless the base model has one row and the cases at least one.
    """
    rows = results.loc[results["benchmark"].eq(key) & results["metric"].eq(name)]
    base, cases = (rows.loc[rows["difference"].isna() == own] for own in (True, False))
    if len(base) != 1 or cases.empty:
        raise ValueError(
            f"{key} {name} has {len(base)} rows of the base model and {len(cases)} of cases: "
            "expected 1 and at least 1, as in the results of kb_lens.studies.experiments.experiment."
        )
    return Metric(key, name, best, float(base["value"].iloc[0]), int(base["n"].iloc[0]), cases)


def rounded(value: float, sign: str = "", digits: int = 1) -> str:
    """Rounded, with a true minus and without a negative zero."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", MINUS)


def grids(
    name: str,
    panels: Sequence[tuple[str, Draw]],
    note: str,
    *,
    height: int = _PANEL,
    apart: float = 0.13,
    title: str = "",
) -> dict[str, go.Figure]:
    """Panels two a row, shared out over as many figures as they need.

    Args:
        name: Of the first figure; ``_2`` and so on is appended for the others.
        panels: Title and how to draw it.
        note: What the panels rest on, and how to read them.
        height: Pixels of a panel without its axis.
        apart: Room between panels side by side, a share of the figure's width.
        title: Of the figures, if it is not that of the study `name`.

    Returns:
        Name -> figure; empty without panels.
    """
    rows = -(-len(panels) // _COLUMNS)
    parts = -(-rows // max(1, _PAGE // (height + _BELOW))) or 1
    size = _COLUMNS * -(-rows // parts) or 1
    pages = [panels[start : start + size] for start in range(0, len(panels), size)]
    names = [name, *(f"{name}_{number}" for number in range(2, len(pages) + 1))]
    figures = (_grid(page, title or TITLES[name], note, height, apart) for page in pages)
    return dict(zip(names, figures, strict=False))  # no page, no figure


def _grid(
    panels: Sequence[tuple[str, Draw]], title: str, note: str, height: int, apart: float
) -> go.Figure:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    above = _LINE * max(text.count("<br>") + 1 for text, _ in panels) + 6
    room = rows * height + (rows - 1) * (above + _BELOW)
    between = (above + _BELOW) / room if rows > 1 else 0
    figure = make_subplots(rows, columns, horizontal_spacing=apart, vertical_spacing=between)
    for place, (text, draw) in enumerate(panels):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        draw(figure, where)
        head = label(text, x=0, y=1, xanchor="left", yanchor="bottom", align="left")
        figure.add_annotation(**head, xref="x domain", yref="y domain", **where)
    legend = _one_legend(figure)
    top = above + legend * (_LINE + 12)
    meta = {"column": STACK, "between": above + _BELOW}
    legend_y = {"y": 1 + above / room}
    finish(figure, title, note, top=top, legend=legend_y, showlegend=legend, meta=meta)
    margin: Any = figure.layout["margin"]
    return figure.update_layout(height=margin.t + room + margin.b)


def _one_legend(figure: go.Figure) -> bool:
    """Each name once, of the first trace that has it; whether there is any."""
    seen: set[str | None] = {None}
    traces: Any = figure.data
    for trace in traces:
        trace.showlegend = trace.name not in seen
        seen.add(trace.name)
    return len(seen) > 1


def curve(x: Any, y: Any, name: str | None = None, **style: Any) -> go.Scatter:
    """A line without markers; `style` is the line's."""
    return go.Scatter(x=list(x), y=list(y), name=name, mode="lines", line=style)


def band(x: Any, low: Any, high: Any, colour: str, name: str | None = None) -> go.Scatter:
    """The area between `low` and `high`, without an outline."""
    area = curve([*x, *x[::-1]], [*low, *high[::-1]], name, width=0)
    return area.update(fill="toself", fillcolor=colour, hoverinfo="skip")


def reach(ends: Iterable[float]) -> tuple[float, float]:
    """From the least to the largest, and a little more."""
    ends = list(ends)
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def difference_axis(
    metric: Metric, table: pd.DataFrame, figure: go.Figure, axis: str, where: Where
) -> None:
    """Title and range, a line at no difference and one at the best value if it is in reach."""
    ends = reach([0, *table["difference_low"].dropna(), *table["difference_high"].dropna()])
    update, line = (
        (figure.update_xaxes, figure.add_vline)
        if axis == "x"
        else (figure.update_yaxes, figure.add_hline)
    )
    zero = {"zeroline": True, "zerolinecolor": GREY, "zerolinewidth": 1.5}
    update(title_text=metric.difference, range=ends, nticks=6, **zero, **where)
    change = np.nan if metric.best is None else metric.best - metric.base
    if ends[0] <= change <= ends[1]:
        line(**{axis: change}, line=BEST, layer="below", **where)


def error_bars(table: pd.DataFrame, colour: str = BLUE) -> dict[str, Any]:
    """The intervals of the differences, as plotly's error bars."""
    value, low, high = (table[f"difference{end}"] for end in ("", "_low", "_high"))
    ends = {"array": high - value, "arrayminus": value - low}
    return {**ends, "color": colour, "thickness": 2, "width": 4}


def rows_axis(figure: go.Figure, words: Sequence[str], where: Where) -> None:
    """Names at the left of the first column of panels, the first one on top."""
    ticks = {"tickvals": [*range(len(words))], "ticktext": words, "ticks": ""}
    span = {"range": [len(words) - 0.5, -0.5], "showgrid": False}
    figure.update_yaxes(**ticks, **span, showticklabels=where["col"] == 1, **where)
