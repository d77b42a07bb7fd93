"""Figure of the specificity check: what else selects the neurons, and how stable the sets are."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.checks.specificity import CONTRASTIVE, KNOW_BIAS, Specificity
from kb_lens.figures.column import STACK
from kb_lens.figures.layout import ROW
from kb_lens.figures.marks import error_bars, panel_title
from kb_lens.figures.style import colours, finish, shown_model

# title, note, legend and axes do not depend on the number of rows
_AROUND = 250
"""Pixels of the figure without its rows."""


def specificity_plot(specificity: Specificity) -> go.Figure:
    """Share of the know-bias neurons that other questions select, and Jaccard of random halves.

    Raises:
        ValueError: If there is nothing to draw.
    """
    sets = specificity.overlaps["set"]
    # The contrastive set is a part of the know-bias set by definition.
    others = specificity.overlaps.loc[~sets.isin([KNOW_BIAS, CONTRASTIVE])]
    stability = specificity.stability
    if others.empty or stability.empty:
        raise ValueError("no rows to draw: make them with kb_lens.checks.specificity.")
    sizes = specificity.overlaps.loc[sets.eq(KNOW_BIAS)].set_index("tau")["size"]
    taus = sorted(specificity.overlaps["tau"].unique())
    figure = make_subplots(cols=2, horizontal_spacing=0.19)
    for tau, colour in zip(taus, colours(len(taus)), strict=True):
        name = f"tau {100 * tau:g} % ({sizes[tau]} neurons)"
        figure.add_trace(_bars(others.loc[others["tau"].eq(tau)], name, colour), 1, 1)
        figure.add_trace(_intervals(stability.loc[stability["tau"].eq(tau)], name, colour), 1, 2)
    figure.update_xaxes(title_text="% of the know-bias neurons", range=[0, 108], row=1, col=1)
    figure.update_xaxes(title_text="Jaccard", range=[0, 1], row=1, col=2)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    panel_title(figure, "<b>Know-bias neurons also selected by</b>", 1, 1)
    panel_title(figure, "<b>Random halves</b>", 1, 2)
    n_names = max(len(set(others["set"])), len(set(stability["dimension"])))
    room = ROW * len(taus) * n_names
    return finish(
        figure,
        "Are these neurons about bias?",
        _note(specificity),
        height=_AROUND + room,
        top=56,
        showlegend=True,
        legend={"y": 1 + 28 / (room + 60)},
        barmode="group",
        scattermode="group",
        meta={"column": STACK, "between": 90},
    )


def _note(specificity: Specificity) -> str:
    stability = specificity.stability
    # Every tau has the same halves; "all" is the union of the dimensions, not a dimension.
    halves = stability.loc[stability["tau"].eq(stability["tau"].min())]
    n_questions = halves.loc[halves["dimension"].ne("all"), "n_questions"].sum()
    return (
        f"{shown_model(specificity.control_knowledge.model)}. Left: large shares for plain factual "
        "questions or the wrong answer mean that they are not about bias. Right: "
        f"mean over {halves['n_halves'].max()} random splits of the {n_questions} questions; "
        "lines: the middle 95 %."
    )


def _bars(overlaps: pd.DataFrame, name: str, colour: str) -> go.Bar:
    """The percentage of the know-bias set that is in each of the other sets."""
    percent = 100 * overlaps["contained"]
    # two words that are too long for the space left of the bars
    names = overlaps["set"].str.replace(r" (?=questions|diff)", "<br>", regex=True)
    return go.Bar(
        x=list(percent),
        y=list(names),
        orientation="h",
        name=name,
        marker_color=colour,
        text=[f"{value:.0f}" for value in percent],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.2f}",
    )


def _intervals(halves: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    """The mean over the random halves, and their middle 95 %."""
    mean = halves["jaccard"]
    return go.Scatter(
        x=mean,
        y=halves["dimension"],
        orientation="h",
        mode="markers",
        name=name,
        showlegend=False,
        marker={"size": 9, "color": colour},
        error_x=error_bars(mean, halves["low"], halves["high"], colour),
        hovertemplate="%{y}: %{x:.2f}",
    )
