"""The width of a figure: a page, a column, or any width in print.

A figure with the width of a page has its title and note. A figure for a paper leaves both to the
caption, and its files have the printed size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kb_lens.figures.column import INCHES
from kb_lens.figures.layout import PAGE_INCHES

PAGE, COLUMN = "page", "column"
"""The named widths: of a page, and of a paper's column."""
# from here on the smallest letters, 13 of 700 pixels, print as 6 points or more
_NARROWEST_PAGE = 4.6
"""Least inches for the page's layout; narrower figures have the layout of a column."""
_ALLOWED = (2.5, 20.0)
"""Allowed inches."""
_UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4}
_LENGTH = re.compile(r"(\d{1,4}(?:\.\d{1,4})?) ?(in|cm|mm)")


@dataclass(frozen=True)
class Printed:
    """A width in print and its layout."""

    name: str
    """The width as it was requested."""
    inches: float
    """The width in inches."""

    @property
    def has_title(self) -> bool:
        """Whether title and note are in the figure; otherwise they are in the caption."""
        return self.name == PAGE

    @property
    def narrow(self) -> bool:
        """Whether panels are one below the other, as in a column."""
        return self.inches < _NARROWEST_PAGE

    @property
    def suffix(self) -> str:
        """The part of the files' names for this width."""
        return "" if self.has_title else f".{self.name.replace(' ', '').replace('.', '_')}"


def printed_width(width: str) -> Printed:
    """Read ``page``, ``column`` or a length such as ``5.5in``, ``14cm`` or ``140mm``.

    Raises:
        ValueError: If it is something else, or a width out of range.
    """
    named = {PAGE: PAGE_INCHES, COLUMN: INCHES}
    if width in named:
        return Printed(width, named[width])
    match = _LENGTH.fullmatch(width.strip()) if isinstance(width, str) else None
    inches = float(match[1]) * _UNITS[match[2]] if match else 0.0
    low, high = _ALLOWED
    if match is None or not low <= inches <= high:
        raise ValueError(
            f"width is {width!r}: allowed are page, column, and lengths from {low:g}in to "
            f"{high:g}in such as 5.5in, 14cm or 140mm."
        )
    return Printed(match[0], inches)
