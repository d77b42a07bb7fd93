"""Figure of the specificity check: what else selects the neurons, and how stable they are."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.checks.specificity import CONTRASTIVE, KNOW_BIAS, Specificity
from kb_lens.figures.column import STACK
from kb_lens.figures.style import colours, finish, label

_HEIGHT, _PER_ROW = 250, 22


def specificity_plot(found: Specificity) -> go.Figure:
    """Share of the know-bias neurons that other questions select, and Jaccard of random halves.

    Raises:
        ValueError: If there is nothing to draw.
    """
    overlaps = found.overlaps.loc[~found.overlaps["set"].isin([KNOW_BIAS, CONTRASTIVE])]
    if overlaps.empty or found.stability.empty:
        raise ValueError("no rows to draw: make them with kb_lens.checks.specificity.")
    taus = sorted(found.overlaps["tau"].unique())
    rows = len(taus) * max(len(set(overlaps["set"])), len(set(found.stability["dimension"])))
    figure = make_subplots(cols=2, horizontal_spacing=0.19)
    mine = found.overlaps.loc[found.overlaps["set"].eq(KNOW_BIAS)].set_index("tau")["size"]
    for tau, colour in zip(taus, colours(len(taus)), strict=True):
        part = overlaps.loc[overlaps["tau"].eq(tau)]
        name = f"tau {100 * tau:g} % ({mine[tau]} neurons)"
        bars = _bars(part["set"], 100 * part["contained"], name, colour)
        bars.text = [f"{value:.0f}" for value in 100 * part["contained"]]
        figure.add_trace(bars, 1, 1)
        halves = found.stability.loc[found.stability["tau"].eq(tau)]
        figure.add_trace(_intervals(halves, name, colour), 1, 2)
    figure.update_xaxes(title_text="% of the know-bias neurons", range=[0, 108], row=1, col=1)
    figure.update_xaxes(title_text="Jaccard", range=[0, 1], row=1, col=2)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    for column, text in enumerate(("Know-bias neurons also selected by", "Random halves"), 1):
        head = label(f"<b>{text}</b>", x=0, y=1, xanchor="left", yanchor="bottom")
        figure.add_annotation(**head, xref="x domain", yref="y domain", row=1, col=column)
    first = found.stability.loc[found.stability["tau"].eq(taus[0])]
    total = first.loc[first["dimension"].ne("all"), "n_questions"].sum()
    return finish(
        figure,
        "Are these neurons about bias?",
        f"{found.control_knowledge.model}. Left: the more of them plain factual questions or the "
        "wrong answer select as well, the less they are about bias. Right: mean over "
        f"{first['n_halves'].max()} random splits of the {total} questions; lines: the middle "
        "95 %.",
        height=_HEIGHT + _PER_ROW * rows,
        top=56,
        showlegend=True,
        legend={"y": 1 + 28 / (_PER_ROW * rows + 60)},
        barmode="group",
        scattermode="group",
        meta={"column": STACK, "between": 90},
    )


def _bars(names: Iterable[str], values: Iterable[float], name: str, colour: str) -> go.Bar:
    return go.Bar(
        x=list(values),
        y=[
            text.replace(" questions", "<br>questions").replace(" diff", "<br>diff")
            for text in names
        ],
        orientation="h",
        name=name,
        marker_color=colour,
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f}",
    )


def _intervals(halves: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    """The mean of the random halves and where most of them are."""
    mean = halves["jaccard"]
    ends = {"array": halves["high"] - mean, "arrayminus": mean - halves["low"]}
    return go.Scatter(
        x=mean,
        y=halves["dimension"],
        orientation="h",
        mode="markers",
        name=name,
        showlegend=False,
        marker={"size": 9, "color": colour},
        error_x={**ends, "color": colour, "thickness": 2, "width": 4},
        hovertemplate="%{y}: %{x:.2f}",
    )
