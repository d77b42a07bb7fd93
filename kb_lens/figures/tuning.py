"""Figure of the choice of lambda: the gain and cost of every lambda, and the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.marks import ZERO_LINE, error_bars, panel_title
from kb_lens.figures.style import BACKGROUND, COLOURS, INK, PALE, finish, label, shown_model
from kb_lens.studies.tuned import Tuning

_BLUE, _ORANGE = COLOURS[:2]
# as a share of the range, so that the two points do not overlap for any lambdas
_BESIDE = 0.03
"""Distance of the test items' point from the chosen lambda, as a share of the lambdas' range."""


def tuning_figure(tuning: Tuning) -> go.Figure:
    """The gain and cost of every lambda on the development items, and the chosen one's test.

    Raises:
        ValueError: If no lambda was tried.
    """
    gains = tuning.development
    if gains.empty:
        raise ValueError(
            "no lambda to draw: make the tuning with kb_lens.studies.tuning.tune_lambda."
        )
    costs = gains.drop(columns=["gain", "low", "high", "n"])
    costs.columns = costs.columns.str.removeprefix("capability_")
    figure: Any = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.2)
    _panel(figure, 1, tuning, "bias", gains.rename(columns={"gain": "change"}))
    _panel(figure, 2, tuning, "capability", costs)
    _mark_bound(figure, -tuning.settings["bound"])
    # lambda 1 means that no lambda was chosen
    if tuning.lam != 1:
        _mark_chosen(figure, tuning)
    least = gains["lam"].min() - 3 * _beside(tuning)
    figure.update_xaxes(tickvals=gains["lam"], range=[least, None])
    figure.update_xaxes(title_text="lambda", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", **ZERO_LINE)
    note = (
        f"{shown_model(tuning.settings['model'])}, {tuning.settings['n_neurons']} neurons. "
        f"{tuning.verdict} "
        "Lines: 95 % paired bootstrap interval over the clusters of n items; too costly: the "
        "capability's reaches the bound."
    )
    title = "Choice of lambda, and its test"
    return finish(figure, title, note, height=610, top=76, legend={"y": 1.1})


def _mark_bound(figure: Any, bound: float) -> None:
    """A line at the allowed loss of capability."""
    dashed = {"color": _ORANGE, "dash": "dash", "width": 2}
    figure.add_hline(y=bound, line=dashed, row=2, col=1)
    text = label("bound", x=0, y=bound, xref="x domain", xanchor="left", yanchor="bottom")
    figure.add_annotation(**text, row=2, col=1)


def _mark_chosen(figure: Any, tuning: Tuning) -> None:
    """An area behind the chosen lambda and its test, in both panels."""
    beside = _beside(tuning)
    left = tuning.lam - beside
    right = tuning.lam + 2 * beside
    figure.add_vrect(left, right, fillcolor=PALE, line_width=0, layer="below")
    top = {"y": 0, "yref": "y domain", "yanchor": "top", "yshift": -6}
    figure.add_annotation(**label("chosen", x=(left + right) / 2, **top), row=1, col=1)


def _panel(figure: Any, row: int, tuning: Tuning, role: str, table: pd.DataFrame) -> None:
    """One benchmark: a point with its interval per lambda, and a diamond for the test items."""
    first = row == 1
    admissible = table["admissible"].astype(bool)
    for name, points, fill in (
        ("development items", table.loc[admissible], INK),
        ("development items, too costly", table.loc[~admissible], BACKGROUND),
    ):
        circle = {"symbol": "circle", "color": fill, "line": {"color": INK, "width": 2}}
        figure.add_trace(_points(points, name, INK, circle, first), row, 1)
    settings = tuning.settings
    benchmark = settings[role]
    test = tuning.test.query("benchmark == @benchmark and metric == 'gain'")
    test = test.assign(change=test["difference"], lam=tuning.lam + _beside(tuning))
    diamond = {"symbol": "diamond", "color": _BLUE}
    figure.add_trace(_points(test, "test items", _BLUE, diamond, first), row, 1)
    word = "Gain" if role == "bias" else "Change"
    heading = f"<b>{word} of {benchmark} {settings[f'{role}_metric']}</b>"
    tested = "".join(f", test {n:.0f}" for n in test["n"])
    counts = f"n = {table['n'].iloc[0]:.0f}{tested}"
    panel_title(figure, f"{heading}<br>up is better, {counts}", row)


def _points(
    table: pd.DataFrame, name: str, colour: str, marker: dict[str, Any], first: bool
) -> go.Scatter:
    change = table["change"]
    return go.Scatter(
        x=list(table["lam"]),
        y=change,
        name=name,
        mode="markers",
        # only the first panel has names in the legend, and only for points that exist
        showlegend=first and not table.empty,
        marker={"size": 10, **marker},
        error_y=error_bars(change, table["low"], table["high"], colour),
        hovertemplate="lambda %{x}: %{y:.2f}",
    )


def _beside(tuning: Tuning) -> float:
    """The distance of the test items' point from the chosen lambda."""
    span = float(np.ptp(tuning.development["lam"].to_numpy()))
    # a single lambda has no range
    return _BESIDE * span or _BESIDE
