"""Figure of the second step: how exact the scores are, and the nodes that it took."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.figures.attribution import check_scores, rests_on
from kb_lens.figures.marks import error_bars, layer_axis
from kb_lens.figures.style import COLOURS, INK, MINUS, finish

LEAST_GAP = 1e-10
"""Smaller completeness gaps are drawn here, since a log axis has no 0."""
# The case of a question whose answer no layer changes; the least float32 is about 1e-38.
_LEAST_CHANGE = 1e-30
"""Least change of an output, so that a gap relative to it is finite."""


def completeness(attributions: Attributions) -> go.Figure:
    """How exact the integrals are: each layer's completeness gap, and the nodes spent on it.

    The gap is relative to the question's largest |F(h) - F(0)| over the layers; a gap below
    `LEAST_GAP` is drawn there.

    Raises:
        ValueError: If there are no questions, or the scores are not finite or all 0.
    """
    check_scores(attributions)
    change = attributions.output_change.abs().amax(1, keepdim=True)
    relative = attributions.completeness_gap.abs() / change.clamp_min(_LEAST_CHANGE)
    gap = relative.double().numpy()
    worst = gap.max(0)
    median = np.median(gap, 0)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.07)
    _add_gaps(figure, "worst question", worst, COLOURS[1], "triangle-up")
    _add_gaps(figure, "median question", median, COLOURS[0], "circle")
    _add_nodes(figure, attributions.nodes.numpy())
    decades = _decades(median.min(), worst.max())
    figure.update_yaxes(title_text="Completeness gap", row=1, col=1, **decades)
    figure.update_yaxes(title_text="Nodes a question", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(**layer_axis(gap.shape[1]))
    figure.update_xaxes(title_text="Layer", row=2, col=1)
    settings = attributions.settings
    effort = f"tolerance {settings.tol:g}" if settings.tol else f"{settings.n_steps} nodes"
    return finish(
        figure,
        "The completeness gap of each layer's scores",
        f"{rests_on(attributions)}; rule: {settings.rule}, {effort}. Gap: |sum of the layer's "
        f"scores {MINUS} (F(h) {MINUS} F(0))| over the question's largest |F(h) {MINUS} F(0)|. "
        "Nodes: mean, and from fewest to most.",
        height=480,
        top=30,
    )


def _add_gaps(figure: go.Figure, name: str, values: np.ndarray, colour: str, symbol: str) -> None:
    layers = np.arange(len(values))
    line = go.Scatter(x=layers, y=np.maximum(values, LEAST_GAP), name=name)
    line.update(mode="lines+markers")
    line.update(marker_color=colour, marker_symbol=symbol, marker_size=7)
    line.update(hovertemplate=f"layer %{{x}}, {name}: %{{y:.1e}}<extra></extra>")
    figure.add_trace(line, row=1, col=1)


def _decades(least: float, largest: float) -> dict[str, Any]:
    """A log axis over whole powers of ten, at least one, with room around a value at its end."""
    low = np.floor(np.log10(max(least, LEAST_GAP)) - 0.05)
    high = np.ceil(np.log10(max(largest, LEAST_GAP)) + 0.05)
    return {"type": "log", "range": [low, high], "dtick": 1, "exponentformat": "power"}


def _add_nodes(figure: go.Figure, nodes: np.ndarray) -> None:
    mean = nodes.mean(0)
    bars = go.Bar(x=np.arange(len(mean)), y=mean)
    bars.update(error_y=error_bars(mean, nodes.min(0), nodes.max(0), INK, width=0))
    bars.update(marker_color=COLOURS[0], showlegend=False)
    bars.update(hovertemplate="layer %{x}: %{y:.0f} nodes on average<extra></extra>")
    figure.add_trace(bars, row=2, col=1)
