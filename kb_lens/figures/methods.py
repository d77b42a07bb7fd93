"""Figures that set methods beside one another: ranks, random controls, the choice of lambda."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.checks.control_tests import ControlTest
from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.style import (
    BACKGROUND,
    COLOURS,
    GREY,
    INK,
    MINUS,
    PALE,
    SEQUENTIAL,
    SMALL,
    finish,
    label,
)
from kb_lens.studies.tuning import Tuning

_RANK, _BLUE, _ORANGE = " rank", COLOURS[0], COLOURS[1]
_AVERAGE = ("average_rank", "rank_low", "rank_high")
_LONG = 6
"""Letters that fit into a column of the rank table."""


def rank_figure(table: pd.DataFrame) -> go.Figure:
    """The rank table: methods as rows, the best first, benchmarks as columns.

    Args:
        table: What `kb_lens.rank_table` returned.

    Raises:
        ValueError: If it is something else, or empty.
    """
    keys = [name.removesuffix(_RANK) for name in table.columns if name.endswith(_RANK)]
    if not keys or table.empty or not {"method", *_AVERAGE} <= set(table.columns):
        raise ValueError("no ranks to draw: make the table with kb_lens.rank_table.")
    table = table.sort_values("average_rank", kind="stable")
    values = {key: _value_column(table, key) for key in keys}
    average = table[list(_AVERAGE)].to_numpy()
    span = "<b>{:.1f}</b><br>{:.1f}\N{EN DASH}{:.1f}"
    cells = [[span.format(*row) for row in average]]
    for key in keys:
        pairs = zip(table[key + _RANK], table[values[key]], strict=True)
        cells.append([f"<b>{rank:g}</b><br>{_signed(value)}" for rank, value in pairs])
    heads = [_head(key, values[key]) for key in keys]
    figure = go.Figure(
        go.Heatmap(
            z=table[["average_rank", *(key + _RANK for key in keys)]].to_numpy(),
            x=list(range(len(cells))),
            y=list(range(len(table))),
            text=np.array(cells).T,
            texttemplate="%{text}",
            textfont={"size": SMALL, "color": INK},
            hoverinfo="skip",
            colorscale=SEQUENTIAL,
            reversescale=True,
            zmin=1,
            zmax=max(2, len(table)),
            xgap=2,
            ygap=2,
            showscale=False,
        )
    )
    plain = {"showgrid": False, "ticks": "", "showline": False}
    heads = ["average<br>rank", *heads]
    figure.update_xaxes(side="top", tickvals=list(range(len(heads))), ticktext=heads, **plain)
    figure.update_yaxes(
        autorange="reversed",
        tickvals=list(range(len(table))),
        ticktext=["<br>".join(textwrap.wrap(str(name), 24)) for name in table["method"]],
        **plain,
    )
    top = 18 * max(head.count("<br>") + 1 for head in heads)
    return finish(
        figure,
        "Which method comes nearest to the best values?",
        f"Bold: the rank among {len(table)} methods by the distance from the metric's best value, "
        "1 is nearest; below it: the metric. Below the average rank: its 95 % bootstrap interval "
        "over items.",
        height=130 + top + 40 * len(table),
        top=top,
        margin={"b": 20},
        meta={"column": WHOLE_PAGE},
    )


def _value_column(table: pd.DataFrame, key: str) -> str:
    return next(c for c in table.columns if c.startswith(f"{key} ") and c != key + _RANK)


def _head(key: str, column: str) -> str:
    """A column's title: the benchmark, and below it the metric."""
    lines = (_lines(key), _lines(column.removeprefix(f"{key} ")))
    return "<br>".join([*lines[0], *(f"<i>{line}</i>" for line in lines[1])])


def _lines(name: str) -> list[str]:
    """A long name broken at its underscores."""
    return name.split("_") if len(name) > _LONG else [name]


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}".replace("-", MINUS)


def control_distribution(tests: Mapping[str, ControlTest]) -> go.Figure:
    """Each method's effect beside those of its random controls, a row a test.

    Args:
        tests: Name (benchmark, kind of control) -> what `control_test` returned.

    Raises:
        ValueError: For no tests.
    """
    if not tests:
        raise ValueError(
            "no tests to draw: make them with kb_lens.checks.control_tests.control_test."
        )
    figure = go.Figure()
    for place, test in enumerate(tests.values()):
        low, high = test.control_interval
        box = {"x0": low, "x1": high, "y0": place - 0.36, "y1": place + 0.04}
        figure.add_shape(type="rect", **box, fillcolor=PALE, line_width=0, layer="below")
        figure.add_trace(_strip(test, place))
        figure.add_trace(_effect(test, place))
        text = f"p = {test.p:.2g}<br>({test.n_controls} controls)"
        beside = label(text, x=1.01, y=place, xref="paper", xanchor="left", align="left")
        figure.add_annotation(beside)
    figure.update_traces(showlegend=False)
    figure.update_traces(showlegend=True, selector=lambda trace: trace.y[0] < 0.5)
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title_text="nearer to the best value, in the metric's unit")
    names = [f"{name}<br><i>{test.metric}</i>" for name, test in tests.items()]
    figure.update_yaxes(
        tickvals=list(range(len(tests))),
        ticktext=names,
        range=[len(tests) - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    return finish(
        figure,
        "Is it more than what random neurons do?",
        "Line: 95 % bootstrap interval over items. Shaded: the middle 95 % of the controls. p: how "
        "often one of method and controls, drawn at random, does as much; not corrected for the "
        "number of rows.",
        height=170 + 62 * len(tests),
        top=34,
        margin={"r": 110},
    )


def _strip(test: ControlTest, place: int) -> go.Scatter:
    """The controls in the upper half of the row, neighbours at different heights."""
    ranks = np.argsort(np.argsort(test.controls, kind="stable"), kind="stable")
    return go.Scatter(
        x=test.controls,
        y=place - 0.30 + 0.07 * (ranks * 2 % 5),
        name="random controls",
        mode="markers",
        marker={"size": 7, "color": GREY, "opacity": 0.8},
        hovertemplate="%{x:.2f}",
    )


def _effect(test: ControlTest, place: int) -> go.Scatter:
    effect = test.effect
    return go.Scatter(
        x=[effect.value],
        y=[place + 0.22],
        name="the method",
        mode="markers",
        marker={"size": 11, "symbol": "diamond", "color": _BLUE},
        error_x={
            "array": [effect.high - effect.value],
            "arrayminus": [effect.value - effect.low],
            "color": _BLUE,
            "thickness": 2,
            "width": 4,
        },
        hovertemplate=f"%{{x:.2f}} [{effect.low:.2f}, {effect.high:.2f}], n = {effect.n}",
    )


def tuning_figure(tuning: Tuning) -> go.Figure:
    """What every lambda gained and cost on the development items, and the chosen one's test.

    Raises:
        ValueError: If no lambda was tried.
    """
    if tuning.development.empty:
        raise ValueError(
            "no lambda to draw: make the tuning with kb_lens.studies.tuning.tune_lambda."
        )
    figure: Any = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.2)
    own = tuning.development
    cost = own.drop(columns=["gain", "low", "high", "n"])
    cost.columns = [name.removeprefix("capability_") for name in cost.columns]
    _tuning_panel(figure, 1, tuning, "bias", own.rename(columns={"gain": "change"}))
    _tuning_panel(figure, 2, tuning, "capability", cost)
    bound = -tuning.settings["bound"]
    figure.add_hline(y=bound, line={"color": _ORANGE, "dash": "dash", "width": 2}, row=2, col=1)
    text = label("bound", x=0, y=bound, xref="x domain", xanchor="left", yanchor="bottom")
    figure.add_annotation(**text, row=2, col=1)
    if tuning.lam != 1:
        ends = (tuning.lam - _step(tuning), tuning.lam + 2 * _step(tuning))
        figure.add_vrect(*ends, fillcolor=PALE, line_width=0, layer="below")
        place = {"x": sum(ends) / 2, "y": 0, "yref": "y domain", "yanchor": "top", "yshift": -6}
        figure.add_annotation(**label("chosen", **place), row=1, col=1)
    figure.update_xaxes(tickvals=own["lam"], range=[own["lam"].min() - 3 * _step(tuning), None])
    figure.update_xaxes(title_text="lambda", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", zeroline=True, zerolinecolor=GREY, zerolinewidth=1)
    return finish(
        figure,
        "Which lambda, and does it hold?",
        f"{tuning.settings['model']}, {tuning.settings['n_neurons']} neurons. {tuning.verdict} "
        "Lines: 95 % paired bootstrap interval over n items; too costly: the capability's reaches "
        "the bound.",
        height=610,
        top=76,
        legend={"y": 1.1},
    )


def _tuning_panel(figure: Any, row: int, tuning: Tuning, role: str, table: pd.DataFrame) -> None:
    """One benchmark: a point with its interval a lambda, and a diamond for the test items."""
    settings, test = tuning.settings, tuning.test
    for admissible, fill in ((True, INK), (False, BACKGROUND)):
        part = table.loc[table["admissible"] == admissible]
        name = "development items" + ", too costly" * (not admissible)
        marker = {"symbol": "circle", "color": fill, "line": {"color": INK, "width": 2}}
        figure.add_trace(_points(part["lam"], part, name, INK, marker, row == 1), row, 1)
    mine = test.loc[(test["benchmark"] == settings[role]) & (test["metric"] == "gain")]
    mine = mine.assign(change=mine["difference"])
    beside, marker = tuning.lam + _step(tuning), {"symbol": "diamond", "color": _BLUE}
    x = [beside] * len(mine)
    figure.add_trace(_points(x, mine, "test items", _BLUE, marker, row == 1), row, 1)
    word = "Gain" if role == "bias" else "Change"
    counts = f"n = {table['n'].iloc[0]:.0f}" + "".join(f", test {n:.0f}" for n in mine["n"])
    name = f"{word} of {settings[role]} {settings[f'{role}_metric']}"
    text = f"<b>{name}</b><br>up is better, {counts}"
    place = {"x": 0, "y": 1, "xref": "x domain", "yref": "y domain"}
    title = label(text, xanchor="left", yanchor="bottom", align="left", **place)
    figure.add_annotation(**title, row=row, col=1)


def _points(
    x: Any, table: pd.DataFrame, name: str, colour: str, marker: dict[str, Any], legend: bool
) -> go.Scatter:
    value = table["change"]
    return go.Scatter(
        x=list(x),
        y=value,
        name=name,
        mode="markers",
        showlegend=legend and len(table) > 0,
        marker={"size": 10, **marker},
        error_y={
            "array": table["high"] - value,
            "arrayminus": value - table["low"],
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        hovertemplate="lambda %{x}: %{y:.2f}",
    )


def _step(tuning: Tuning) -> float:
    """How far the test items stand beside the chosen lambda."""
    lams = tuning.development["lam"].to_numpy()
    return 0.03 * float(np.ptp(lams)) or 0.03
