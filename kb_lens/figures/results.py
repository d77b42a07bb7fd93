"""Figure of the last step: what the intervention changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.evaluation.results import EvaluationResult, conditions_of, damage_matched
from kb_lens.figures.column import LEFT, WHOLE_PAGE
from kb_lens.figures.layout import LINE, MAX_HEIGHT, ROW, Stack, padded_range
from kb_lens.figures.marks import ZERO_LINE, error_bars, interval_hover, panel_title, rows_axis
from kb_lens.figures.results_panels import Key, Panel, collect
from kb_lens.figures.style import BASE, BEST_LINE, CONTROL, METHOD, finish, label, shown_model
from kb_lens.runs.same_damage import N_DAMAGE_TEXTS
from kb_lens.statistics import DEFAULT_RESAMPLES, Metric

_COLOURS = {"base": BASE, "method": METHOD, "control": CONTROL}
"""A condition's role -> its colour."""
_SYMBOLS = {"base": "circle", "method": "circle", "control": "square"}
# Room below a panel: its axis and the two lines of the next title.
_BETWEEN = 98
"""Pixels between panels."""
_AROUND = 178
"""Pixels above and below the panels."""
_APART = 0.36
"""Space between the two columns, for the numbers, as a share of the plot."""


def before_after(
    results: Mapping[str, EvaluationResult | Sequence[EvaluationResult]],
    *,
    metrics: Iterable[Key | str] | None = None,
    controls: Iterable[str] = (),
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> go.Figure:
    """A forest plot: each metric's paired difference from the base model, and the metric itself.

    Args:
        results: Condition (``base``, ``lambda 2``, ``random control``) -> its result, or several,
            one per benchmark. Differences are from the first condition. A condition that lacks a
            metric has an empty row; one that was measured on other items has no difference.
        metrics: (result's key, metric) pairs or ``"key.metric"``, a panel each. Default: the first
            headline metrics, the mean log-probability a token of the first benchmark that has it,
            and the first metrics of a benchmark of your own, as many as fit on a page.
        controls: Conditions that are random controls, drawn in grey. The results of `run` and of
            studies say so themselves.
        n_bootstrap: Resamples for the intervals of the differences.
        seed: Seed of the resampling.

    Raises:
        ValueError: If there are no results, a condition has a benchmark twice, no condition has
            the metric, or a control is no condition.
    """
    listed = {
        condition: [measured] if isinstance(measured, EvaluationResult) else measured
        for condition, measured in results.items()
    }
    for name in [controls] if isinstance(controls, str) else controls:
        if name not in listed:
            raise ValueError(f"no condition {name!r}: allowed are {', '.join(map(repr, listed))}.")
        listed[name] = [
            replace(result, condition=replace(result.condition, role="control"))
            for result in listed[name]
        ]
    panels = collect(listed, metrics, n_bootstrap, seed)
    shown = panels if metrics is not None else panels[: _most_panels(len(listed))]
    return _drawn(listed, shown, len(panels))


def before_after_pages(
    results: Mapping[str, Sequence[EvaluationResult]],
    *,
    metrics: Iterable[Key] | None = None,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> dict[str, go.Figure]:
    """`before_after` with every panel, on several figures if needed: ``before_after_2``, ..."""
    panels = collect(results, metrics, n_bootstrap, seed)
    most = _most_panels(len(results))
    n_pages = -(-len(panels) // most)
    # Equal pages, so that the last one does not have a single panel.
    size = -(-len(panels) // n_pages)
    starts = range(0, len(panels), size)
    pages = [_drawn(results, panels[start : start + size], size) for start in starts]
    names = ["before_after", *(f"before_after_{n}" for n in range(2, len(pages) + 1))]
    return dict(zip(names, pages, strict=True))


def _most_panels(n_conditions: int) -> int:
    """How many panels fit on a page."""
    room = MAX_HEIGHT - _AROUND + _BETWEEN
    return max(1, room // (ROW * n_conditions + _BETWEEN))


def _drawn(
    results: Mapping[str, Sequence[EvaluationResult]], panels: Sequence[Panel], n_all: int
) -> go.Figure:
    """The figure: a row per panel, differences at the left, values at the right."""
    conditions = conditions_of(results)
    roles = {name: info.role or "method" for name, info in conditions.items()}
    stack = Stack(len(panels), ROW * len(roles), _BETWEEN)
    figure = make_subplots(
        rows=stack.n, cols=2, vertical_spacing=stack.spacing, horizontal_spacing=_APART
    )
    for row, panel in enumerate(panels, 1):
        _draw_differences(figure, row, panel, roles)
        _draw_values(figure, row, panel, roles)
        panel_title(figure, panel.title, row)
    models = sorted({shown_model(result.model) for result in chain.from_iterable(results.values())})
    first = next(iter(results))
    note = (
        f"{', '.join(models)}. Paired differences from {first}, and the values. Lines: 95 % "
        "bootstrap intervals over the clusters of n items."
    )
    if any(panel.ideal is not None for panel in panels):
        note += " Dotted: the best value, where it is in reach."
    if matched := damage_matched(conditions):
        note += (
            f" {' and '.join(matched)}: the damage is equal on {N_DAMAGE_TEXTS} plain passages and "
            "may differ here."
        )
    if len(panels) < n_all:
        note += f" {len(panels)} of {n_all} headline metrics; the argument metrics chooses others."
    letters = max(map(len, roles))
    return finish(
        figure,
        "What the intervention changes",
        note,
        height=stack.plot + _AROUND,
        top=2 * LINE + 10,
        margin={"r": 135, "b": 60},
        showlegend=False,
        meta={"column": LEFT, "letters": letters} if len(roles) > 1 else {"column": WHOLE_PAGE},
    )


def _draw_differences(figure: go.Figure, row: int, panel: Panel, roles: Mapping[str, str]) -> None:
    changes = panel.differences
    for y, (condition, change) in enumerate(changes.items()):
        if change is not None:
            figure.add_trace(_marker(condition, y, change, roles[condition]), row, 1)
        number = label(panel.difference_text(condition), y=y, **_BESIDE)
        figure.add_annotation(**number, row=row, col=1)
    span = padded_range(panel.reach_of_differences(), 0.08)
    title = f"difference, {panel.unit.replace('%', 'points')}"
    figure.update_xaxes(title_text=title, range=span, nticks=5, **ZERO_LINE, row=row, col=1)
    figure.update_yaxes(**rows_axis(list(panel.values)), row=row, col=1)
    _add_best(figure, panel.best_difference, span, row, 1)


def _draw_values(figure: go.Figure, row: int, panel: Panel, roles: Mapping[str, str]) -> None:
    for y, (condition, metric) in enumerate(panel.values.items()):
        if metric is not None:
            figure.add_trace(_marker(condition, y, metric, roles[condition]), row, 2)
        number = label(panel.number(metric), y=y, **_BESIDE)
        figure.add_annotation(**number, row=row, col=2)
    span = padded_range(panel.reach(), 0.08)
    figure.update_xaxes(title_text=f"value, {panel.unit}", range=span, nticks=5, row=row, col=2)
    figure.update_yaxes(**rows_axis(list(panel.values)), showticklabels=False, row=row, col=2)
    _add_best(figure, panel.ideal, span, row, 2)


_BESIDE = {"x": 1, "xref": "x domain", "xanchor": "left", "xshift": 6}
"""Position of a row's number: right of its panel."""


def _add_best(
    figure: go.Figure, best: float | None, span: tuple[float, float], row: int, col: int
) -> None:
    if best is not None and span[0] <= best <= span[1]:
        line: Any = BEST_LINE
        figure.add_vline(x=best, line=line, row=row, col=col)  # pyright: ignore[reportArgumentType]


def _marker(condition: str, y: int, metric: Metric, role: str) -> go.Scatter:
    colour = _COLOURS[role]
    marker = go.Scatter(x=[metric.value], y=[y], name=condition, mode="markers")
    marker.update(marker_size=9, marker_color=colour, marker_symbol=_SYMBOLS[role])
    value = np.array([metric.value])
    marker.update(error_x=error_bars(value, metric.low, metric.high, colour))
    marker.update(customdata=[[metric.low, metric.high, metric.n]])
    return marker.update(hovertemplate=f"{interval_hover('x')}, n = %{{customdata[2]}}")
