"""Figures over the layers: what a layer's neurons add and take, and which sets share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.figures.attribution import OBJECTIVES, check_scores, rests_on
from kb_lens.figures.marks import band, curve, layer_axis
from kb_lens.figures.neurons import check_sets
from kb_lens.figures.style import COLOURS, GREY, colours, faint, finish, label
from kb_lens.neurons import NeuronSet
from kb_lens.statistics import DEFAULT_RESAMPLES, Measure, Statistics, Sums, bootstrap

_PANELS = (
    (("added", "taken"), "Sums of the positive and of the negative scores"),
    (("together",), "Sum of all scores"),
)
"""What is drawn of a layer's scores, and what a panel is called."""
_SHARED = (COLOURS[5], COLOURS[0], COLOURS[4], COLOURS[1])
"""In one set, in two, in more, in all."""


def layer_profile(attributions: Attributions, *, n_bootstrap: int = DEFAULT_RESAMPLES) -> go.Figure:
    """What each layer's neurons add to the right answer and take from it, a line a dimension.

    Above, the sums of the positive and of the negative scores, each by itself; below, the sum of
    all, which is what the layer as a whole contributes. Means over the dimension's questions with
    95 % bootstrap intervals over them.

    Args:
        attributions: Scores of every neuron for some questions.
        n_bootstrap: Resamples of the questions.

    Raises:
        ValueError: For no questions, scores that are not finite or all 0, or no resamples.
    """
    check_scores(attributions)
    parts = attributions.by_dimension()
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.12)
    for (name, part), colour in zip(parts.items(), colours(len(parts)), strict=True):
        _add_profile(figure, f"{name} ({len(part)})", _profile(part, n_bootstrap), colour)
    _, unit, _ = OBJECTIVES[attributions.settings.objective]
    place = {"x": 0, "y": 1, "xref": "x domain", "yref": "y domain"}
    for row, (_, title) in enumerate(_PANELS, 1):
        head = label(f"<b>{title}</b>", **place, xanchor="left", yanchor="bottom")
        figure.add_annotation(**head, row=row, col=1)
    figure.update_yaxes(title_text=unit, zeroline=True, zerolinecolor=GREY, zerolinewidth=1)
    figure.update_xaxes(**layer_axis(attributions.scores.shape[1]), showgrid=False)
    figure.update_xaxes(title_text="Layer", row=2, col=1)
    return finish(
        figure,
        "What each layer's neurons add to the right answer, and what they take from it",
        f"{rests_on(attributions)} (in brackets: of the dimension). Mean over the dimension's "
        "questions of a layer's summed scores; bands: 95 % bootstrap interval over the questions.",
        height=560,
        top=56,
        legend={"y": 1.06},
        showlegend=True,
    )


def _profile(part: Attributions, n_bootstrap: int) -> pd.DataFrame:
    """Rows (sum, layer) with value, low and high, in the objective's unit."""
    _, _, scale = OBJECTIVES[part.settings.objective]
    scores = scale * part.scores.double()
    sums = {"added": scores.clamp(min=0), "taken": scores.clamp(max=0), "together": scores}
    layers = range(scores.shape[1])
    keys = pd.MultiIndex.from_product([sums, layers], names=["sum", "layer"])
    values = np.concatenate([one.sum(-1).numpy() for one in sums.values()], axis=1)
    quantities = pd.DataFrame(values, columns=[*map(str, range(len(keys)))]).assign(n=1.0)
    everything = pd.DataFrame({"all": np.ones(len(part), dtype=bool)})
    found = bootstrap(Statistics(quantities, everything), _means, n_bootstrap=n_bootstrap)
    rows = [(metric.value, metric.low, metric.high) for metric in found.values()]
    return pd.DataFrame(rows, index=keys, columns=["value", "low", "high"])


def _means(sums: Sums) -> dict[str, Measure]:
    every = sums["all"]
    return {name: Measure(every[name] / every["n"], every["n"]) for name in every if name != "n"}


def _add_profile(figure: go.Figure, name: str, profile: pd.DataFrame, colour: str) -> None:
    for row, (several, _) in enumerate(_PANELS, 1):
        for one in several:
            value, low, high = profile.loc[one].to_numpy().T
            layers = list(range(len(value)))
            area = band(layers, low, high, faint(colour)).update(showlegend=False)
            line = curve(layers, value, name, color=colour, width=2)
            line.update(showlegend=one == _PANELS[0][0][0], legendgroup=name)
            line.update(customdata=np.stack([low, high], 1))
            line.update(
                hovertemplate="layer %{x}: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]"
            )
            figure.add_traces([area, line], rows=row, cols=1)


def shared_per_layer(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """How many of each layer's neurons lie in one set only, in two, in more, in all of them.

    Raises:
        ValueError: For fewer than two sets, or sets of different models or sites.
    """
    first = check_sets(sets)
    if len(sets) < 2:
        raise ValueError(f"{len(sets)} set has nothing to share: at least 2 are needed.")
    lying_in = Counter(neuron for neurons in sets.values() for neuron in neurons)
    figure = go.Figure()
    for (least, most, words), colour in zip(_classes(len(sets)), _shades(len(sets)), strict=True):
        layers = Counter(neuron.layer for neuron, n in lying_in.items() if least <= n <= most)
        figure.add_bar(
            x=list(range(first.n_layers)),
            y=[layers[layer] for layer in range(first.n_layers)],
            name=f"{words} ({layers.total()})",
            marker_color=colour,
            hovertemplate="layer %{x}: %{y} neurons",
        )
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(first.n_layers))
    figure.update_yaxes(title_text="Neurons", rangemode="tozero")
    return finish(
        figure,
        "Which layers hold the neurons that the sets share",
        f"{first.model}, site {first.site}. {len(lying_in)} neurons, each counted once, in any of "
        f"the sets {', '.join(sets)}. In brackets: how many.",
        top=38,
        barmode="stack",
        showlegend=True,
        legend={"traceorder": "normal"},
    )


def _classes(n: int) -> list[tuple[int, int, str]]:
    """In how many of n sets a neuron lies, least and most, and the words for it."""
    several = [(3, n - 1, "in 3" if n == 4 else f"in 3 to {n - 1}")] if n > 3 else []
    two = [(2, 2, "in 2")] if n > 2 else []
    return [(1, 1, "in one set"), *two, *several, (n, n, f"in all {n}")]


def _shades(n: int) -> list[str]:
    return [*_SHARED[: min(n - 1, 3)], _SHARED[3]]
