"""One self-contained HTML page: text, sortable tables and interactive figures.

Nothing is fetched: plotly.js is in the page, and the page's content security policy allows no
request and no script but its own two. All content is escaped.
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
from jaxtyping import Float
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from kb_lens.figures.fonts import style_sheet, wait_for_fonts
from kb_lens.figures.layout import without_title
from kb_lens.files import shared_name

INTERVALS = (
    ("value", "low", "high"),
    ("difference", "difference_low", "difference_high"),
    ("gain", "gain_low", "gain_high"),
    ("gain", "low", "high"),
    ("beyond", "beyond_low", "beyond_high"),
    ("control_mean", "control_low", "control_high"),
    ("jaccard", "low", "high"),
    ("average_rank", "rank_low", "rank_high"),
    ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"),
    ("AUC", "auc_low", "auc_high"),
    ("auc", "auc_low", "auc_high"),
)
"""A column -> the columns with the ends of its interval, which are written behind its value."""
SIGNED = ("difference", "gain", "control_mean", "beyond")
"""Columns of changes: their numbers have a sign."""
_EDGE = 12
"""Pixels above a figure, whose title is text of the page."""
# Chosen by eye for the width in `page.css`: short cells never break, long ones get more room, and a
# table with few rows has no scroll bar.
_SHORT_CELL = 24
_LONG_CELL = 40
_TALL_TABLE = 15
_GLUE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, eq=False)
class Table:
    """A table that sorts by clicking a header."""

    title: str
    """Its title."""
    data: pd.DataFrame
    """Its rows; a cell with a tuple is a list of tokens."""
    note: str = ""
    """The note below it."""
    marked: str = ""
    """The column whose words (ok, warning, failed) are coloured; its cells may have `code`."""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page, in this order: words, headline, points, facts, figures, tables."""

    title: str
    """Its heading."""
    words: Sequence[str] = ()
    """Paragraphs."""
    headline: Table | None = None
    """The table to see first."""
    points: Sequence[tuple[str, Sequence[str]]] = ()
    """A list; each point may have points below it."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Name -> value."""
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    """Name -> figure."""
    tables: Sequence[Table] = ()
    """The numbers."""

    @property
    def filled(self) -> bool:
        """Whether there is anything below the heading."""
        return any((self.words, self.headline, self.points, self.facts, self.figures, self.tables))

    @property
    def anchor(self) -> str:
        """The anchor for the table of contents."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page.

    Args:
        title: Its heading, and the title of the window.
        lead: The line below the heading.
        sections: Its parts; those without content are left out.
    """
    plotly = f"{get_plotlyjs()}\n{wait_for_fonts('Plotly.newPlot')}"
    scripts = [plotly, _resource("page.js")]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    environment.filters["cell"] = _cell_text
    template = environment.from_string(_resource("page.html"))
    return template.render(
        title=title,
        lead=lead,
        sections=[section for section in sections if section.filled],
        css=Markup(style_sheet() + _resource("page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(map(_hash, scripts)),
        columns_of=_columns,
        figure_of=_figure,
        tall=_TALL_TABLE,
    )


def _resource(name: str) -> str:
    return files("kb_lens.report").joinpath(name).read_text("utf-8")


def _prose(text: str) -> Markup:
    """Escaped text, with the parts between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _cell_text(text: str) -> Markup:
    """Escaped text; a name_of_parts may break at an underscore, which keeps columns narrow."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def _hash(script: str) -> str:
    """The hash by which a content security policy allows a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# -- tables -----------------------------------------------------------------------------------


class _Cell(NamedTuple):
    """The text of a cell, and the number for sorting (empty: missing; None: sort by the text)."""

    text: Any
    number: str | None = None


class _Column(NamedTuple):
    """A column, ready to be written."""

    name: str
    kind: str
    cells: list[_Cell]


def _columns(table: Table) -> list[_Column]:
    """Every column, with intervals beside their values."""
    data = table.data
    ends_of = {name: ends for name, *ends in INTERVALS if {name, *ends} <= set(data)}
    all_ends = {end for ends in ends_of.values() for end in ends}
    columns = []
    for name in map(str, data):
        if name in all_ends:
            continue
        column: Any = data[name]
        if is_number(column):
            values = pd.DataFrame(data[[name, *ends_of.get(name, ())]])
            kind = "number"
            cells = _numbers(values, "+" if name in SIGNED else "")
        else:
            cells = [_text(value) for value in column]
            kind = "mark" if name == table.marked else _width(cells)
        columns.append(_Column(name.replace("_", " "), kind, cells))
    return columns


def is_number(column: Any) -> bool:
    """Whether a column holds numbers, not booleans."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _width(cells: Sequence[_Cell]) -> str:
    """The CSS class of a column of text, by its longest cell, or of a column of tokens."""
    if any(isinstance(cell.text, tuple) for cell in cells):
        return "tokens"
    letters = max((len(str(cell.text)) for cell in cells), default=0)
    if letters <= _SHORT_CELL:
        return "short"
    return "middle" if letters <= _LONG_CELL else "long"


def _text(value: Any) -> _Cell:
    if isinstance(value, tuple):
        return _Cell(value)
    if pd.isna(value):
        return _Cell("", "")
    return _Cell({"True": "yes", "False": "no"}.get(str(value), str(value)))


def _numbers(values: pd.DataFrame, sign: str) -> list[_Cell]:
    """A column of numbers with one precision; two more columns are the ends of its interval.

    Whole numbers have no decimals, others two, or more if all numbers are below 1.
    """
    numbers = values.to_numpy(float)
    decimals = _decimals(numbers[np.isfinite(numbers)])
    cells = []
    for value, *ends in values.itertuples(index=False):
        if pd.isna(value):
            cells.append(_Cell("", ""))
            continue
        text = f"{value:{sign}z.{decimals}f}"
        if ends:
            # the interval may be placed on a line below the value
            text += f" [{f',{_GLUE}'.join(f'{end:{sign}z.{decimals}f}' for end in ends)}]"
        cells.append(_Cell(text, repr(float(value))))
    return cells


def _decimals(numbers: Float[np.ndarray, " _"]) -> int:
    """Digits after the point: none for whole numbers, two, or two that are not 0."""
    if bool((numbers == numbers.round()).all()):
        return 0
    largest = float(np.abs(numbers).max(initial=0))
    # For a share or a probability more than six digits are noise.
    return 2 if largest >= 1 else min(6, 2 - math.floor(math.log10(largest)))


# -- figures ----------------------------------------------------------------------------------


def _figure(figure: go.Figure) -> dict[str, Any]:
    """Title and note as text for the page; the rest of the figure, at the same size, as JSON."""
    bare: Any = without_title(figure, _EDGE)
    title: Any = figure.layout["title"]
    return {
        "title": _plain(title.text),
        "note": _plain(title.subtitle.text),
        "width": bare.layout.width,
        "height": bare.layout.height,
        # No text may close the script element.
        "spec": Markup(bare.to_json().replace("<", r"\u003c")),
    }


def _plain(text: str) -> str:
    """A figure's text without plotly's tags."""
    return re.sub(r"</?(b|i|sub|sup|em)>", "", re.sub(r"<br ?/?>", " ", text))


# -- words --------------------------------------------------------------------------------------


def setting_text(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, Mapping):
        texts = [f"{name} = {setting_text(setting)}" for name, setting in value.items()]
        return "; ".join(texts) or "default"
    if isinstance(value, list | tuple):
        return " and ".join(map(setting_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    # The page may be shared, so it must not show paths in a home folder.
    return "default" if value is None else shared_name(str(value))
