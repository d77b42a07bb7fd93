"""Heatmaps of the studies: what the thresholds do, and what helps which dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kb_lens.benchmarks.benchmark import result_key
from kb_lens.benchmarks.catalogue import formulas, protocols
from kb_lens.figures.study_panels import (
    GLUE,
    PAIRED,
    TITLES,
    Metric,
    Where,
    grids,
    metric_of,
    rounded,
    rows_axis,
)
from kb_lens.figures.style import DIVERGING, INK, MINUS, SEQUENTIAL, SMALL

_CELL = 34
"""Pixels: the height of a cell."""
_TARGETS = {
    "stereoset": ("icat", ("gender", "race", "religion", "profession")),
    "crows_pairs": ("stereotype_share", ("gender", "race-color", "religion")),
}
"""Benchmark -> the metric and the bias types that neurons could transfer to."""


def threshold_maps(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    """Tau x beta: how many neurons are selected, and what they change, a panel a metric."""
    sizes = metrics[0].cases.pivot_table("n_neurons", "tau", "beta")
    note = (
        f"{rests} Differences from the base model; blue: lower, orange: higher. Bold and *: the "
        f"{PAIRED} excludes 0, not corrected for the number of cells."
    )
    panels = [("<b>neurons selected</b><br>colours: logarithm", partial(_sizes, sizes))]
    panels += [(one.title, partial(_changes, one)) for one in metrics]
    return grids(name, panels, note, height=_CELL * len(sizes), apart=0.1)


def _sizes(sizes: pd.DataFrame, figure: go.Figure, where: Where) -> None:
    logarithms = sizes.where(sizes > 0).map(np.log10)
    heat = _heat(logarithms, sizes.map("{:.0f}".format), colorscale=SEQUENTIAL)
    figure.add_trace(heat, **where)
    _threshold_axes(figure, sizes, where)


def _changes(metric: Metric, figure: go.Figure, where: Where) -> None:
    cases = metric.cases.assign(marked=_excludes_zero(metric.cases))
    value, marked = (cases.pivot_table(c, "tau", "beta") for c in ("difference", "marked"))
    text = value.map(partial(metric.number, sign="+"))
    figure.add_trace(_diverging(value, text, marked.astype(bool)), **where)
    _threshold_axes(figure, value, where)


def _threshold_axes(figure: go.Figure, table: pd.DataFrame, where: Where) -> None:
    for update, name, ticks in (
        (figure.update_xaxes, "beta", table.columns),
        (figure.update_yaxes, "tau", table.index),
    ):
        words = {"tickvals": [*range(len(ticks))], "ticktext": [f"{100 * x:.3g}" for x in ticks]}
        update(title_text=f"{name}, %", showgrid=False, **words, **where)


def _excludes_zero(table: pd.DataFrame) -> pd.Series:
    """Whether both ends of the difference's interval are on the same side of 0."""
    return pd.Series(table["difference_low"] * table["difference_high"] > 0, table.index)


def _heat(values: pd.DataFrame, text: pd.DataFrame, **colours: Any) -> go.Heatmap:
    return go.Heatmap(
        z=values.to_numpy(float),
        text=text.to_numpy(object),
        texttemplate="%{text}",
        textfont={"size": SMALL, "color": INK},
        hoverinfo="skip",
        showscale=False,
        xgap=2,
        ygap=2,
        **colours,
    )


def _diverging(values: pd.DataFrame, text: pd.DataFrame, marked: pd.DataFrame) -> go.Heatmap:
    """White at 0; the ends of the scale, too dark for black numbers, are beyond the values."""
    end = 2.4 * float(values.abs().to_numpy().max()) or 1.0
    text = text.mask(marked, "<b>" + text + "*</b>")
    return _heat(values, text, colorscale=DIVERGING, zmin=-end, zmax=end)


def transfer_matrix(results: pd.DataFrame, rests: str) -> dict[str, go.Figure]:
    """Source dimension x bias type: how much nearer to the best value, a panel a benchmark."""
    nearer = f"|base {MINUS} best| {MINUS} |value {MINUS} best|"
    note = (
        f"{rests} Points nearer to the best value: {nearer.replace(' ', GLUE)}. Boxes: the "
        f"neurons' own dimension. In brackets: neurons. Bold and *: the {PAIRED} excludes 0; "
        "only for icat: the interval of a share's difference is not that of how much nearer it "
        "comes to 50."
    )
    known = {result_key(name, p): name for name in _TARGETS for p in protocols(name)}
    names = [(key, known[key]) for key in results["benchmark"].unique() if key in known]
    panels = [
        (f"<b>{key} {_TARGETS[name][0]}</b>", partial(_nearer, targets))
        for key, name in names
        if (targets := _targets(results, key, name))
    ]
    height = _CELL * len(results["source"].dropna().unique())
    title = TITLES["transfer"]
    return grids("transfer_matrix", panels, note, height=height, apart=0.05, title=title)


def _targets(results: pd.DataFrame, key: str, benchmark: str) -> dict[str, Metric]:
    """Bias type -> its metric, of the types that the items have."""
    metric, types = _TARGETS[benchmark]
    best = formulas(benchmark, "original").describe(metric).best
    there = set(results.loc[results["benchmark"].eq(key), "metric"])
    names = {one: f"{metric}_{one}" for one in types if f"{metric}_{one}" in there}
    return {one: metric_of(results, key, name, best) for one, name in names.items()}


def _nearer(targets: Mapping[str, Metric], figure: go.Figure, where: Where) -> None:
    value, marked = pd.DataFrame(), pd.DataFrame()
    for target, one in targets.items():
        rows, best = one.cases.set_index("source"), one.best or 0.0
        value[target] = abs(one.base - best) - (rows["value"] - best).abs()
        marked[target] = _excludes_zero(rows) & (best == 100)
    figure.add_trace(_diverging(value, value.map(partial(rounded, sign="+")), marked), **where)
    for x, y in np.ndindex(value.shape[::-1]):
        if value.columns[x].removesuffix("-color") == value.index[y]:
            box = {"x0": x - 0.47, "x1": x + 0.47, "y0": y - 0.47, "y1": y + 0.47}
            figure.add_shape(type="rect", **box, line_color=INK, **where)
    sizes = next(iter(targets.values())).cases["n_neurons"]
    rows_axis(figure, [f"{a} ({b:.0f})" for a, b in zip(value.index, sizes, strict=True)], where)
    heads = [f"{target}<br>n = {one.n}" for target, one in targets.items()]
    figure.update_xaxes(tickvals=[*range(len(heads))], ticktext=heads, showgrid=False, **where)
