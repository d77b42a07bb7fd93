"""The dark theme: each colour of the style is replaced by another one."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go

from kb_lens.figures.style import (
    BACKGROUND,
    COLOURS,
    DIVERGING,
    GREY,
    INK,
    NOTE,
    PALE,
    SEQUENTIAL,
    faint,
)

Theme = Literal["light", "dark"]
# Brighter than the light theme's. The tests of the style check that they stand out from the dark
# background and from one another, for colour-blind readers too.
_DARK_COLOURS = ("#2390E0", "#FF6035", "#46DDA6", "#CB80AE", "#FDDD78", "#A5DCFB", "#FAFAFA")
DARK = {
    BACKGROUND: "#15181D",
    INK: "#EDEFF2",
    NOTE: "#C3C7CD",
    GREY: "#979CA5",
    PALE: "#343942",
    **dict(zip(COLOURS, _DARK_COLOURS, strict=True)),
    DIVERGING[0][1]: "#A6D8FF",
    DIVERGING[2][1]: "#17364E",
    DIVERGING[4][1]: "#4A2A15",
    DIVERGING[6][1]: "#FFC7A3",
    SEQUENTIAL[1][1]: "#245F8B",
}
"""Light -> dark. In scales, too, 0 has the background's colour and large values stand out."""
_RGBA = re.compile(r"rgba\((\d+), (\d+), (\d+), ([\d.]+)\)")


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """The figure in a theme, as a new figure; colours outside the style are not changed.

    Args:
        figure: A figure in the light theme, as the functions of `kb_lens.figures` return it.
        theme: ``light`` or ``dark``.

    Raises:
        ValueError: If the theme is unknown.
    """
    if theme not in get_args(Theme):
        raise ValueError(f"theme is {theme!r}: allowed are {', '.join(get_args(Theme))}.")
    if theme == "light":
        return go.Figure(figure)
    traces: Any = figure.data
    data = [_dark(trace.to_plotly_json()) for trace in traces]
    return go.Figure(data, _dark(figure.layout.to_plotly_json()))


def _dark(node: Any, key: str = "") -> Any:
    """A node of the figure with all colours below it replaced."""
    if isinstance(node, dict):
        return {name: _dark(value, name) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [_dark(value, key) for value in node]
    # arrays of numbers have no colours and stay arrays, which are short in JSON
    if isinstance(node, np.ndarray) and node.dtype == object:
        return [_dark(value, key) for value in node.tolist()]
    if isinstance(node, str) and key.endswith(("color", "colorway", "colorscale")):
        return _exchanged(node)
    return node


def _exchanged(colour: str) -> str:
    """A colour's counterpart, with the same opacity."""
    match = _RGBA.fullmatch(colour)
    if match is None:
        return DARK.get(colour, colour)
    *channels, opacity = match.groups()
    light = "#" + bytes(map(int, channels)).hex().upper()
    return faint(DARK[light], float(opacity)) if light in DARK else colour
