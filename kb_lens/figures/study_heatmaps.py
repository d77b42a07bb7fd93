"""Heatmaps of the studies of thresholds and of transfer between dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kb_lens.benchmarks.catalogue import formulas, is_own, named_by
from kb_lens.figures.layout import CELL
from kb_lens.figures.marks import number_cells
from kb_lens.figures.study_panels import (
    PAIRED,
    TITLES,
    Metric,
    Panel,
    Position,
    grids,
    metric_of,
    shared_rows,
)
from kb_lens.figures.style import DIVERGING, GLUE, INK, MINUS, SEQUENTIAL, rounded
from kb_lens.statistics import Formulas

_DIMENSIONS = {
    "gender": "gender",
    "race": "race",
    "race-color": "race",
    "religion": "religion",
    "profession": None,
}
"""Bias type of a benchmark -> its dimension in the bank, None without one; any other type has the
name of its dimension."""
# The darkest colours of the scale would hide black numbers.
_BEYOND = 2.4
"""Ends of a diverging scale, in multiples of the largest value."""


def threshold_maps(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    """Tau x beta: the number of selected neurons and their effects, a panel per metric."""
    sizes = metrics[0].cases.pivot_table("n_neurons", "tau", "beta")
    note = (
        f"{rests} Differences from the base model; blue: lower, orange: higher. Bold and *: the "
        f"{PAIRED} excludes 0, not corrected for the number of cells."
    )
    panels: list[Panel] = [
        ("<b>neurons selected</b><br>colours: logarithm", partial(_sizes, sizes)),
        *((metric.title, partial(_changes, metric)) for metric in metrics),
    ]
    return grids(name, panels, note, height=CELL * len(sizes), apart=0.1)


def _sizes(sizes: pd.DataFrame, figure: go.Figure, position: Position) -> None:
    # a cell with 0 has no logarithm and no colour
    logarithms = sizes.where(sizes > 0).map(np.log10)
    heat = number_cells(logarithms, sizes.map("{:.0f}".format), colorscale=SEQUENTIAL)
    figure.add_trace(heat, **position)
    _threshold_axes(figure, sizes, position)


def _changes(metric: Metric, figure: go.Figure, position: Position) -> None:
    cases = metric.cases.assign(marked=_excludes_zero(metric.cases))
    value = cases.pivot_table("difference", "tau", "beta")
    marked = cases.pivot_table("marked", "tau", "beta").astype(bool)
    text = value.map(partial(metric.number, sign="+"))
    figure.add_trace(_diverging(value, text, marked), **position)
    _threshold_axes(figure, value, position)


def _threshold_axes(figure: go.Figure, table: pd.DataFrame, position: Position) -> None:
    for update, threshold, shares in (
        (figure.update_xaxes, "beta", table.columns),
        (figure.update_yaxes, "tau", table.index),
    ):
        percents = [f"{100 * share:.3g}" for share in shares]
        ticks = {"tickvals": list(range(len(percents))), "ticktext": percents}
        update(title_text=f"{threshold}, %", showgrid=False, **ticks, **position)


def _excludes_zero(table: pd.DataFrame) -> pd.Series:
    """Whether both ends of the difference's interval are on the same side of 0."""
    return pd.Series(table["difference_low"] * table["difference_high"] > 0, table.index)


def _diverging(values: pd.DataFrame, text: pd.DataFrame, marked: pd.DataFrame) -> go.Heatmap:
    """White at 0; no value reaches the scale's ends, which are too dark for black numbers."""
    # the scale must not be empty if all values are 0
    end = _BEYOND * float(values.abs().to_numpy().max()) or 1.0
    text = text.mask(marked, "<b>" + text + "*</b>")
    return number_cells(values, text, colorscale=DIVERGING, zmin=-end, zmax=end)


def transfer_matrix(results: pd.DataFrame, rests: str) -> dict[str, go.Figure]:
    """Source dimension x bias type: how much nearer to the best value, a panel per benchmark."""
    nearer = f"|base {MINUS} best| {MINUS} |value {MINUS} best|"
    note = (
        f"{rests} Points nearer to the best value: {nearer.replace(' ', GLUE)}. Boxes: the "
        f"neurons' own dimension. In brackets: neurons. Bold and *: the {PAIRED} excludes 0; "
        "for icat only, as the interval of a share's difference is not one of nearness to 50."
    )
    panels: list[Panel] = []
    for key in results["benchmark"].unique():
        metric, targets = _targets(results, key)
        if targets:
            panels.append((f"<b>{key} {metric}</b>", partial(_nearer, targets)))
    height = CELL * len(results["source"].dropna().unique())
    title = TITLES["transfer"]
    return grids("transfer_matrix", panels, note, height=height, apart=0.05, title=title)


def _targets(results: pd.DataFrame, key: str) -> tuple[str, dict[str, Metric]]:
    """A benchmark's metric, and bias type -> that metric, for the bias types of the items.

    Empty if the benchmark has no bias types.
    """
    benchmark = named_by(key)
    definition = formulas(*benchmark) if benchmark else None
    if definition is None or definition.by_type is None:
        return "", {}
    measured = set(results.loc[results["benchmark"].eq(key), "metric"])
    metric = _metric_by_type(definition, measured)
    shown = [*_DIMENSIONS, *results["source"].dropna().unique()]
    types = _types(metric, definition, measured)
    if not is_own(key):
        types = [name for name in types if name in shown]
    names = {name: f"{metric}_{name}" for name in sorted(types, key=partial(_place, shown))}
    described = {name: definition.describe(full) for name, full in names.items()}
    return metric, {
        name: metric_of(results, key, full, described[name]) for name, full in names.items()
    }


def _types(metric: str, definition: Formulas, measured: Set[str]) -> list[str]:
    """The bias types for which a metric has values."""
    ends = [name.removeprefix(f"{metric}_") for name in measured if name.startswith(f"{metric}_")]
    taken = tuple(f"{end}_" for end in definition.not_types)
    return [end for end in ends if not f"{end}_".startswith(taken)]


def _place(order: Sequence[str], name: str) -> tuple[int, str]:
    """A sort key: names of the order first, then the others."""
    return (order.index(name) if name in order else len(order)), name


def _metric_by_type(definition: Formulas, measured: Set[str]) -> str:
    """The metric that ranks methods; if it has no values by type, one that has."""
    info = definition.info
    # A mean over targets has none. A score whose best value is its maximum: a difference is a gain.
    bounded = [name for name in info if info[name].role == "bias" and info[name].best == 100]
    candidates = (definition.headline[0], *bounded, str(definition.by_type))
    has_types = (name for name in candidates if _types(name, definition, measured))
    return next(has_types, candidates[0])


def _nearer(targets: Mapping[str, Metric], figure: go.Figure, position: Position) -> None:
    value, marked = pd.DataFrame(), pd.DataFrame()
    for bias_type, metric in targets.items():
        rows = metric.cases.set_index("source")
        best = metric.info.best or 0.0
        value[bias_type] = abs(metric.base - best) - (rows["value"] - best).abs()
        # 100 is the maximum: there the difference is the gain, and its interval is the gain's.
        marked[bias_type] = _excludes_zero(rows) & (best == 100)
    text = value.map(partial(rounded, sign="+"))
    figure.add_trace(_diverging(value, text, marked), **position)
    for x, bias_type in enumerate(value.columns):
        for y, source in enumerate(value.index):
            if _DIMENSIONS.get(bias_type, bias_type) == source:
                _box(figure, x, y, position)
    sizes = next(iter(targets.values())).cases["n_neurons"]
    names = [f"{source} ({size:.0f})" for source, size in zip(value.index, sizes, strict=True)]
    shared_rows(figure, names, position)
    heads = [f"{bias_type}<br>n = {metric.n}" for bias_type, metric in targets.items()]
    ticks = {"tickvals": list(range(len(heads))), "ticktext": heads}
    figure.update_xaxes(**ticks, showgrid=False, **position)


def _box(figure: go.Figure, x: int, y: int, position: Position) -> None:
    """A frame around a cell, inside the gaps."""
    half = 0.47
    corners = {"x0": x - half, "x1": x + half, "y0": y - half, "y1": y + half}
    figure.add_shape(type="rect", **corners, line_color=INK, **position)
