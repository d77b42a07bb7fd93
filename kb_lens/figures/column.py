"""Figures for one column of a paper: narrower, with the title and the note left to the caption.

A column of 3.3 inches shows `WIDTH` pixels, so that the smallest letters, 13 pixels, print as 6
points. Panels that stand side by side on a page stand one below the other here.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from kb_lens.figures.style import title_room

WIDTH, INCHES = 500, 3.3
"""Of a column, in pixels and in print."""
TALLEST = 9.5
"""Inches of the longest column."""
STACK, WHOLE_PAGE = "stack", "whole page"
"""What a figure's ``layout.meta["column"]`` may ask for: its panels, whose distance in pixels is
``layout.meta["between"]``, one below the other; or not to be made narrower at all."""
_LETTER, _SYMBOL, _LINE, _EDGE = 6.9, 52, 20, 10
"""Pixels: a letter and the sign before it in a legend, a line of it, the room above the plot."""


def in_column(figure: go.Figure) -> go.Figure | None:
    """The figure as a column shows it, a new figure; None if it needs the page's width.

    Args:
        figure: As a function of `kb_lens.figures` returns it.
    """
    wish: Any = figure.layout["meta"] or {}
    if wish.get("column") == WHOLE_PAGE:
        return None
    narrow: Any = go.Figure(figure)
    height, top = narrow.layout.height - title_room(figure), narrow.layout.margin.t
    narrow.update_layout(width=WIDTH, height=height + _EDGE, title=None)
    narrow.update_layout(margin_t=top - title_room(figure) + _EDGE)
    if wish.get("column") == STACK:
        _stack(narrow, wish["between"])
    more = _LINE * (_legend_lines(narrow) - 1)
    narrow.update_layout(height=narrow.layout.height + more, margin_t=narrow.layout.margin.t + more)
    return narrow if narrow.layout.height <= TALLEST * WIDTH / INCHES else None


def caption(figure: go.Figure) -> str:
    """The title and the note, each in a line of plain text."""
    title: Any = figure.layout["title"]
    text = f"{title.text}\n{title.subtitle.text}\n"
    return text.replace("<br>", " ").replace("\N{NO-BREAK SPACE}", " ")


def _stack(figure: Any, between: float) -> None:
    """Every panel over the whole width, one below the other, as high as it was."""
    room = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    axes = [(figure.layout[x], figure.layout[y]) for x, y in _panels(figure).items()]
    heights = [room * (y.domain[1] - y.domain[0]) for _, y in axes]
    whole = sum(heights) + between * (len(axes) - 1)
    above = 0.0
    for (x, y), high in zip(axes, heights, strict=True):
        x.domain, y.domain = (0, 1), (max(0, 1 - (above + high) / whole), 1 - above / whole)
        y.showticklabels = True
        above += high + between
    legend = figure.layout.legend.y
    figure.update_layout(height=figure.layout.height + whole - room)
    figure.update_layout(legend_y=None if legend is None else 1 + (legend - 1) * room / whole)


def _panels(figure: Any) -> dict[str, str]:
    """The names of the axes of every panel with something in it, x -> y, in order."""
    return {
        (trace.xaxis or "x").replace("x", "xaxis"): (trace.yaxis or "y").replace("y", "yaxis")
        for trace in figure.data
    }


def _legend_lines(figure: Any) -> int:
    """Lines that the legend takes; where it takes several, all entries have the longest's width."""
    shown = [trace.name for trace in figure.data if trace.showlegend is not False and trace.name]
    if figure.layout.showlegend is False or len(shown) < 2:
        return 1
    room = WIDTH - figure.layout.margin.l - figure.layout.margin.r
    widths = [_SYMBOL + _LETTER * len(name) for name in shown]
    return 1 if sum(widths) < room else -(-len(shown) // max(1, int(room // max(widths))))
