"""Parts of figures: lines, bands, error bars, rows with names, titles of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kb_lens.figures.style import GREY, INK, PALE, SMALL, label

ZERO_LINE: dict[str, Any] = {"zeroline": True, "zerolinecolor": GREY, "zerolinewidth": 1}
"""Settings of an axis with a line at zero."""
THIN = {"color": GREY, "width": 1}
"""Style of a line at a value that means "no effect"."""


def curve(x: Any, y: Any, name: str | None = None, **line: Any) -> go.Scatter:
    """A line without markers; `line` is its style."""
    return go.Scatter(x=list(x), y=list(y), name=name, mode="lines", line=line)


def band(x: Any, low: Any, high: Any, colour: str, name: str | None = None) -> go.Scatter:
    """The area between `low` and `high`, without an outline."""
    # along the lower edge, and back along the upper edge
    around = [*x, *x[::-1]]
    edges = [*low, *high[::-1]]
    area = curve(around, edges, name, width=0)
    return area.update(fill="toself", fillcolor=colour, hoverinfo="skip")


def error_bars(value: Any, low: Any, high: Any, colour: str, **style: Any) -> dict[str, Any]:
    """Plotly's error bars from `low` to `high`, converted to distances from `value`.

    Args:
        value: The points, an array or a column.
        low: Lower ends.
        high: Upper ends.
        colour: Colour of the bars.
        **style: Changes of the default style: ``thickness``, ``width`` (of the caps).
    """
    ends = {"array": high - value, "arrayminus": value - low}
    return {**ends, "color": colour, "thickness": 2, "width": 4, **style}


def interval_hover(axis: str, spec: str = ".2f") -> str:
    """A hover template: a point's value on an axis and its interval from ``customdata``."""
    return f"%{{{axis}:{spec}}} [%{{customdata[0]:{spec}}}, %{{customdata[1]:{spec}}}]"


def shade(figure: go.Figure, x: tuple[float, float], y: tuple[float, float], **panel: Any) -> None:
    """A pale area behind the points, between two ends on each axis."""
    left, right = x
    bottom, top = y
    area = go.layout.Shape(type="rect", x0=left, x1=right, y0=bottom, y1=top)
    area.update(fillcolor=PALE, line_width=0, layer="below")
    figure.add_shape(area, **panel)


def panel_title(
    figure: go.Figure, text: str, row: int, col: int = 1, *, centred: bool = False
) -> None:
    """A title above a panel, at its left; ``<br>`` in the text breaks the line."""
    anchor = "center" if centred else "left"
    x = 0.5 if centred else 0
    title = label(text, x=x, xref="x domain", xanchor=anchor, align=anchor)
    title.update(y=1, yref="y domain", yanchor="bottom")
    figure.add_annotation(**title, row=row, col=col)


def rows_axis(names: Sequence[str]) -> dict[str, Any]:
    """Settings of a y axis with named rows 0, 1, 2 ..., the first at the top."""
    n_rows = len(names)
    labelled = {"tickvals": list(range(n_rows)), "ticktext": list(names)}
    downwards = [n_rows - 0.5, -0.5]
    return {**labelled, "range": downwards, "ticks": "", "showgrid": False}


def layer_axis(n_layers: int) -> dict[str, Any]:
    """Ticks and range of an axis that counts layers, from 0."""
    # more than 12 numbers would touch in half a figure
    step = next((step for step in (1, 2, 5, 10) if n_layers / step <= 12), 20)
    return {"tickvals": list(range(0, n_layers, step)), "range": [-0.5, n_layers - 0.5]}


def number_cells(values: Any, text: Any, **colours: Any) -> go.Heatmap:
    """Cells with a text in each and gaps between them.

    Args:
        values: [row, column] The values for the colours.
        text: [row, column] The texts in the cells.
        **colours: ``colorscale``, ``zmin`` and so on.
    """
    cells = go.Heatmap(z=np.asarray(values, float), **colours)
    cells.update(text=np.asarray(text, object), texttemplate="%{text}")
    cells.update(textfont_size=SMALL, textfont_color=INK, hoverinfo="skip")
    return cells.update(showscale=False, xgap=2, ygap=2)
