"""Figures of single neurons: what scaling one does, and whether its score foretells it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.neuron_effects import NeuronEffects, effect_against_score, rank_correlation
from kb_lens.figures.style import BACKGROUND, COLOURS, GREY, MINUS, faint, finish, label

_COLUMNS, _PANEL = 4, 130
_LABELS, _ROOM = 8, (0.17, 0.08)
"""Most names in a scatter; width and height of one, as shares of both axes."""
_BAND = faint(COLOURS[0])


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
    curves = [curve for _, curve in effects.dose_response().groupby(["layer", "index"])]
    curves.sort(key=lambda curve: -np.abs(curve["prob_change"].to_numpy()).max())
    shown = curves[:top]
    n_columns = min(_COLUMNS, len(shown))
    n_rows = -(-len(shown) // n_columns)
    figure = make_subplots(
        n_rows, n_columns, horizontal_spacing=0.03, vertical_spacing=0.2 / n_rows
    )
    for place, curve in enumerate(shown):
        row, column = divmod(place, n_columns)
        for trace in _curve(curve):
            figure.add_trace(trace, row + 1, column + 1)
        title = label(_names(curve)[0], x=0.5, y=1, xanchor="center", yanchor="bottom")
        place_of_title = {"xref": "x domain", "yref": "y domain"}
        figure.add_annotation(**title, **place_of_title, row=row + 1, col=column + 1)
    _dose_axes(figure, len(shown), n_columns)
    return finish(
        figure,
        "What scaling one neuron does to the right answer",
        f"{_rests_on(effects)}. The {len(shown)} of {len(curves)} neurons with the largest "
        "mean change, each scaled alone; factor 1 changes nothing. Bands: 95 % bootstrap "
        "intervals over the questions.",
        height=165 + _PANEL * n_rows,
        top=22,
        margin={"l": 92},
        showlegend=False,
    )


def effect_against_attribution(effects: NeuronEffects, attributions: Attributions) -> go.Figure:
    """What ablating each neuron takes from P(right answer), beside its attribution score.

    On the line the score is what the ablation takes.

    Raises:
        ValueError: As `kb_lens.checks.neuron_effects.effect_against_score`.
    """
    table = effect_against_score(effects, attributions)
    both = 100 * table[["score", "loss"]].to_numpy()
    ends = [both.min(), both.max()]
    figure = go.Figure(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, hoverinfo="skip"
        )
    )
    figure.add_trace(_points(table))
    _add_names(figure, table)
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title_text="Mean attribution score, percentage points of P(right answer)")
    figure.update_yaxes(title_text="Lost by ablation, percentage points")
    correlation = (
        f"Rank correlation {rank_correlation(table):.2f}, n = {len(table)} neurons".replace(
            "-", MINUS
        )
    )
    return finish(
        figure,
        "Does a neuron's score foretell what its ablation takes?",
        f"{_rests_on(effects)}. {correlation}. Dotted: score and loss are the same. Vertical "
        "lines: 95 % bootstrap intervals over the questions.",
        showlegend=False,
    )


def _rests_on(effects: NeuronEffects) -> str:
    settings = effects.settings
    positions = "last position" if settings.positions == "last" else "all positions"
    questions = f"{len(effects.questions)} questions"
    return f"{settings.model}, site {settings.site}, {positions}, {questions}"


def _names(table: pd.DataFrame) -> list[str]:
    return [f"L{neuron[0]}.N{neuron[1]}" for neuron in table[["layer", "index"]].to_numpy()]


def _curve(curve: pd.DataFrame) -> list[go.Scatter]:
    """The band of the intervals and the line of the means, in percentage points."""
    lam = curve["lam"].to_numpy()
    change, low, high = 100 * curve[["prob_change", "low", "high"]].to_numpy().T
    band = {"x": [*lam, *lam[::-1]], "y": [*high, *low[::-1]], "fill": "toself"}
    return [
        go.Scatter(**band, fillcolor=_BAND, line={"width": 0}, mode="lines", hoverinfo="skip"),
        go.Scatter(
            x=lam,
            y=change,
            mode="lines+markers",
            line={"color": COLOURS[0], "width": 2},
            marker={"size": 5},
            customdata=np.stack([low, high], 1),
            hovertemplate="factor %{x}: %{y:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}] "
            "percentage points<extra></extra>",
        ),
    ]


def _dose_axes(figure: go.Figure, n_panels: int, n_columns: int) -> None:
    """One scale and one pair of titles for all panels; numbers at the left and at the bottom."""
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    for place in range(n_panels):
        row, column = divmod(place, n_columns)
        bottom = place + n_columns >= n_panels
        where: dict[str, Any] = {"row": row + 1, "col": column + 1}
        figure.update_xaxes(matches="x", showgrid=False, nticks=4, showticklabels=bottom, **where)
        figure.update_yaxes(matches="y", nticks=5, showticklabels=column == 0, **where)
    axis = {"xref": "paper", "yref": "paper"}
    figure.add_annotation(label("Factor of the neuron", x=0.5, y=0, yshift=-42, **axis))
    words = "Change of P(right),<br>percentage points"
    figure.add_annotation(label(words, x=0, y=0.5, xshift=-72, textangle=-90, **axis))


def _points(table: pd.DataFrame) -> go.Scatter:
    """A point a neuron, in percentage points."""
    score, loss, low, high = 100 * table[["score", "loss", "low", "high"]].to_numpy().T
    return go.Scatter(
        x=score,
        y=loss,
        mode="markers",
        marker={"size": 7, "color": COLOURS[0], "opacity": 0.8},
        error_y={"array": high - loss, "arrayminus": loss - low, "thickness": 1, "width": 0},
        customdata=_names(table),
        hovertemplate="%{customdata}<br>score %{x:.2f}, lost %{y:.2f} percentage points"
        "<extra></extra>",
    )


def _add_names(figure: go.Figure, table: pd.DataFrame) -> None:
    """The names of the neurons farthest out, beside them; a line behind a name is hidden."""
    points, names = 100 * table[["score", "loss"]].to_numpy(), _names(table)
    side = np.where(points[:, 0] > (points[:, 0].min() + points[:, 0].max()) / 2, -1, 1)
    for one in _labelled(points, side):
        place = {"x": points[one, 0], "y": points[one, 1], "xshift": 5 * side[one]}
        anchor = "left" if side[one] > 0 else "right"
        figure.add_annotation(label(names[one], xanchor=anchor, bgcolor=BACKGROUND, **place))


def _labelled(points: np.ndarray, side: np.ndarray) -> list[int]:
    """Places of the points farthest out whose names, to one side of them, cover nothing else."""
    span = np.ptp(points, axis=0).clip(min=1e-12)
    chosen: list[int] = []
    for one in np.argsort(-np.abs(points).max(1), kind="stable").tolist():
        right, up = ((points - points[one]) / span).T
        covered = (np.abs(up) < _ROOM[1]) & (right * side[one] > 0) & (np.abs(right) < _ROOM[0])
        names = (np.abs(up) < _ROOM[1]) & (np.abs(right) < 2 * _ROOM[0])
        if len(chosen) < _LABELS and not covered.any() and not names[chosen].any():
            chosen.append(one)
    return chosen
