"""Figures of the third step: the neuron sets, where they lie and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.layout import HEIGHT, WIDTH
from kb_lens.figures.marks import layer_axis
from kb_lens.figures.style import (
    GREY,
    INK,
    PALE,
    SEQUENTIAL,
    SMALL,
    colour_bar,
    colours,
    finish,
    label,
)
from kb_lens.neurons import NeuronSet

MAX_UPSET_SETS = 5
"""More sets have more intersections than a page has room for."""
_NARROW_BARS = 12
"""As many bars fit into a column."""


def neurons_per_layer(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """How many neurons of each set lie in each layer, as bars side by side.

    Raises:
        ValueError: For no sets, or sets of different models or sites.
    """
    first = check_sets(sets)
    figure = go.Figure()
    for (name, neurons), colour in zip(sets.items(), colours(len(sets)), strict=True):
        figure.add_bar(
            x=list(range(neurons.n_layers)),
            y=neurons.mask().sum(1).tolist(),
            name=f"{name} ({len(neurons)})",
            marker_color=colour,
            hovertemplate="layer %{x}: %{y} neurons",
        )
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(first.n_layers))
    figure.update_yaxes(title_text="Neurons", rangemode="tozero")
    return finish(
        figure,
        "How many neurons were selected in each layer",
        f"{_rests_on(first)}, {first.d_mlp} neurons a layer. In brackets: the size of the set.",
        top=38,
        barmode="group",
        showlegend=True,
    )


def overlap_heatmap(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """How much each pair of sets shares: neurons in both over neurons in either (Jaccard).

    Raises:
        ValueError: For no sets, or sets of different models or sites.
    """
    first = check_sets(sets)
    names = [f"{name} ({len(neurons)})" for name, neurons in sets.items()]
    pairs = [[(a, b) for b in sets.values()] for a in sets.values()]
    figure = go.Figure(
        go.Heatmap(
            z=[[a.jaccard(b) if len(a | b) else None for a, b in row] for row in pairs],
            x=list(range(len(names))),
            y=list(range(len(names))),
            text=[[_shared(a, b) for a, b in row] for row in pairs],
            texttemplate="%{text}",
            textfont={"size": SMALL, "color": INK},
            hoverinfo="skip",
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar=colour_bar("Jaccard<br> "),
        )
    )
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(autorange="reversed", **ticks)
    return finish(
        figure,
        "How much the sets of neurons share",
        "Jaccard: neurons in both sets over neurons in either; 1 is the same set, 0 none shared. "
        f"Below it: neurons in both. In brackets: the size of the set. {_rests_on(first)}.",
        height=max(HEIGHT, 160 + 60 * len(names)),
    )


def upset(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """How many neurons lie in exactly which of the sets (an UpSet plot), counted exactly.

    Source: Lex et al., UpSet: visualization of intersecting sets (2014).

    Raises:
        ValueError: For no sets, more than `MAX_UPSET_SETS`, or sets of different models or sites.
    """
    first = check_sets(sets)
    if len(sets) > MAX_UPSET_SETS:
        raise ValueError(
            f"{len(sets)} sets: allowed are up to {MAX_UPSET_SETS}. Use overlap_heatmap instead."
        )
    counts, sizes = intersections(sets), [len(neurons) for neurons in sets.values()]
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[None, {}], [{}, {}]],
        column_widths=[0.2, 0.8],
        row_heights=[0.66, 0.34],
        horizontal_spacing=0.05 + 8 * max(map(len, sets)) / WIDTH,
        vertical_spacing=0.04,
    )
    figure.add_trace(_bars(list(range(len(counts))), list(counts.values()), "v"), 1, 2)
    figure.add_trace(_bars(sizes, list(range(len(sets))), "h"), 2, 1)
    for trace in _dots(list(sets), list(counts)):
        figure.add_trace(trace, 2, 2)
    _upset_axes(figure, list(sets), sizes, list(counts.values()))
    return finish(
        figure,
        "Which neurons the sets have in common",
        f"{_rests_on(first)}, {sum(counts.values())} neurons in all. A bar counts the neurons that "
        "are in every set marked below it and in no other.",
        height=HEIGHT + 25 * max(0, len(sets) - 3),
        showlegend=False,
        meta={"column": WHOLE_PAGE} if len(counts) > _NARROW_BARS else None,
    )


def intersections(sets: Mapping[str, NeuronSet]) -> dict[tuple[str, ...], int]:
    """How many neurons lie in all of some named sets and in none of the others.

    Returns:
        Names -> neurons, where there are any, the largest first.
    """
    found: dict[tuple[str, ...], int] = {}
    for size in range(1, len(sets) + 1):
        for names in combinations(sets, size):
            inside = set.intersection(*(set(sets[name]) for name in names))
            outside = (set(sets[name]) for name in sets if name not in names)
            found[names] = len(inside.difference(*outside))
    present = {names: count for names, count in found.items() if count}
    return dict(sorted(present.items(), key=lambda pair: -pair[1]))


def check_sets(sets: Mapping[str, NeuronSet]) -> NeuronSet:
    """The first set, after a check that all belong together."""
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
    return f"{neurons.model}, site {neurons.site}"


def _shared(a: NeuronSet, b: NeuronSet) -> str:
    return f"{a.jaccard(b):.2f}<br>{len(a & b)}" if len(a | b) else "none<br>0"


def _bars(x: list[int], y: list[int], orientation: str) -> go.Bar:
    """Bars with their lengths written at their ends."""
    return go.Bar(
        x=x,
        y=y,
        orientation=orientation,
        text=y if orientation == "v" else x,
        textposition="outside",
        textfont={"size": SMALL},
        cliponaxis=False,
        marker_color=INK if orientation == "v" else GREY,
        hoverinfo="skip",
    )


def _dots(names: Sequence[str], members: Sequence[tuple[str, ...]]) -> list[go.Scatter]:
    """The matrix below the bars: pale dots everywhere, joined dark ones for the sets that count."""
    everywhere = [(x, y) for x in range(len(members)) for y in range(len(names))]
    marked: list[tuple[int | None, int | None]] = []
    for x, chosen in enumerate(members):
        marked += [(x, names.index(name)) for name in chosen] + [(None, None)]
    return [
        go.Scatter(
            x=[x for x, _ in points],
            y=[y for _, y in points],
            mode=mode,
            marker={"size": 13, "color": colour},
            line={"color": colour, "width": 3},
            hoverinfo="skip",
        )
        for points, mode, colour in ((everywhere, "markers", PALE), (marked, "lines+markers", INK))
    ]


def _upset_axes(
    figure: go.Figure, names: Sequence[str], sizes: Sequence[int], counts: Sequence[int]
) -> None:
    columns, rows = [-0.6, max(len(counts), 1) - 0.4], [len(names) - 0.5, -0.5]
    blank = {"showgrid": False, "showticklabels": False, "ticks": "", "showline": False}
    highest, longest = max(counts, default=1), max(*sizes, 1)
    figure.update_xaxes(row=1, col=2, range=columns, **blank)
    figure.update_yaxes(
        title_text="Neurons", range=[0, 1.12 * highest], showgrid=False, row=1, col=2
    )
    figure.update_xaxes(row=2, col=2, range=columns, **blank)
    figure.update_yaxes(row=2, col=2, range=rows, **blank)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=list(names), row=2, col=2)
    figure.update_yaxes(showticklabels=True, row=2, col=2)
    figure.update_xaxes(title_text="Size of the set", range=[1.35 * longest, 0], row=2, col=1)
    figure.update_xaxes(nticks=3, showgrid=False, row=2, col=1)
    figure.update_yaxes(row=2, col=1, range=rows, **blank)
    if not counts:
        place = {"xref": "paper", "yref": "paper", "x": 0.6, "y": 0.7}
        figure.add_annotation(label("no neurons in any set", **place))
