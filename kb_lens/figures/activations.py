"""Texts with every token in the colour of a neuron's activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.layout import LINE, WIDTH
from kb_lens.figures.style import COLOURS, INK, NOTE, SMALL, faint, finish, literal

_MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LETTER = 7.35
"""Pixels of a letter's width."""
_SIDE = 12
"""Pixels to the left and to the right of the lines."""
_TOKEN_LINE = 21
"""Pixels of a line of tokens and the gap below it."""
_STRONGEST = 0.75
"""The opacity of the largest activation, on which dark letters must be readable."""


@dataclass(frozen=True)
class Tokens:
    """A text in tokens, with a number for the colour of each."""

    name: str
    """Its heading."""
    tokens: Sequence[str]
    values: Sequence[float]


def activation_text(table: pd.DataFrame) -> go.Figure:
    """Each text in tokens, coloured by the neuron's activation: orange above 0, blue below.

    The darkest colour is the neuron's largest absolute activation over all its texts, without their
    first tokens, whose activations differ in size in most models.

    Args:
        table: What `kb_lens.activations` returned; it gives a block per neuron and text.

    Raises:
        ValueError: If the table is empty.
    """
    if len(table) == 0:
        raise ValueError("the table has no tokens: give what kb.activations returned.")
    blocks: list[Tokens] = []
    scales: list[float] = []
    several = len(set(table["text"])) > 1
    for neuron, rows in table.groupby("neuron", sort=False):
        largest = largest_activation(rows)
        for number, of_text in rows.groupby("text", sort=False):
            name = f"{neuron}, largest {largest:.3g}"
            name = f"{name}, text {int(str(number)) + 1}" if several else name
            blocks.append(Tokens(name, list(of_text["token"]), list(of_text["activation"])))
            scales.append(largest)
    figure = go.Figure()
    letters = letters_of(WIDTH - 2 * _SIDE)
    n_lines = draw_tokens(figure, blocks, scales, letters)
    token_axes(figure, n_lines, letters)
    note = (
        "Orange: the activation is above 0; blue: below. The darkest is the neuron's largest, "
        "first tokens left out."
    )
    return finish(
        figure,
        "Where a text activates a neuron",
        note,
        height=110 + _TOKEN_LINE * n_lines,
        margin={"l": _SIDE, "r": _SIDE, "b": _SIDE},
        showlegend=False,
        meta={"column": WHOLE_PAGE},  # its lines are broken for this width
    )


def largest_activation(rows: pd.DataFrame) -> float:
    """A neuron's largest absolute activation, without first tokens if there are other tokens."""
    sizes = rows["activation"].abs().to_numpy(float)
    behind = rows["position"].to_numpy() > 0
    return float((sizes[behind] if behind.any() else sizes).max())


def draw_tokens(
    figure: go.Figure,
    blocks: Sequence[Tokens],
    scales: Sequence[float],
    letters: int,
    **place: Any,
) -> int:
    """Write the blocks one below the other.

    Args:
        figure: The figure.
        blocks: The texts.
        scales: For each block the absolute activation of the darkest colour.
        letters: Letters per line.
        place: A subplot's row and col.

    Returns:
        The number of lines.
    """
    line = 0
    for block, largest in zip(blocks, scales, strict=True):
        _write(figure, [0.0], [line], [block.name], NOTE, "middle right", **place)
        line += 1
        placed = list(_placed(block.tokens, line, letters))
        for (x, y, width), value in zip(placed, block.values, strict=True):
            share = min(1.0, abs(value) / largest) if largest else 0.0
            figure.add_shape(
                type="rect",
                x0=x,
                x1=x + width,
                y0=y - 0.45,
                y1=y + 0.45,
                line_width=0,
                fillcolor=faint(COLOURS[1] if value > 0 else COLOURS[0], _STRONGEST * share),
                layer="below",
                **place,
            )
        xs, ys = [x for x, _, _ in placed], [y for _, y, _ in placed]
        hover = [f"{literal(t)}: {v:.3g}" for t, v in zip(block.tokens, block.values, strict=True)]
        _write(figure, xs, ys, block.tokens, INK, "middle right", hover=hover, **place)
        line = int(ys[-1]) + 1
    return line


def letters_of(pixels: int) -> int:
    """The number of letters that fit."""
    return int(pixels / _LETTER)


def count_lines(blocks: Sequence[Tokens], letters: int) -> int:
    """The number of lines that `draw_tokens` needs."""
    last = [list(_placed(block.tokens, 1, letters))[-1] for block in blocks]
    return sum(1 + line for _, line, _ in last)


def token_axes(figure: go.Figure, n_lines: int, letters: int, **place: Any) -> None:
    """Hidden axes, in letters and lines."""
    figure.update_xaxes(range=[0, letters], visible=False, fixedrange=True, **place)
    figure.update_yaxes(range=[n_lines - 0.5, -0.5], visible=False, fixedrange=True, **place)


def _placed(tokens: Sequence[str], line: int, letters: int) -> Iterator[tuple[float, int, float]]:
    """Left edge, line and width of each token, in letters; lines break between tokens."""
    x = 0
    for token in tokens:
        width = max(1, len(token))
        if x and x + width > letters:
            x, line = 0, line + 1
        yield x, line, width
        x += width


def _write(
    figure: go.Figure,
    xs: Sequence[float],
    ys: Sequence[int],
    texts: Sequence[str],
    colour: str,
    position: str,
    hover: Sequence[str] | None = None,
    **place: Any,
) -> None:
    # plotly drops leading spaces
    shown = [literal(text).replace(" ", "\N{NO-BREAK SPACE}") for text in texts]
    figure.add_scatter(
        x=xs,
        y=ys,
        text=shown,
        mode="text",
        textposition=position,
        textfont={"family": _MONO, "size": SMALL - 1, "color": colour},
        hovertext=hover,
        hoverinfo="text" if hover else "skip",
        cliponaxis=False,
        **place,
    )


def block_height(n_lines: int) -> int:
    """Pixels of a number of lines."""
    return _TOKEN_LINE * n_lines + LINE
