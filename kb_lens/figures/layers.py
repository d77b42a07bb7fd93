"""Figures over the layers: sums of each layer's scores, and the neurons that sets share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.figures.attribution import OBJECTIVES, answer_of, check_scores, rests_on
from kb_lens.figures.layout import LINE, TITLE_GAP, Stack
from kb_lens.figures.marks import (
    ZERO_LINE,
    band,
    curve,
    interval_hover,
    layer_axis,
    panel_title,
)
from kb_lens.figures.neurons import add_layer_counts, check_sets, layer_counts
from kb_lens.figures.style import COLOURS, dimension_colours, faint, finish, shown_model
from kb_lens.neurons.sets import NeuronSet
from kb_lens.resampling import Measure, Sums, means, ratio
from kb_lens.statistics import DEFAULT_RESAMPLES, Statistics, bootstrap

_PANELS = {
    "Sums of the positive and of the negative scores": ["added", "taken"],
    "Sum of all scores": ["together"],
}
"""Title of a panel -> the sums of a layer's scores in it."""
_DIFFERENCE = "Sum of all scores: the dimension minus the others"
"""The last panel, if there are other dimensions."""
# four colours that colour-blind readers can tell apart
_SHARED = (COLOURS[5], COLOURS[0], COLOURS[4], COLOURS[1])
"""Colours: in one set, in two, in more, in all."""
_PANEL_HEIGHT, _BETWEEN, _AROUND = 170, 48, 190
"""Pixels of a panel, between two panels, and around a profile."""


def layer_profile(attributions: Attributions, *, n_bootstrap: int = DEFAULT_RESAMPLES) -> go.Figure:
    """What each layer's neurons add to the right answer and take from it, a line per dimension.

    First panel: the sum of the positive scores and the sum of the negative scores. Second: the sum
    of all scores, the contribution of the layer as a whole. Last: its difference from the questions
    of the other dimensions. Means over the dimension's questions, with 95 % bootstrap intervals
    over the questions (of both groups for the difference).

    Args:
        attributions: Scores of every neuron for some questions.
        n_bootstrap: Resamples of the questions.

    Raises:
        ValueError: If there are no questions or no resamples, or the scores are not finite or all
            0.
    """
    check_scores(attributions)
    dimensions = attributions.by_dimension()
    titles = [*_PANELS, *([_DIFFERENCE] if len(dimensions) > 1 else [])]
    stack = Stack(len(titles), _PANEL_HEIGHT, _BETWEEN)
    figure = make_subplots(rows=stack.n, shared_xaxes=True, vertical_spacing=stack.spacing)
    palette = dimension_colours(dimensions)
    for (dimension, scores), colour in zip(dimensions.items(), palette, strict=True):
        profile = _profile(scores, n_bootstrap)
        _add_profile(figure, f"{dimension} ({len(scores)})", profile, colour)
        if len(dimensions) > 1:
            difference = _difference(attributions, dimension, n_bootstrap)
            _add_line(figure, stack.n, dimension, difference, colour, in_legend=False)
    for row, title in enumerate(titles, 1):
        panel_title(figure, f"<b>{title}</b>", row)
    unit = OBJECTIVES[attributions.settings.objective].unit
    figure.update_yaxes(title_text=unit, **ZERO_LINE)
    figure.update_xaxes(**layer_axis(attributions.scores.shape[1]), showgrid=False)
    figure.update_xaxes(title_text="Layer", row=stack.n, col=1)
    return finish(
        figure,
        f"What each layer's neurons add to {answer_of(attributions)}, and what they take from it",
        f"{rests_on(attributions)} (in brackets: of the dimension). Mean over the dimension's "
        "questions of a layer's summed scores; bands: 95 % bootstrap interval over the questions.",
        height=stack.plot + _AROUND,
        top=56,
        legend={"y": stack.above(LINE + TITLE_GAP)},
        showlegend=True,
    )


def _profile(attributions: Attributions, n_bootstrap: int) -> pd.DataFrame:
    """Rows (sum, layer) with value, low, high and n, in the objective's unit."""
    scale = OBJECTIVES[attributions.settings.objective].scale
    scores = scale * attributions.scores.double()
    added = scores.clamp(min=0).sum(-1)
    taken = scores.clamp(max=0).sum(-1)
    sums = torch.cat([added, taken, scores.sum(-1)], dim=1)
    layers = range(scores.shape[1])
    keys = pd.MultiIndex.from_product([["added", "taken", "together"], layers])
    quantities = pd.DataFrame(sums.numpy()).rename(columns=str).assign(n=1.0)
    everything = pd.DataFrame({"all": np.ones(len(attributions), dtype=bool)})
    measured = bootstrap(Statistics(quantities, everything), means, n_bootstrap=n_bootstrap)
    return pd.DataFrame(list(measured.values())).set_index(keys)


def _difference(attributions: Attributions, dimension: str, n_bootstrap: int) -> pd.DataFrame:
    """[layer] Mean sum of a dimension's questions minus that of all others, with its interval."""
    scale = OBJECTIVES[attributions.settings.objective].scale
    sums = scale * attributions.scores.double().sum(-1)
    own = np.array([question.dimension == dimension for question in attributions.questions])
    groups = pd.DataFrame({"own": own, "others": ~own})
    quantities = pd.DataFrame(sums.numpy()).rename(columns=str).assign(n=1.0)
    statistics = Statistics(quantities, groups)
    measured = bootstrap(statistics, _own_minus_others, n_bootstrap=n_bootstrap)
    return pd.DataFrame(list(measured.values()))


def _own_minus_others(sums: Sums) -> dict[str, Measure]:
    own, others = sums["own"], sums["others"]
    layers = [name for name in own if name != "n"]
    return {
        layer: Measure(ratio(own[layer], own["n"]) - ratio(others[layer], others["n"]), own["n"])
        for layer in layers
    }


def _add_profile(figure: go.Figure, name: str, profile: pd.DataFrame, colour: str) -> None:
    for row, quantities in enumerate(_PANELS.values(), 1):
        for quantity in quantities:
            # one entry in the legend for the dimension's lines in all panels
            listed = quantity == "added"
            _add_line(figure, row, name, profile.loc[quantity], colour, in_legend=listed)


def _add_line(
    figure: go.Figure, row: int, name: str, table: pd.DataFrame, colour: str, *, in_legend: bool
) -> None:
    """A line over the layers, with the band of its intervals."""
    value, low, high = table[["value", "low", "high"]].to_numpy().T
    layers = list(range(len(value)))
    area = band(layers, low, high, faint(colour))
    area.update(showlegend=False)
    line = curve(layers, value, name, color=colour, width=2)
    line.update(showlegend=in_legend, legendgroup=name)
    line.update(customdata=np.stack([low, high], 1))
    line.update(hovertemplate=f"layer %{{x}}: {interval_hover('y')}")
    figure.add_traces([area, line], rows=row, cols=1)


def shared_per_layer(sets: Mapping[str, NeuronSet]) -> go.Figure:
    """The number of each layer's neurons that are in one set only, in two, in more, in all sets.

    Raises:
        ValueError: If there are fewer than two sets, or they are of different models or sites.
    """
    first = check_sets(sets)
    if len(sets) < 2:
        raise ValueError(f"{len(sets)} set has nothing to share: at least 2 are needed.")
    n_sets = Counter(neuron for neurons in sets.values() for neuron in neurons)
    figure = layer_counts(first.n_layers)
    for words, least, most, colour in _classes(len(sets)):
        layers = [neuron.layer for neuron, n in n_sets.items() if least <= n <= most]
        add_layer_counts(figure, words, layers, colour, first.n_layers)
    return finish(
        figure,
        "Which layers hold the neurons that the sets share",
        f"{shown_model(first.model)}, site {first.site}. {len(n_sets)} neurons, each counted once, "
        f"in any of the sets {', '.join(sets)}. In brackets: how many.",
        top=38,
        barmode="stack",
        showlegend=True,
        legend={"traceorder": "normal"},
    )


def _classes(n: int) -> list[tuple[str, int, int, str]]:
    """Classes of neurons by their number of sets: the words, least and most sets, the colour."""
    classes = [("in one set", 1, 1, _SHARED[0])]
    if n > 2:
        classes.append(("in 2", 2, 2, _SHARED[1]))
    if n > 3:
        words = "in 3" if n == 4 else f"in 3 to {n - 1}"
        classes.append((words, 3, n - 1, _SHARED[2]))
    return [*classes, (f"in all {n}", n, n, _SHARED[3])]
