"""How wide a figure is: on a page of its own, in a column, or at any width in print.

A figure of its own has its title and note. One that is printed in a paper leaves both to the
caption, and its files have the printed size: the PDF goes into the paper as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kb_lens.figures.column import INCHES
from kb_lens.figures.layout import PAGE_INCHES

PAGE, COLUMN = "page", "column"
"""The widths that have names: of a figure by itself, and of a paper's column."""
# The smallest letters, 13 of 700 pixels, print as 6 points from here on.
_NARROWEST_PAGE = 4.6
"""Inches from which the page's layout can be read; narrower ones have a column's."""
_ALLOWED = (2.5, 20.0)
"""Inches that can be asked for."""
_UNITS = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4}
_LENGTH = re.compile(r"(\d{1,4}(?:\.\d{1,4})?) ?(in|cm|mm)")


@dataclass(frozen=True)
class Printed:
    """A width in print, and how a figure is laid out there."""

    name: str
    """As it was asked for."""
    inches: float
    """The width."""

    @property
    def has_title(self) -> bool:
        """Whether title and note are in the figure: else the caption has them."""
        return self.name == PAGE

    @property
    def narrow(self) -> bool:
        """Whether panels stand one below the other, as in a column."""
        return self.inches < _NARROWEST_PAGE

    @property
    def suffix(self) -> str:
        """What the names of the files say of it."""
        return "" if self.has_title else f".{self.name.replace(' ', '').replace('.', '_')}"


def printed_width(width: str) -> Printed:
    """Read ``page``, ``column`` or a length such as ``5.5in``, ``14cm`` or ``140mm``.

    Raises:
        ValueError: For anything else, or a width out of reach.
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
