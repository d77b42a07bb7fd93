"""Figures for one column of a paper: narrower, without the title and note, which go to the caption.

`WIDTH` pixels fill a column of 3.3 inches, so that the smallest letters, 13 pixels, print as 6
points. Panels that are side by side on a page are one below the other here.
"""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from kb_lens.figures.layout import TALLEST, without_title
from kb_lens.figures.style import GLUE

WIDTH, INCHES = 500, 3.3
"""Width of a column, in pixels and in print."""
STACK, LEFT, WHOLE_PAGE = "stack", "left", "whole page"
"""Values of a figure's ``layout.meta["column"]``: put its panels one below the other,
``layout.meta["between"]`` pixels apart; keep only those at the left, whose longest row's name has
``layout.meta["letters"]``; or do not make it narrower."""
# Slightly more than the mean width of a letter: a line too many is better than names over the plot.
_LETTER, _SYMBOL, _LEGEND_LINE, _EDGE = 6.9, 52, 20, 10
"""Pixels of a legend: a letter, the symbol before a name, a line; and the room above the plot."""


def in_column(figure: go.Figure) -> go.Figure | None:
    """A new figure laid out for a column; None if it needs the page's width.

    Args:
        figure: A figure from a function of `kb_lens.figures`.
    """
    wish: Any = figure.layout["meta"] or {}
    if wish.get("column") == WHOLE_PAGE:
        return None
    narrow: Any = without_title(figure, _EDGE)
    narrow.update_layout(width=WIDTH)
    if wish.get("column") == STACK:
        _stack(narrow, wish["between"])
    elif wish.get("column") == LEFT:
        _keep_left(narrow, wish["letters"])
    extra = _LEGEND_LINE * (_legend_lines(narrow) - 1)
    height = narrow.layout.height + extra
    narrow.update_layout(height=height, margin_t=narrow.layout.margin.t + extra)
    return narrow if height <= TALLEST * WIDTH / INCHES else None


def caption(figure: go.Figure) -> str:
    """The title and the note, each as a line of plain text."""
    title: Any = figure.layout["title"]
    text = f"{title.text}\n{title.subtitle.text}\n"
    return text.replace("<br>", " ").replace(GLUE, " ")


def _stack(figure: Any, between: float) -> None:
    """Put the panels one below the other, each over the whole width, with the same height."""
    layout = figure.layout
    plot = layout.height - layout.margin.t - layout.margin.b
    axes = _panel_axes(figure)
    heights = [plot * (y.domain[1] - y.domain[0]) for _, y in axes]
    stacked = sum(heights) + between * (len(axes) - 1)
    top = 0.0
    for (x, y), height in zip(axes, heights, strict=True):
        bottom = top + height
        x.domain = (0, 1)
        y.domain = (max(0, 1 - bottom / stacked), 1 - top / stacked)  # rounding may go below 0
        y.showticklabels = True
        top = bottom + between
    figure.update_layout(height=layout.height + stacked - plot)
    if layout.legend.y is not None:
        # the room above the plot stays the same in pixels
        figure.update_layout(legend_y=1 + (layout.legend.y - 1) * plot / stacked)


def _keep_left(figure: Any, letters: int) -> None:
    """Leave out all but the panels at the left, and give them the whole width.

    Their titles begin at the figure's edge: they are as long as the figure is wide.
    """
    layout = figure.layout
    names: set[str] = set()
    for axis in figure.select_xaxes():
        if axis.domain[0] == 0:
            names.add(axis.plotly_name.replace("axis", ""))
            axis.domain = (0, 1)
        else:
            axis.visible = layout[axis.anchor.replace("y", "yaxis")].visible = False
    figure.data = [trace for trace in figure.data if (trace.xaxis or "x") in names]
    layout.shapes = [each for each in layout.shapes if each.xref.split()[0] in names]
    layout.annotations = [each for each in layout.annotations if each.xref.split()[0] in names]
    margin = math.ceil(_LETTER * letters) + 2 * _EDGE
    layout.margin.l = margin
    for title in figure.select_annotations({"x": 0, "xanchor": "left"}):
        title.xshift = _EDGE - margin


def _panel_axes(figure: Any) -> list[tuple[Any, Any]]:
    """The x and the y axis of every panel that is not empty, in order."""
    axes: dict[str, tuple[Any, Any]] = {}
    for trace in figure.data:
        x = (trace.xaxis or "x").replace("x", "xaxis")
        y = (trace.yaxis or "y").replace("y", "yaxis")
        axes[x] = figure.layout[x], figure.layout[y]
    return list(axes.values())


def _legend_lines(figure: Any) -> int:
    """Lines of the legend; in a legend of several lines all entries are as wide as the longest."""
    listed = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    if figure.layout.showlegend is False or len(listed) < 2:
        return 1
    available = WIDTH - figure.layout.margin.l - figure.layout.margin.r
    widths = [_SYMBOL + _LETTER * len(name) for name in listed]
    if sum(widths) < available:
        return 1
    per_line = max(1, int(available // max(widths)))
    return math.ceil(len(listed) / per_line)
