"""Figures of single neurons: what scaling one does, and whether its score foretells it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.effects import NeuronEffects, effect_against_score, rank_correlation
from kb_lens.figures.marks import THIN, band, curve, error_bars, interval_hover, panel_title
from kb_lens.figures.style import BACKGROUND, COLOURS, GREY, faint, finish, label, rounded
from kb_lens.neurons.names import Neuron

_COLUMNS, _PANEL = 4, 130
"""Panels side by side; pixels of a panel's height, its title and the gap below it."""
_LABELS = 8
"""Most names in a scatter."""
# Measured on a page with letters of the small size.
_NAME_WIDTH, _NAME_HEIGHT = 0.17, 0.08
"""The room of a name, as shares of both axes."""
_BLUE = COLOURS[0]
_POINTS = "percentage points"


def dose_response(effects: NeuronEffects, top: int = 12) -> go.Figure:
    """How P(right answer) changes with the factor of one neuron, a panel a neuron.

    Args:
        effects: What scaling the neurons does.
        top: As many neurons, those with the largest mean change at any factor.

    Raises:
        ValueError: If `top` is below 1.
    """
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top is {top!r}: allowed are integers from 1.")
    tables = [table for _, table in effects.dose_response().groupby(["layer", "index"])]
    tables.sort(key=lambda table: -np.abs(table["prob_change"].to_numpy()).max())
    largest = tables[:top]
    n_columns = min(_COLUMNS, len(largest))
    n_rows = -(-len(largest) // n_columns)
    figure = make_subplots(
        n_rows, n_columns, horizontal_spacing=0.03, vertical_spacing=0.2 / n_rows
    )
    for panel, table in enumerate(largest):
        row, column = divmod(panel, n_columns)
        for trace in _curve(table):
            figure.add_trace(trace, row + 1, column + 1)
        panel_title(figure, _names(table)[0], row + 1, column + 1, centred=True)
    _dose_axes(figure, len(largest), n_columns)
    note = (
        f"{_rests_on(effects)}. The {len(largest)} of {len(tables)} neurons with the largest "
        "mean change, each scaled alone; factor 1 changes nothing. Bands: 95 % bootstrap "
        "intervals over the questions."
    )
    return finish(
        figure,
        "What scaling one neuron does to the right answer",
        note,
        height=165 + _PANEL * n_rows,
        top=22,
        margin={"l": 92},
        showlegend=False,
    )


def effect_against_attribution(effects: NeuronEffects, attributions: Attributions) -> go.Figure:
    """What ablating each neuron takes from P(right answer), beside its attribution score.

    On the line the score is what the ablation takes.

    Raises:
        ValueError: As `kb_lens.checks.effects.effect_against_score`.
    """
    table = effect_against_score(effects, attributions)
    both = 100 * table[["score", "loss"]].to_numpy()
    ends = [both.min(), both.max()]
    equal = curve(ends, ends, color=GREY, dash="dot").update(hoverinfo="skip")
    figure = go.Figure([equal, _points(table)])
    _add_names(figure, table)
    figure.add_hline(y=0, line=THIN)
    figure.update_xaxes(title_text=f"Mean attribution score, {_POINTS} of P(right answer)")
    figure.update_yaxes(title_text=f"Lost by ablation, {_POINTS}")
    correlation = rounded(rank_correlation(table), digits=2)
    note = (
        f"{_rests_on(effects)}. Rank correlation {correlation}, n = {len(table)} neurons. Dotted: "
        "score and loss are the same. Vertical lines: 95 % bootstrap intervals over the questions."
    )
    title = "Does a neuron's score foretell what its ablation takes?"
    return finish(figure, title, note, showlegend=False)


def _rests_on(effects: NeuronEffects) -> str:
    settings = effects.settings
    positions = "last position" if settings.positions == "last" else "all positions"
    questions = f"{len(effects.questions)} questions"
    return f"{settings.model}, site {settings.site}, {positions}, {questions}"


def _names(table: pd.DataFrame) -> list[str]:
    return [Neuron(*pair).name for pair in table[["layer", "index"]].to_numpy().tolist()]


def _curve(table: pd.DataFrame) -> list[go.Scatter]:
    """The band of the intervals and the line of the means, in percentage points."""
    lam = table["lam"].to_numpy()
    change, low, high = 100 * table[["prob_change", "low", "high"]].to_numpy().T
    line = go.Scatter(
        x=lam,
        y=change,
        mode="lines+markers",
        line={"color": _BLUE, "width": 2},
        marker={"size": 5},
        customdata=np.stack([low, high], 1),
        hovertemplate=f"factor %{{x}}: {interval_hover('y', '+.2f')} {_POINTS}<extra></extra>",
    )
    return [band(lam, low, high, faint(_BLUE)), line]


def _dose_axes(figure: go.Figure, n_panels: int, n_columns: int) -> None:
    """One scale and one pair of titles for all panels; numbers at the left and at the bottom."""
    figure.add_hline(y=0, line=THIN)
    for panel in range(n_panels):
        row, column = divmod(panel, n_columns)
        position: dict[str, Any] = {"row": row + 1, "col": column + 1}
        bottom = panel + n_columns >= n_panels
        figure.update_xaxes(matches="x", nticks=4, showticklabels=bottom, **position)
        figure.update_yaxes(matches="y", nticks=5, showticklabels=column == 0, **position)
    figure.update_xaxes(showgrid=False)
    paper = {"xref": "paper", "yref": "paper"}
    figure.add_annotation(label("Factor of the neuron", x=0.5, y=0, yshift=-42, **paper))
    words = f"Change of P(right),<br>{_POINTS}"
    figure.add_annotation(label(words, x=0, y=0.5, xshift=-72, textangle=-90, **paper))


def _points(table: pd.DataFrame) -> go.Scatter:
    """A point a neuron, in percentage points."""
    score, loss, low, high = 100 * table[["score", "loss", "low", "high"]].to_numpy().T
    return go.Scatter(
        x=score,
        y=loss,
        mode="markers",
        marker={"size": 7, "color": _BLUE, "opacity": 0.8},
        error_y=error_bars(loss, low, high, _BLUE, thickness=1, width=0),
        customdata=_names(table),
        hovertemplate=f"%{{customdata}}<br>score %{{x:.2f}}, lost %{{y:.2f}} {_POINTS}"
        "<extra></extra>",
    )


def _add_names(figure: go.Figure, table: pd.DataFrame) -> None:
    """The names of the neurons farthest out, beside them; a line behind a name is hidden."""
    names = _names(table)
    points = 100 * table[["score", "loss"]].to_numpy()
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    # Towards the middle, so that no name leaves the plot.
    side = np.where(points[:, 0] > middle, -1, 1)
    for neuron in _labelled(points, side):
        x, y = points[neuron]
        anchor = "left" if side[neuron] > 0 else "right"
        shifted = {"xanchor": anchor, "xshift": 5 * side[neuron]}
        figure.add_annotation(label(names[neuron], x=x, y=y, bgcolor=BACKGROUND, **shifted))


def _labelled(points: np.ndarray, side: np.ndarray) -> list[int]:
    """Rows of the points farthest out whose names, to one side of them, cover nothing else."""
    # All points in a line still have a distance.
    span = np.ptp(points, axis=0).clip(min=1e-12)
    farthest = np.argsort(-np.abs(points).max(1), kind="stable")
    labelled: list[int] = []
    for neuron in farthest.tolist():
        right, up = ((points - points[neuron]) / span).T
        level = np.abs(up) < _NAME_HEIGHT
        hidden = level & (right * side[neuron] > 0) & (np.abs(right) < _NAME_WIDTH)
        # Two names may grow towards one another.
        crowded = level & (np.abs(right) < 2 * _NAME_WIDTH)
        if not hidden.any() and not crowded[labelled].any():
            labelled.append(neuron)
    return labelled[:_LABELS]
