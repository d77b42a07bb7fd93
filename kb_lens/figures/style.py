"""The style of the figures: colours, fonts and sizes.

`finish` gives a figure the template, its title and its size. Plotly's default template is not
changed.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import cycle, islice
from typing import Any

import plotly.graph_objects as go

from kb_lens.figures.fonts import FAMILY
from kb_lens.figures.layout import HEIGHT, PADDING, WIDTH, title_height
from kb_lens.intervals import interval_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette for colour-blind readers, without its yellow."""
_BLUE, _VERMILION, _GREEN, _PINK, _AMBER, _SKY, _BLACK = COLOURS
INK, NOTE, GREY, PALE = "#222222", "#444444", "#8C8C8C", "#E6E6E6"
"""Text and lines; secondary text; secondary lines and points; grids and missing things."""
BACKGROUND = "#FFFFFF"
BASE, METHOD, CONTROL, BEST = _BLACK, _BLUE, GREY, _GREEN
"""A colour per role: the base model; the method; its random controls; the best value."""
BEST_LINE: dict[str, Any] = {"color": BEST, "dash": "dot", "width": 2}
"""Style of the line at a best value."""
_DIMENSIONS = {"gender": _VERMILION, "race": _SKY, "religion": _PINK}
_OTHER_DIMENSIONS = (_AMBER, _BLACK, _BLUE, _GREEN)
DIVERGING = (
    (0.0, "#003049"),
    (0.2, "#0072B2"),
    (0.42, "#B5D9EE"),
    (0.5, BACKGROUND),
    (0.58, "#F9CBA8"),
    (0.8, "#D55E00"),
    (1.0, "#601F00"),
)
"""Blue below zero, white at zero, orange above it."""
SEQUENTIAL = ((0.0, BACKGROUND), (1.0, "#62B9EA"))
"""From 0 to the largest value, never too dark for black numbers."""
FONT_SIZE, SMALL, TITLE_SIZE = 14, 13, 17
"""Pixels: axis titles; tick labels, legends and notes; the title."""

MINUS = "\N{MINUS SIGN}"
"""A minus as wide as a plus."""
GLUE = "\N{NO-BREAK SPACE}"
"""Joins words that stay on one line."""

# The first font is part of the package; without it Arial and Liberation Sans have the same widths.
_FONT = f"{FAMILY}, Arial, Helvetica, Liberation Sans, sans-serif"
_AXIS = {
    "showline": True,
    "linecolor": INK,
    "ticks": "outside",
    "tickcolor": INK,
    "tickfont_size": SMALL,
    "title_font_size": FONT_SIZE,
    "title_standoff": 8,
    "gridcolor": PALE,
    "zeroline": False,
    "automargin": True,
}
_TOP_LEFT = {
    "x": 0,
    "xref": "container",
    "xanchor": "left",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "pad": {"l": PADDING, "t": PADDING},
}
"""Position of the title: in the figure's corner, whatever the width of the axis labels."""
# For the figure's width: letters are about half as wide as they are high.
_TITLE_LETTERS, _NOTE_LETTERS = 78, 102
"""Letters per line of the title and of the note."""
_LABEL = 12
"""Letters of a token's label; more would reach into the panel beside it."""
_NOTE_FONT = {"size": SMALL, "color": NOTE}
_MARGIN = {"l": 60, "r": 20, "b": 55}
"""Pixels around the plot, for an axis with numbers and a title; names need more."""


_SHOWN_MODEL: ContextVar[str | None] = ContextVar("shown_model", default=None)


@contextmanager
def model_shown_as(name: str | None) -> Iterator[None]:
    """A block in which figures show another name for the model.

    Args:
        name: The name to show, such as ``Llama-3.2-3B-Instruct``; None changes nothing.
    """
    token = _SHOWN_MODEL.set(name)
    try:
        yield
    finally:
        _SHOWN_MODEL.reset(token)


def shown_model(name: str) -> str:
    """A model's name as figures show it."""
    return literal(_SHOWN_MODEL.get() or name)


def literal(text: str) -> str:
    """Text as plotly shows it unchanged: plotly interprets tags, and no ``&quot;``."""
    return html.escape(text, quote=False)


def shown_token(text: str) -> str:
    """A token as a label: its spaces are dots, since plotly shows none, and a long one is cut."""
    cut = text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
    return literal(cut).replace(" ", "\N{MIDDLE DOT}")


def template() -> go.layout.Template:
    """The style as a plotly template."""
    layout = go.Layout(
        font={"family": _FONT, "size": FONT_SIZE, "color": INK},
        colorway=COLOURS,
        paper_bgcolor=BACKGROUND,
        plot_bgcolor=BACKGROUND,
        xaxis=_AXIS,
        yaxis=_AXIS,
        bargap=0.15,
    )
    legend = {"font_size": SMALL, "orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    layout.update(legend=legend)
    hover_font = {"family": _FONT, "size": SMALL, "color": INK}
    hover = {"font": hover_font, "align": "left", "bgcolor": BACKGROUND, "bordercolor": GREY}
    layout.update(hoverlabel=hover)
    return go.layout.Template(layout=layout)


def finish(
    figure: go.Figure, title: str, note: str, *, height: int = HEIGHT, top: int = 0, **layout: Any
) -> go.Figure:
    """Give the figure its style, title, note under the title, and size.

    Args:
        figure: The figure; changed in place.
        title: What the figure shows, in plain words.
        note: Model, n, units, intervals; it is wrapped.
        height: Pixels of the whole figure.
        top: Pixels between the note and the plot, for a legend or labels.
        **layout: Further settings of the layout.
    """
    text = _wrapped(title, _TITLE_LETTERS)
    note = _wrapped(note.replace(" %", f"{GLUE}%"), _NOTE_LETTERS)
    figure.update_layout(template=template(), width=WIDTH, height=height, title=_TOP_LEFT)
    figure.update_layout(title_text=text, title_font_size=TITLE_SIZE)
    figure.update_layout(title_subtitle_text=note, title_subtitle_font=_NOTE_FONT)
    margin = _MARGIN | layout.pop("margin", {})
    margin["t"] = top + title_height(figure)
    return figure.update_layout(margin=margin, **layout)


def _wrapped(text: str, letters: int) -> str:
    return "<br>".join(textwrap.wrap(text, letters))


def faint(colour: str, opacity: float = 0.2) -> str:
    """A transparent version of a colour of the style."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    # plotly does not accept 8e-05 as an opacity
    return f"rgba({red}, {green}, {blue}, {round(opacity, 3):g})"


def label(text: str, **settings: Any) -> dict[str, Any]:
    """An annotation without an arrow; `settings` give its position."""
    font = {"size": SMALL, "color": INK}
    return {"text": text, "showarrow": False, "font": font, **settings}


def colour_bar(title: str, **settings: Any) -> dict[str, Any]:
    """A colour bar with the style's fonts; ``<br>`` in the title breaks the line."""
    bar = {"title_text": title, "title_font_size": SMALL, "tickfont_size": SMALL}
    return {**bar, "thickness": 18, "outlinewidth": 0.5, "outlinecolor": INK, **settings}


def dimension_colours(names: Iterable[str]) -> list[str]:
    """A colour for each dimension or its set of neurons, the same in every figure."""
    others = cycle(_OTHER_DIMENSIONS)
    return [_DIMENSIONS.get(name) or next(others) for name in names]


def colours(n: int) -> list[str]:
    """A colour for each of `n` things; they repeat after the palette's end."""
    return list(islice(cycle(COLOURS), n))


def true_minus(text: str) -> str:
    """A text with a true minus in its numbers, as wide as a plus."""
    return text.replace("-", MINUS)


def rounded(value: float, sign: str = "", digits: int = 1) -> str:
    """A number with a true minus and without a negative zero; `sign` ``+`` shows a plus too."""
    return true_minus(f"{value:{sign}z.{digits}f}")


def value_and_interval(value: float, low: float, high: float, spec: str = ".1f") -> str:
    """A number with the ends of its interval, with a true minus."""
    return true_minus(interval_text(value, low, high, spec))
