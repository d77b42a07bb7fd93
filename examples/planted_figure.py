"""Figure of the planted neurons: precision and recall against tau, and where scores differ."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.style import GREY, INK, colours, finish, label

KINDS = {"plain": "Plain MLP (GPT-2)", "gated": "Gated MLP (Llama)"}
CENTRE = {"sharpness": 3.0, "depth": 1, "strength": 1.0, "embedding": 0.1}
"""The setting whose precision and recall are drawn."""
COMPARED = ("integrated gradients, 20 points", "activation x gradient")
"""The scores whose average precision is subtracted from that of the converged scores."""
MARKS = {"plain": (INK, "circle"), "gated": (GREY, "diamond")}
_BARS = {"thickness": 1.5, "width": 0}


def planted_figure(means: pd.DataFrame, differences: pd.DataFrame) -> go.Figure:
    """Precision and recall at the central setting; gains in average precision at every setting.

    Args:
        means: As `planted_neurons.means` gives them.
        differences: As `planted_neurons.differences` gives them.
    """
    below = [f"minus {method}" for method in COMPARED]
    figure = make_subplots(
        3,
        2,
        row_heights=[0.25, 0.25, 0.5],
        vertical_spacing=0.08,
        horizontal_spacing=0.06,
        subplot_titles=[*KINDS.values(), "", "", *below],
    )
    means = means.loc[means["truth"].eq("planted")]
    methods = list(dict.fromkeys(means["method"]))
    palette = dict(zip(methods, colours(len(methods)), strict=True))
    central = means.loc[means[list(CENTRE)].eq(list(CENTRE.values())).all(axis=1)]
    for column, kind in enumerate(KINDS, 1):
        shown = central.loc[central["kind"].eq(kind)]
        for row, measure in enumerate(("precision", "recall"), 1):
            for trace in _curves(shown.loc[shown["measure"].eq(measure)], palette):
                trace.showlegend = row == column == 1
                figure.add_trace(trace, row, column)
    gains = differences.query("truth == 'planted' and measure == 'average_precision'")
    for column, method in enumerate(COMPARED, 1):
        for trace in _gains(gains.loc[gains["method"].eq(method)]):
            trace.showlegend = column == 1
            figure.add_trace(trace, 3, column)
    _axes(figure, central)
    return finish(
        figure,
        "Does each score find the neurons that were planted?",
        f"Random models with 16 planted neurons of 384; {central['n'].max()} models a kind and "
        "setting, 18 questions, beta 10 %. Above: sharpness 3, layer 1. Below: average precision "
        "of the converged scores minus another score's, at every setting; right of 0 the converged "
        "are better. Lines: 95 % bootstrap intervals over the models.",
        height=1210,
        top=160,
        margin={"l": 165},
        legend={"x": -0.24, "y": 1.035, "tracegroupgap": 0, "entrywidth": 215},
        scattermode="group",
    )


def _curves(shown: pd.DataFrame, palette: dict[str, str]) -> list[go.Scatter]:
    """One measure against tau, a line per method; shifted slightly, so that intervals show."""
    traces = []
    for place, (method, colour) in enumerate(palette.items()):
        part = shown.loc[shown["method"].eq(method)].sort_values("tau")
        aside = 0.06 * (place - (len(palette) - 1) / 2)
        traces.append(
            go.Scatter(
                x=[i + aside for i in range(len(part))],
                y=part["value"],
                error_y=_interval(part, "value"),
                name=method,
                legendgroup=method,
                mode="lines+markers",
                line={"color": colour, "width": 1.5},
                marker={"size": 6},
                customdata=100 * part["tau"],
                hovertemplate=f"{method}, tau %{{customdata:g}} %: %{{y:.2f}}<extra></extra>",
            )
        )
    return traces


def _gains(part: pd.DataFrame) -> list[go.Scatter]:
    """Paired differences, a row per setting, a mark per kind of model."""
    traces = []
    for kind, (colour, symbol) in MARKS.items():
        mine = part.loc[part["kind"].eq(kind)]
        traces.append(
            go.Scatter(
                x=mine["difference"],
                y=_settings(mine),
                error_x=_interval(mine, "difference"),
                mode="markers",
                name=f"below: {kind} MLP",
                legendgroup=f"below: {kind}",
                offsetgroup=kind,
                orientation="h",
                marker={"color": colour, "symbol": symbol, "size": 7},
                hovertemplate=f"{kind}, %{{y}}: %{{x:+.3f}}<extra></extra>",
            )
        )
    return traces


def _interval(part: pd.DataFrame, value: str) -> dict[str, Any]:
    up, down = part["high"] - part[value], part[value] - part["low"]
    return {"array": up, "arrayminus": down, **_BARS}


def _settings(part: pd.DataFrame) -> list[str]:
    """Each row's setting in words: sharpness and layer, or another setting that differs."""
    names = []
    for values in part[list(CENTRE)].to_numpy():
        setting = dict(zip(CENTRE, values, strict=True))
        words = [f"sharpness {setting['sharpness']:g}, layer {setting['depth']:g}"]
        for name in ("strength", "embedding"):
            if setting[name] != CENTRE[name]:
                words = [f"{name} {setting[name]:g}, layer {setting['depth']:g}"]
        names += words
    return names


def _axes(figure: go.Figure, central: pd.DataFrame) -> None:
    taus = sorted(central["tau"].unique())
    ticks: dict[str, Any] = {
        "tickvals": list(range(len(taus))),
        "ticktext": [f"{100 * tau:g} %" for tau in taus],
    }
    for row, title in ((1, "Precision"), (2, "Recall")):
        figure.update_xaxes(**ticks, range=[-0.4, len(taus) - 0.6], showgrid=False, row=row)
        figure.update_yaxes(range=[-0.03, 1.03], row=row)
        figure.update_yaxes(title_text=title, row=row, col=1)
        figure.update_yaxes(showticklabels=False, row=row, col=2)
    figure.update_xaxes(title_text="tau", row=2)
    figure.update_yaxes(autorange="reversed", row=3)
    figure.update_yaxes(showticklabels=False, row=3, col=2)
    figure.add_vline(x=0, line={"color": GREY, "width": 1}, row=3)  # pyright: ignore[reportArgumentType]
    for annotation in cast(Any, figure.layout)["annotations"]:
        annotation.update(label(annotation.text))
