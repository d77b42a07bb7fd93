"""Figures of the third step: the neuron sets, their layers and their overlaps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.layout import CELL, HEIGHT, WIDTH
from kb_lens.figures.marks import layer_axis, number_cells, rows_axis
from kb_lens.figures.style import (
    GREY,
    INK,
    PALE,
    SEQUENTIAL,
    SMALL,
    colour_bar,
    dimension_colours,
    finish,
    label,
    shown_model,
)
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet

MAX_UPSET_SETS = 5
"""Most sets: more have more intersections than fit on a page."""
_NARROW_BARS = 12
"""Most bars that fit in a column."""
_MOST_NUMBERS = 40
"""Most layers whose cells have room for a number."""
_LETTER = 8
"""Pixels of a wide letter of a set's name, which is between the two lower panels."""
_UPSET_ROWS, _UPSET_ROW = 3, 25
"""Sets that fit in an UpSet plot of the usual height; pixels for each further set."""
_MATRIX_CELL = 60
"""Pixels of a row of the overlaps, for about square cells."""
_BARE: dict[str, Any] = {"showgrid": False, "showticklabels": False, "ticks": "", "showline": False}
"""Settings of a hidden axis."""


def neurons_per_layer(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """The number of neurons of each set in each layer, as bars side by side.

    Raises:
        ValueError: If there are no sets, or they are of different models or sites.
    """
    first = check_sets(sets)
    figure = layer_counts(first.n_layers)
    for (name, neurons), colour in zip(sets.items(), dimension_colours(sets), strict=True):
        layers = [neuron.layer for neuron in neurons]
        add_layer_counts(figure, name, layers, colour, first.n_layers)
    return finish(
        figure,
        "How many neurons were selected in each layer",
        f"{_rests_on(first)}, {first.d_mlp} neurons a layer. In brackets: the size of the set.",
        top=38,
        barmode="group",
        showlegend=True,
    )


def layer_heatmap(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """The number of neurons of each dimension in each layer, as a heatmap.

    The last row counts each layer's neurons once, whatever sets they are in.

    Raises:
        ValueError: If there are no sets, or they are of different models or sites.
    """
    first = check_sets(sets)
    rows = {**sets} if len(sets) == 1 else {**sets, "in any": NeuronSet.union(sets.values())}
    counts = [_counts(neurons) for neurons in rows.values()]
    words = [[str(count) if count else "" for count in row] for row in counts]
    cells = number_cells(counts, words, colorscale=SEQUENTIAL, zmin=0)
    if first.n_layers > _MOST_NUMBERS:
        cells.update(texttemplate="", showscale=True, colorbar=colour_bar("neurons"))
    cells.update(hovertemplate="%{y}, layer %{x}: %{z} neurons<extra></extra>", hoverinfo=None)
    figure = go.Figure(cells)
    names = [f"{name} ({len(neurons)})" for name, neurons in rows.items()]
    figure.update_yaxes(**rows_axis(names))
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(first.n_layers))
    return finish(
        figure,
        "Where each dimension's neurons lie",
        f"{_rests_on(first)}, {first.d_mlp} neurons a layer. Numbers: selected neurons; in "
        "brackets: the size of the set.",
        height=180 + CELL * len(rows),
    )


def _counts(neurons: NeuronSet) -> list[int]:
    """[layer] The number of neurons."""
    counts = Counter(neuron.layer for neuron in neurons)
    return [counts[layer] for layer in range(neurons.n_layers)]


def layer_counts(n_layers: int) -> go.Figure:
    """An empty figure for `add_layer_counts`."""
    figure = go.Figure()
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(n_layers))
    return figure.update_yaxes(title_text="Neurons", rangemode="tozero")


def add_layer_counts(
    figure: go.Figure, name: str, layers: Sequence[int], colour: str, n_layers: int
) -> None:
    """Bars that count the neurons of each layer.

    Args:
        figure: The figure.
        name: Name of the neurons; their number is added.
        layers: The layer of each neuron.
        colour: Colour of the bars.
        n_layers: Number of layers of the model.
    """
    counts = Counter(layers)
    heights = [counts[layer] for layer in range(n_layers)]
    bars = go.Bar(x=list(range(n_layers)), y=heights, marker_color=colour)
    bars.update(name=f"{name} ({len(layers)})", hovertemplate="layer %{x}: %{y} neurons")
    figure.add_trace(bars)


def overlap_heatmap(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """The Jaccard overlap of each pair of sets: neurons in both over neurons in either.

    Raises:
        ValueError: If there are no sets, or they are of different models or sites.
    """
    first = check_sets(sets)
    jaccard = [[a.jaccard(b) for b in sets.values()] for a in sets.values()]
    words = [[_shared(a, b) for b in sets.values()] for a in sets.values()]
    cells = number_cells(jaccard, words, colorscale=SEQUENTIAL, zmin=0, zmax=1)
    cells.update(showscale=True, colorbar=colour_bar("Jaccard<br> "))
    figure = go.Figure(cells)
    names = [f"{name} ({len(neurons)})" for name, neurons in sets.items()]
    positions = list(range(len(names)))
    ticks: dict[str, Any] = {"tickvals": positions, "ticktext": names, "showgrid": False}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    return finish(
        figure,
        "How much the sets of neurons share",
        "Jaccard: neurons in both sets over neurons in either; 1 is the same set, 0 none shared. "
        f"Below it: neurons in both. In brackets: the size of the set. {_rests_on(first)}.",
        height=max(HEIGHT, 160 + _MATRIX_CELL * len(names)),
    )


def upset(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """An UpSet plot: the number of neurons in each combination of the sets and in no other set.

    Source: Lex et al., UpSet: visualization of intersecting sets (2014).

    Raises:
        ValueError: If there are no sets or more than `MAX_UPSET_SETS`, or they are of different
            models or sites.
    """
    first = check_sets(sets)
    if len(sets) > MAX_UPSET_SETS:
        raise ValueError(
            f"{len(sets)} sets: allowed are up to {MAX_UPSET_SETS}. Use overlap_heatmap instead."
        )
    counts = intersections(sets)
    sizes = [len(neurons) for neurons in sets.values()]
    names_width = _LETTER * max(map(len, sets)) / WIDTH
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[None, {}], [{}, {}]],
        column_widths=[0.2, 0.8],
        row_heights=[0.66, 0.34],
        horizontal_spacing=0.05 + names_width,
        vertical_spacing=0.04,
    )
    figure.add_trace(_bars(list(counts.values()), "v", INK), 1, 2)
    figure.add_trace(_bars(sizes, "h", GREY), 2, 1)
    for trace in _memberships(list(sets), list(counts)):
        figure.add_trace(trace, 2, 2)
    _upset_axes(figure, list(sets), sizes, list(counts.values()))
    extra_rows = max(0, len(sets) - _UPSET_ROWS)
    return finish(
        figure,
        "Which neurons the sets have in common",
        f"{_rests_on(first)}, {sum(counts.values())} neurons in all. A bar counts the neurons that "
        "are in every set marked below it and in no other.",
        height=HEIGHT + _UPSET_ROW * extra_rows,
        showlegend=False,
        meta={"column": WHOLE_PAGE} if len(counts) > _NARROW_BARS else None,
    )


def intersections(sets: Mapping[str, NeuronSet]) -> dict[tuple[str, ...], int]:
    """The number of neurons that are in all of some sets and in none of the others.

    Returns:
        Names of the sets -> number of neurons if above 0, the largest first.
    """
    members: defaultdict[Neuron, list[str]] = defaultdict(list)
    for name, neurons in sets.items():
        for neuron in neurons:
            members[neuron].append(name)
    counts = Counter(tuple(names) for names in members.values())
    order = list(sets)

    def rank(names: tuple[str, ...]) -> tuple[int, int, list[int]]:
        return -counts[names], len(names), [order.index(name) for name in names]

    return {names: counts[names] for names in sorted(counts, key=rank)}


def check_sets(sets: Mapping[str, NeuronSet]) -> NeuronSet:
    """The first set, after a check that all are of the same model and site."""
    if not isinstance(sets, Mapping) or not sets:
        raise ValueError(
            f"sets is {sets!r}: expected a mapping of names to at least one NeuronSet."
        )
    for name, neurons in sets.items():
        if not isinstance(neurons, NeuronSet):
            raise ValueError(f"{name!r} is a {type(neurons).__name__}: expected a NeuronSet.")
    NeuronSet.union(sets.values())  # raises for another model or site
    return next(iter(sets.values()))


def _rests_on(neurons: NeuronSet) -> str:
    return f"{shown_model(neurons.model)}, site {neurons.site}"


def _shared(a: NeuronSet, b: NeuronSet) -> str:
    return f"{a.jaccard(b):.2f}<br>{len(a & b)}" if a | b else "none<br>0"


def _bars(lengths: list[int], orientation: Literal["v", "h"], colour: str) -> go.Bar:
    """Bars with their lengths written at their ends."""
    positions = list(range(len(lengths)))
    bars = go.Bar(orientation=orientation, marker_color=colour, hoverinfo="skip")
    if orientation == "v":
        bars.update(x=positions, y=lengths)
    else:
        bars.update(x=lengths, y=positions)
    bars.update(text=lengths, textposition="outside", textfont_size=SMALL)
    return bars.update(cliponaxis=False)  # a long bar's number is outside the axis


def _memberships(names: Sequence[str], members: Sequence[tuple[str, ...]]) -> list[go.Scatter]:
    """The matrix below the bars: pale dots everywhere, joined dark dots for the sets of a bar."""
    everywhere = list(product(range(len(members)), range(len(names))))
    marked: list[tuple[int | None, int | None]] = []
    for x, chosen in enumerate(members):
        marked += [(x, names.index(name)) for name in chosen]
        marked.append((None, None))  # ends the line
    pale = _dots(everywhere, "markers", PALE)
    dark = _dots(marked, "lines+markers", INK)
    return [pale, dark]


def _dots(points: Sequence[tuple[int | None, int | None]], mode: str, colour: str) -> go.Scatter:
    columns, rows = zip(*points, strict=True) if points else ((), ())
    dots = go.Scatter(x=columns, y=rows, mode=mode, hoverinfo="skip")
    dots.update(marker_size=13, marker_color=colour)
    return dots.update(line_width=3, line_color=colour)


def _upset_axes(
    figure: go.Figure, names: Sequence[str], sizes: Sequence[int], counts: Sequence[int]
) -> None:
    n_columns = max(len(counts), 1)
    figure.update_xaxes(col=2, range=[-0.6, n_columns - 0.4], **_BARE)
    # room for the number at the end of the longest bar
    figure.update_yaxes(title_text="Neurons", range=[0, 1.12 * max(counts, default=1)], row=1)
    figure.update_yaxes(showgrid=False, row=1)
    rows = rows_axis(names)
    figure.update_yaxes(row=2, range=rows["range"], **_BARE)
    figure.update_yaxes(row=2, col=2, **rows, showticklabels=True)
    # from right to left, so that the bars start at the names
    size_range = [1.35 * max(*sizes, 1), 0]
    figure.update_xaxes(title_text="Size of the set", range=size_range, row=2, col=1)
    figure.update_xaxes(nticks=3, showgrid=False, row=2, col=1)
    if not counts:
        text = label("no neurons in any set", xref="paper", yref="paper", x=0.6, y=0.7)
        figure.add_annotation(text)
