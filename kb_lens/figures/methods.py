"""Figures that compare methods: their ranks, and their effects among random controls."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.benchmarks.titles import benchmark_title, metric_title
from kb_lens.checks.control_tests import NO_P, ControlTest
from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.layout import LINE, MAX_HEIGHT, TWO_LINE_CELL, count_lines
from kb_lens.figures.marks import THIN, error_bars, number_cells, rows_axis, shade
from kb_lens.figures.style import CONTROL, METHOD, SEQUENTIAL, finish, label, rounded

_RANK = " rank"
"""Ending of the names of a rank table's columns of ranks."""
_AVERAGE = ("average_rank", "rank_low", "rank_high")
"""A rank table's columns of the average rank and its interval."""
# At the font's size, for a page: a table with all benchmarks has about nine columns.
_LETTERS, _NAME_LETTERS = 10, 24
"""Letters per line: of a column's title in a rank table, and of a method's name."""

# The middle of the row is empty, so that the markers of both halves do not touch.
_CONTROLS_AT, _METHOD_AT = -0.30, 0.22
"""Positions of the lowest controls and of the method in a row of height 1."""
_STEP, _N_STEPS = 0.07, 5
"""Distance and number of the heights for controls with similar effects, so that all are visible."""
_TEST_ROW, _BETWEEN_UNITS = 62, 70
"""Pixels: a test's row with two lines of text; between panels, for the upper panel's axis."""


def rank_figure(table: pd.DataFrame) -> go.Figure:
    """The rank table: methods as rows, the best first, benchmarks as columns.

    Args:
        table: What `kb_lens.rank_table` returned.

    Raises:
        ValueError: If it is not a rank table, or empty.
    """
    keys = [name.removesuffix(_RANK) for name in table.columns if name.endswith(_RANK)]
    if not keys or table.empty or not {"method", *_AVERAGE} <= set(table.columns):
        raise ValueError("no ranks to draw: make the table with kb_lens.rank_table.")
    table = table.sort_values("average_rank", kind="stable")
    metrics = {key: _metric_column(table, key) for key in keys}
    heads = ["average<br>rank", *(_head(key, metric) for key, metric in metrics.items())]
    figure = go.Figure(_rank_cells(table, metrics))
    plain: dict[str, Any] = {"showgrid": False, "ticks": "", "showline": False}
    figure.update_xaxes(side="top", tickvals=list(range(len(heads))), ticktext=heads, **plain)
    figure.update_xaxes(tickangle=0)  # plotly would turn the labels
    names = ["<br>".join(textwrap.wrap(str(name), _NAME_LETTERS)) for name in table["method"]]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, **plain)
    figure.update_yaxes(autorange="reversed")
    top = LINE * count_lines(*heads)
    around = 130 + top
    note = (
        f"Bold: the rank among {len(table)} methods by the distance from the metric's best value, "
        "1 is nearest; below it: the metric. Below the average rank: its 95 % bootstrap interval "
        "over clusters of items."
    )
    return finish(
        figure,
        "Which method comes nearest to the best values?",
        note,
        height=min(MAX_HEIGHT, around + TWO_LINE_CELL * len(table)),
        top=top,
        margin={"b": 20},
        meta={"column": WHOLE_PAGE},
    )


def _metric_column(table: pd.DataFrame, key: str) -> str:
    """The column of the benchmark's metric, next to that of its ranks."""
    columns = table.columns[table.columns.str.startswith(f"{key} ")]
    return str(columns.drop(key + _RANK)[0])


def _head(key: str, column: str) -> str:
    """A column's title: the benchmark, and below it the metric."""
    metric = metric_title(column.removeprefix(f"{key} "))
    lines = _lines(benchmark_title(key))
    return "<br>".join([*lines, *(f"<i>{line}</i>" for line in _lines(metric))])


def _lines(title: str) -> list[str]:
    """A title in lines that fit a column; a long word is not broken."""
    return textwrap.wrap(title, _LETTERS, break_long_words=False)


def _rank_cells(table: pd.DataFrame, metrics: Mapping[str, str]) -> go.Heatmap:
    """Colours and texts of all cells: a column for the average rank and for each benchmark."""
    ranks = table[["average_rank", *(key + _RANK for key in metrics)]]
    span = "<b>{:.1f}</b><br>{:.1f}\N{EN DASH}{:.1f}"
    columns = [[span.format(*average) for average in table[list(_AVERAGE)].to_numpy()]]
    for key, metric in metrics.items():
        pairs = zip(table[key + _RANK], table[metric], strict=True)
        columns.append([f"<b>{rank:g}</b><br>{rounded(value)}" for rank, value in pairs])
    text = np.array(columns).T
    # A single method has rank 1 and needs a scale too.
    last = max(2, len(table))
    colours = {"colorscale": SEQUENTIAL, "reversescale": True, "zmin": 1, "zmax": last}
    return number_cells(ranks, text, **colours)


def control_distribution(tests: Mapping[str, ControlTest]) -> go.Figure:
    """Each method's effect among those of its random controls, a row per test.

    Args:
        tests: Name (benchmark, kind of control) -> what `control_test` returned.

    Raises:
        ValueError: If there are no tests.
    """
    if not tests:
        raise ValueError(
            "no tests to draw: make them with kb_lens.checks.control_tests.control_test."
        )
    panels = _by_unit(tests)
    heights = [_TEST_ROW * len(named) for named in panels.values()]
    plot = sum(heights) + _BETWEEN_UNITS * (len(panels) - 1)
    spacing = _BETWEEN_UNITS / plot if len(panels) > 1 else 0
    figure = make_subplots(rows=len(panels), row_heights=heights, vertical_spacing=spacing)
    for number, (unit, named) in enumerate(panels.items(), 1):
        _add_tests(figure, named, unit, {"row": number, "col": 1})
    # All rows have the same two names: the legend takes them from the first.
    traces: Any = figure.data
    for number, trace in enumerate(traces):
        trace.showlegend = number < 2
    note = "Line: 95 % bootstrap interval over clusters. Shaded: the middle 95 % of the controls. "
    note += _place_note(list(tests.values()))
    return finish(
        figure,
        "Does it do more than random neurons?",
        note,
        height=170 + plot,
        top=34,
        margin={"r": 150},
    )


def _by_unit(tests: Mapping[str, ControlTest]) -> dict[str, dict[str, ControlTest]]:
    """Unit of the effects -> the tests by name: each unit has its own axis."""
    panels: dict[str, dict[str, ControlTest]] = {}
    for name, test in tests.items():
        benchmark = named_by(test.key)
        unit = "points"
        if benchmark is not None:
            unit = formulas(*benchmark).describe(test.metric).unit.replace("%", "points")
        panels.setdefault(unit, {})[name] = test
    return panels


def _add_tests(
    figure: go.Figure, tests: Mapping[str, ControlTest], unit: str, panel: dict[str, Any]
) -> None:
    """Add a row per test."""
    for row, test in enumerate(tests.values()):
        shade(figure, test.control_interval, (row - 0.36, row + 0.04), **panel)
        figure.add_trace(_strip(test, row), **panel)
        figure.add_trace(_effect(test, row), **panel)
        place = {"x": 1.01, "xref": "x domain", "y": row, "xanchor": "left", "align": "left"}
        figure.add_annotation(**label(_place_text(test), **place), **panel)
    figure.add_vline(x=0, line=THIN, **panel)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(title_text=f"nearer to the best value, {unit}", **panel)
    names = [_test_name(name, test) for name, test in tests.items()]
    figure.update_yaxes(**rows_axis(names), **panel)


def _test_name(name: str, test: ControlTest) -> str:
    """A test's name with the usual name of its benchmark, and the metric below it."""
    rest = name.removeprefix(test.key)
    title = name if rest == name else benchmark_title(test.key) + rest
    return f"{title}<br><i>{metric_title(test.metric)}</i>"


def _place_text(test: ControlTest) -> str:
    """The text beside a row: the effect's rank, p and q."""
    place = f"rank {test.rank} of {test.n_controls + 1}"
    if math.isnan(test.p):
        return place
    rate = "" if math.isnan(test.q) else f", q = {test.q:.2g}"
    return f"p = {test.p:.2g}{rate}<br>{place}"


def _place_note(tests: Sequence[ControlTest]) -> str:
    """The explanation of the texts beside the rows."""
    words = ""
    if any(not math.isnan(test.p) for test in tests):
        words = (
            "p: share of method and controls that do at least as much. q: false discovery rate "
            "over all tests of the study's table. "
        )
    few = any(math.isnan(test.p) for test in tests)
    return words + (NO_P if few else "Rank: among method and controls; 1 is largest.")


def _strip(test: ControlTest, row: int) -> go.Scatter:
    """The controls in the upper half of the row, neighbours at different heights."""
    ranks = np.argsort(np.argsort(test.controls, kind="stable"), kind="stable")
    # Twice the rank, so that neighbours are two steps apart.
    heights = _STEP * (ranks * 2 % _N_STEPS)
    return go.Scatter(
        x=test.controls,
        y=row + _CONTROLS_AT + heights,
        name="random controls",
        mode="markers",
        marker={"size": 7, "color": CONTROL, "opacity": 0.8},
        hovertemplate="%{x:.2f}",
    )


def _effect(test: ControlTest, row: int) -> go.Scatter:
    """The method's effect with its interval in the lower half of the row."""
    effect = test.effect
    value = np.array([effect.value])
    return go.Scatter(
        x=value,
        y=[row + _METHOD_AT],
        name="the method",
        mode="markers",
        marker={"size": 11, "symbol": "diamond", "color": METHOD},
        error_x=error_bars(value, effect.low, effect.high, METHOD),
        hovertemplate=f"%{{x:.2f}} [{effect.low:.2f}, {effect.high:.2f}], n = {effect.n}",
    )
