"""Figures of single neurons: the effect of scaling one, and whether its score predicts it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.effects import NeuronEffects, effect_against_score, rank_correlation
from kb_lens.figures.layout import padded_range
from kb_lens.figures.marks import THIN, band, curve, error_bars, interval_hover, panel_title
from kb_lens.figures.style import (
    GREY,
    METHOD,
    faint,
    finish,
    label,
    rounded,
    shown_model,
)
from kb_lens.neurons.names import Neuron

_COLUMNS, _PANEL = 4, 130
"""Panels side by side; pixels of a panel's height, its title and the gap below it."""
_LABELS = 8
"""Most names in a scatter."""
# measured on a page with small letters
_NAME_WIDTH, _NAME_HEIGHT, _NAME_GAP = 0.13, 0.07, 0.01
"""The size of a name and its distance from the point, as shares of the axes."""
_LEVEL = 17
"""Pixels of a name's height."""
_POINTS = "percentage points"


def dose_response(effects: NeuronEffects, top: int = 12) -> go.Figure:
    """How P(right answer) changes with the factor of one neuron, a panel per neuron.

    Args:
        effects: What scaling the neurons does.
        top: Number of neurons: those with the largest mean change at any factor.

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
    """The loss of P(right answer) by ablating each neuron, against its attribution score.

    On the dotted line the score equals the loss.

    Raises:
        ValueError: As `kb_lens.checks.effects.effect_against_score`.
    """
    table = effect_against_score(effects, attributions)
    both = 100 * table[["score", "loss"]].to_numpy()
    ends = [both.min(), both.max()]
    reach = padded_range(ends, 0.05)
    equal = curve(ends, ends, color=GREY, dash="dot").update(hoverinfo="skip")
    figure = go.Figure([equal, _points(table)])
    _add_names(figure, table)
    figure.add_hline(y=0, line=THIN)
    words = f"Mean attribution score, {_POINTS} of P(right answer)"
    figure.update_xaxes(title_text=words, range=reach)
    figure.update_yaxes(title_text=f"Lost by ablation, {_POINTS}", range=reach)
    correlation = rounded(rank_correlation(table), digits=2)
    note = (
        f"{_rests_on(effects)}. Rank correlation {correlation}, n = {len(table)} neurons. Dotted: "
        "score and loss are the same. Vertical lines: 95 % bootstrap intervals over the questions."
    )
    title = "Does the score predict the effect of ablation?"
    return finish(figure, title, note, showlegend=False)


def _rests_on(effects: NeuronEffects) -> str:
    settings = effects.settings
    positions = "last position" if settings.positions == "last" else "all positions"
    questions = f"{len(effects.questions)} questions"
    return f"{shown_model(settings.model)}, site {settings.site}, {positions}, {questions}"


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
        line={"color": METHOD, "width": 2},
        marker={"size": 5},
        customdata=np.stack([low, high], 1),
        hovertemplate=f"factor %{{x}}: {interval_hover('y', '+.2f')} {_POINTS}<extra></extra>",
    )
    return [band(lam, low, high, faint(METHOD)), line]


def _dose_axes(figure: go.Figure, n_panels: int, n_columns: int) -> None:
    """One scale and one pair of titles for all panels; numbers only at the left and the bottom."""
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
    """A point per neuron, in percentage points."""
    score, loss, low, high = 100 * table[["score", "loss", "low", "high"]].to_numpy().T
    return go.Scatter(
        x=score,
        y=loss,
        mode="markers",
        marker={"size": 7, "color": METHOD, "opacity": 0.8},
        error_y=error_bars(loss, low, high, METHOD, thickness=1, width=0),
        customdata=_names(table),
        hovertemplate=f"%{{customdata}}<br>score %{{x:.2f}}, lost %{{y:.2f}} {_POINTS}"
        "<extra></extra>",
    )


def _add_names(figure: go.Figure, table: pd.DataFrame) -> None:
    """Add the names of the outermost neurons beside their points, where they cover nothing."""
    names = _names(table)
    points = 100 * table[["score", "loss"]].to_numpy()
    bars = 100 * table[["low", "high"]].to_numpy()
    for neuron, (side, level) in free_places(points, bars).items():
        x, y = points[neuron]
        beside = {"xanchor": "left" if side > 0 else "right", "xshift": 6 * side}
        figure.add_annotation(label(names[neuron], x=x, y=y, yshift=_LEVEL * level, **beside))


def free_places(
    points: Float[np.ndarray, "neuron 2"], bars: Float[np.ndarray, "neuron 2"]
) -> dict[int, tuple[int, int]]:
    """Places beside the points where their names cover no point, bar, line or other name.

    Args:
        points: The points; both axes have the same range.
        bars: The ends of their vertical bars.

    Returns:
        Row of a point -> (1 right, -1 left; 0 same level, 1 a line above, -1 a line below), the
        outermost points first; at most `_LABELS`, without points whose name does not fit.
    """
    low, high = points.min(), points.max()
    span = max(high - low, 1e-12)  # not 0 if all points are equal
    x, y = ((points - low) / span).T
    ends = (bars - low) / span
    zero = float(-low / span)
    boxes: dict[int, _Box] = {}
    for neuron in np.argsort(-np.abs(points).max(1), kind="stable").tolist():
        others = np.arange(len(points)) != neuron
        # first towards the middle, where a name stays in the plot
        sides = (1, -1) if x[neuron] < 0.5 else (-1, 1)
        for side, level in product(sides, (0, 1, -1)):
            box = _Box.beside(float(x[neuron]), float(y[neuron]), side, level)
            crowded = any(box.meets(other) for other in boxes.values())
            if not crowded and box.is_free(x[others], ends[others], zero):
                boxes[neuron] = box
                break
    return {neuron: (box.side, box.level) for neuron, box in list(boxes.items())[:_LABELS]}


@dataclass(frozen=True)
class _Box:
    """The box of a name, in shares of the axes."""

    left: float
    right: float
    bottom: float
    top: float
    side: int
    level: int

    @classmethod
    def beside(cls, x: float, y: float, side: int, level: int) -> _Box:
        near, far = x + side * _NAME_GAP, x + side * (_NAME_GAP + _NAME_WIDTH)
        half = _NAME_HEIGHT / 2
        middle = y + level * _NAME_HEIGHT
        return cls(min(near, far), max(near, far), middle - half, middle + half, side, level)

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def is_free(
        self, x: Float[np.ndarray, " other"], ends: Float[np.ndarray, "other 2"], zero: float
    ) -> bool:
        """Whether it is inside the plot and covers no bar (with its point) and no line."""
        inside = min(self.left, self.bottom) >= -_NAME_GAP and max(self.right, self.top) <= 1.0
        low, high = ends.T
        covered = (self.left < x) & (x < self.right) & (low < self.top) & (self.bottom < high)
        on_zero = self.bottom < zero < self.top
        on_diagonal = self.left < self.top and self.bottom < self.right
        return inside and not bool(covered.any()) and not on_zero and not on_diagonal
