"""One self-contained HTML page: words, tables that sort, and figures that can be hovered over.

Nothing is fetched: plotly.js is in the page, once, and the page's content security policy allows
no request and no script but its own two. Everything that is filled in is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from kb_lens.figures.layout import without_title

INTERVALS = (
    ("value", "low", "high"),
    ("difference", "difference_low", "difference_high"),
    ("gain", "gain_low", "gain_high"),
    ("gain", "low", "high"),
    ("beyond", "beyond_low", "beyond_high"),
    ("control_mean", "control_low", "control_high"),
    ("jaccard", "low", "high"),
    ("average_rank", "rank_low", "rank_high"),
)
"""A column, and those with the ends of its interval, which are written behind it."""
SIGNED = ("difference", "gain", "control_mean", "beyond")
"""Columns of changes: their numbers have a sign."""
_EDGE = 12
"""Pixels above a figure whose title stands in the page."""
_SHORT, _LONG, _TALL = 24, 40, 15
"""Letters of a cell that stays on one line, and of one that has room; rows that are not scrolled.
"""


@dataclass(frozen=True, eq=False)
class Table:
    """A table that sorts by clicking a header."""

    title: str
    """What it is, in plain words."""
    data: pd.DataFrame
    """Its rows; a cell that holds a tuple is a list of tokens."""
    note: str = ""
    """What it rests on."""
    marked: str = ""
    """The column whose words are coloured: ok, warning, failed."""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page, in this order: words, points, facts, figures, tables."""

    title: str
    """Its heading."""
    words: Sequence[str] = ()
    """Paragraphs."""
    points: Sequence[tuple[str, Sequence[str]]] = ()
    """A list; each point may have points below it."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Name -> value."""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    """Name -> figure."""
    tables: Sequence[Table] = ()
    """The numbers."""

    @property
    def anchor(self) -> str:
        """Where the table of contents leads to."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: Its heading, and the title of the window.
        lead: What it is about, in one line.
        sections: Its parts; those without content are left out.
    """
    shown = [s for s in sections if s.words or s.points or s.facts or s.figures or s.tables]
    folder = files("kb_lens.report")
    css, js = (folder.joinpath(f"page.{end}").read_text("utf-8") for end in ("css", "js"))
    scripts = [get_plotlyjs(), js]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["prose"] = _prose
    template = environment.from_string(folder.joinpath("page.html").read_text("utf-8"))
    return template.render(
        title=title,
        lead=lead,
        sections=shown,
        css=Markup(css),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(map(_hash, scripts)),
        columns_of=_columns,
        figure_of=_figure,
        tall=_TALL,
    )


def _prose(text: str) -> Markup:
    """Escaped text, in which what stands between backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _hash(script: str) -> str:
    """How a content security policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# -- tables -----------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """What a cell shows, and the number that it sorts by (empty: missing; None: by its text)."""

    shown: Any
    number: str | None = None


class _Column(NamedTuple):
    """A column, ready to be written."""

    name: str
    kind: str
    cells: list[_Cell]


def _columns(table: Table) -> list[_Column]:
    """Every column, with intervals beside their values."""
    data = table.data
    pairs = {name: ends for name, *ends in INTERVALS if {name, *ends} <= set(data)}
    ends = {end for pair in pairs.values() for end in pair}
    found = []
    for name in (str(name) for name in data if name not in ends):
        column: Any = data[name]
        if is_number(column):
            values: Any = data[[name, *pairs.get(name, ())]]
            kind, cells = "number", _numbers(values, "+" if name in SIGNED else "")
        else:
            cells = [_text(value) for value in column]
            kind = "mark" if name == table.marked else _width(cells)
        found.append(_Column(name.replace("_", " "), kind, cells))
    return found


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers, and not yes and no."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _width(cells: Sequence[_Cell]) -> str:
    """The class of a column of words, by the longest of them; or of tokens."""
    if any(isinstance(cell.shown, tuple) for cell in cells):
        return "tokens"
    letters = max((len(str(cell.shown)) for cell in cells), default=0)
    return "short" if letters <= _SHORT else "long" if letters > _LONG else "middle"


def _text(value: Any) -> _Cell:
    if isinstance(value, tuple):
        return _Cell(value)
    if pd.isna(value):
        return _Cell("", "")
    return _Cell({"True": "yes", "False": "no"}.get(str(value), str(value)))


def _numbers(values: pd.DataFrame, sign: str) -> list[_Cell]:
    """A column of numbers, with the ends of its interval if there are two more, to one precision.

    Whole numbers are whole; else there are two decimals, more where all numbers are below 1.
    """
    known = values.to_numpy(float)
    known = known[np.isfinite(known)]
    size = float(np.abs(known).max(initial=0))
    whole = bool((known == known.round()).all())
    decimals = 0 if whole else 2 if size >= 1 else min(6, 2 - math.floor(math.log10(size)))
    cells = []
    for value, *ends in values.itertuples(index=False):
        between = ", ".join(f"{end:{sign}z.{decimals}f}" for end in ends)
        shown = f"{value:{sign}z.{decimals}f}" + (f" [{between}]" if ends else "")
        cells.append(_Cell("", "") if pd.isna(value) else _Cell(shown, repr(float(value))))
    return cells


# -- figures ----------------------------------------------------------------------------------


def _figure(figure: go.Figure) -> dict[str, Any]:
    """Title and note as text for the page; what is left, at the size that it had, as JSON."""
    shown: Any = without_title(figure, _EDGE)
    title: Any = figure.layout["title"]
    return {
        "title": _plain(title.text),
        "note": _plain(title.subtitle.text),
        "width": shown.layout.width,
        "height": shown.layout.height,
        "spec": Markup(shown.to_json().replace("<", r"\u003c")),
    }


def _plain(text: str) -> str:
    """A figure's text without the few tags that plotly knows."""
    return re.sub(r"</?(b|i|sub|sup|em)>", "", re.sub(r"<br ?/?>", " ", text))


# -- words --------------------------------------------------------------------------------------


def said(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} = {said(one)}" for name, one in value.items()) or "default"
    if isinstance(value, list | tuple):
        return " and ".join(map(said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else str(value)
