"""The layout of figures in pixels: heights and positions.

Plotly places things in shares of the plot, the area between the margins. But a line of text needs
the same number of pixels in every figure. This module converts pixels to shares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

WIDTH, HEIGHT = 700, 420
"""Pixels of a figure; the width is a paper's text width, so that 13 pixels print as 8 points."""
PAGE_INCHES, TALLEST = 7.0, 9.5
"""Inches in print: that width; the height of the tallest figure that leaves room for a caption."""
MAX_HEIGHT = int(TALLEST * WIDTH / PAGE_INCHES)
"""Pixels of the tallest figure."""

# A line of text in the fonts of `style`: its size and a gap of about a third of it.
TITLE_LINE, LINE = 22, 18
"""Pixels: a line of the title; a line of notes, names and legends."""
PADDING = 12
"""Pixels between the title and the figure's edge, and between the note and what is below it."""

# A row's name must fit in the row, with a gap to the next.
ROW, TWO_LINE_ROW = 22, 36
"""Pixels: a row whose name has one line; a row whose name has two."""
CELL, TWO_LINE_CELL = 34, 40
"""Pixels of a heatmap's cell with one number; with two numbers, one below the other."""
AXIS = 56
"""Pixels below a panel for tick labels, the axis title and a gap."""
TITLE_GAP = 6
"""Pixels between a panel and its title."""


@dataclass(frozen=True)
class Stack:
    """Panels one below the other, equally high and equally far apart."""

    n: int
    """Panels."""

    height: int
    """Pixels of a panel."""

    between: int
    """Pixels between two panels: the upper one's axis and the lower one's title."""

    @property
    def plot(self) -> int:
        """Pixels of the plot, from the first panel's top to the last one's bottom."""
        return self.n * self.height + (self.n - 1) * self.between

    @property
    def spacing(self) -> float:
        """`between` as plotly's ``vertical_spacing``, a share of the plot."""
        # plotly refuses a spacing that does not fit, even for a single panel
        return self.between / self.plot if self.n > 1 else 0

    def above(self, pixels: float) -> float:
        """The position `pixels` above the plot, as a share of the plot."""
        return 1 + pixels / self.plot


def count_lines(*texts: str) -> int:
    """Lines of the longest text, where ``<br>`` breaks the line."""
    return max(text.count("<br>") for text in texts) + 1


def panel_title_height(*titles: str) -> int:
    """Pixels above the panels for their titles, by the longest title."""
    return LINE * count_lines(*titles) + TITLE_GAP


def title_height(figure: go.Figure) -> int:
    """Pixels of the title and the note of a finished figure."""
    title: Any = figure.layout["title"]
    note_height = LINE * count_lines(title.subtitle.text)
    return PADDING + TITLE_LINE * count_lines(title.text) + note_height + PADDING


def without_title(figure: go.Figure, edge: int) -> go.Figure:
    """A new figure with `edge` pixels instead of title and note."""
    untitled: Any = go.Figure(figure)
    freed = title_height(figure) - edge
    height = untitled.layout.height - freed
    top = untitled.layout.margin.t - freed
    return untitled.update_layout(title=None, height=height, margin_t=top)


def padded_range(values: Iterable[float], share: float) -> tuple[float, float]:
    """From the least to the largest value, plus a share of their distance at both ends."""
    ends = list(values)
    low, high = min(ends), max(ends)
    padding = share * (high - low) or 1.0  # equal values need a range as well
    return low - padding, high + padding
