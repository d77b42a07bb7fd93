"""Figures of the paper's studies, drawn from their tables alone: a panel a metric."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.figures.study_heatmaps import threshold_maps, transfer_matrix
from kb_lens.figures.study_panels import (
    BEST,
    BLUE,
    FLUENCY,
    GLUE,
    PAIRED,
    TITLES,
    Metric,
    Where,
    band,
    curve,
    difference_axis,
    error_bars,
    grids,
    metric_of,
    reach,
    rows_axis,
)
from kb_lens.figures.style import BACKGROUND, GREY, INK, NOTE, SMALL, faint, label
from kb_lens.statistics import interval

_ROWS = {
    "aggregation": "{aggregation}",
    "methods": "{method}",
    "quadrature": "{rule}, {spelling} spelling",
    "question-types": "{questions}",
    "right-answers": "{set}",
    "site": "{site}, positions: {at}",
    "transfer": "{source}",
}
"""Studies whose cases are rows beside one another, and what a row is called."""
_CHOSEN = ("question-types", "right-answers")
"""Studies whose cases are found on parts of the questions."""


def study_figures(
    name: str, tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]
) -> dict[str, go.Figure]:
    """What a study's cases change, each benchmark by its first headline metric.

    Plain text is shown by its log-probability a token.

    Args:
        name: The study, one of `kb_lens.studies.experiments.EXPERIMENTS`.
        tables: The tables of the `Experiment`.
        settings: Its settings.

    Returns:
        Name -> figure. Panels that a page has no room for are in ``<name>_2`` and so on.
        ``transfer`` has ``transfer_matrix`` as well if StereoSet or CrowS-Pairs was measured.

    Raises:
        ValueError: For an unknown study, or results without cases or without the base model.
    """
    if name not in TITLES:
        raise ValueError(f"no study {name!r}: allowed are {', '.join(TITLES)}.")
    results, rests = tables["results"], _rests_on(name, settings)
    if results.empty:
        raise ValueError(f"the results of {name!r} have no rows: give the study a benchmark.")
    metrics = [_headline(results, key) for key in results["benchmark"].unique()]
    draws = {"lambda": _factors, "questions": _counts, "thresholds": threshold_maps}
    figures = transfer_matrix(results, rests) if name == "transfer" else {}
    return figures | draws.get(name, _forest)(name, metrics, rests)


def _headline(results: pd.DataFrame, key: str) -> Metric:
    """The benchmark's metric to look at first; of a caller's own benchmark the first one."""
    if key == "plain_text":
        return metric_of(results, key, FLUENCY, None)
    named = named_by(key)
    if named is not None:
        definition = formulas(*named)
        first = definition.headline[0]
        return metric_of(results, key, first, definition.describe(first).best)
    first = results.loc[results["benchmark"].eq(key), "metric"].iloc[0]
    return metric_of(results, key, first, None)


def _rests_on(name: str, settings: Mapping[str, Any]) -> str:
    """The model and the settings that hold for every case: one that the study varies is None."""
    questions = "parts of {} questions" if name in _CHOSEN else "{} questions"
    words = {"n_questions": questions, "tau": "tau {:.3g} %", "beta": "beta {:.3g} %"}
    words["lam"] = "lambda {:g}"
    scale = {"tau": 100, "beta": 100}
    fixed = {key: settings[key] for key in words if settings[key] is not None}
    said = [words[key].format(scale.get(key, 1) * value) for key, value in fixed.items()]
    return ", ".join([settings["model"], *said]) + "."


# -- against a number -------------------------------------------------------------------------


def _factors(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Blue: the value, with the {PAIRED} of its difference from the base model. Grey: "
        "as many random neurons of like influence, a line a set, and the band from the least to "
        "the largest."
    )
    return grids(name, [(one.title, partial(_factor_panel, one)) for one in metrics], note)


def _factor_panel(metric: Metric, figure: go.Figure, where: Where) -> None:
    cases = metric.cases.sort_values("lam")
    mine, random = (cases.loc[cases["set"].eq("know-bias") == own] for own in (True, False))
    low, high = (metric.base + mine[f"difference_{end}"].to_numpy() for end in ("low", "high"))
    ends = reach([metric.base, *low, *high, *random["value"]])
    lams = mine["lam"].to_numpy()
    traces = [
        curve(one["lam"], one["value"], color=GREY, width=1) for _, one in random.groupby("set")
    ]
    if traces:
        spread = random.groupby("lam")["value"].agg(["min", "max"]).reset_index()
        lam, low_end, high_end = spread.to_numpy().T
        traces.insert(0, band(lam, low_end, high_end, faint(GREY, 0.3), "random neurons"))
    traces.append(band(lams, low, high, faint(BLUE)))
    traces.append(curve(lams[[0, -1]], [metric.base] * 2, "base model", color=INK, dash="dash"))
    if metric.best is not None and ends[0] <= metric.best <= ends[1]:
        traces.append(curve(lams[[0, -1]], [metric.best] * 2, "best value", **BEST))
    traces.append(curve(lams, mine["value"], "know-bias neurons", color=BLUE, width=2.5))
    for trace in traces:
        figure.add_trace(trace, **where)
    figure.update_xaxes(title_text="lambda", nticks=6, showgrid=False, **where)
    figure.update_yaxes(title_text=metric.unit, range=ends, nticks=6, **where)


def _counts(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Differences from the base model with their {PAIRED}. Each set of questions "
        "contains the smaller ones. Dotted: the best value, where it is in reach."
    )
    panels = [(one.title, partial(_count_panel, one)) for one in metrics]
    sizes = metrics[0].cases
    return grids(name, [*panels, ("<b>neurons selected</b>", partial(_size_panel, sizes))], note)


def _count_panel(metric: Metric, figure: go.Figure, where: Where) -> None:
    trace = _against_questions(figure, metric.cases, "difference", BLUE, where)
    figure.add_trace(trace.update(error_y=error_bars(metric.cases)), **where)
    difference_axis(metric, metric.cases, figure, "y", where)


def _size_panel(cases: pd.DataFrame, figure: go.Figure, where: Where) -> None:
    figure.add_trace(_against_questions(figure, cases, "n_neurons", INK, where), **where)
    figure.update_yaxes(title_text="neurons", rangemode="tozero", nticks=6, **where)


def _against_questions(
    figure: go.Figure, cases: pd.DataFrame, column: str, colour: str, where: Where
) -> go.Scatter:
    """The points, on a logarithmic axis with as many of the counts as there is room for."""
    counts = cases["n_questions"].astype(int).tolist()
    shown: list[int] = []
    for count in sorted(counts):
        shown += [count] if not shown or count > 1.6 * shown[-1] else []
    ticks = {"tickvals": shown, "ticktext": [*map(str, shown)], "showgrid": False}
    figure.update_xaxes(title_text="questions", type="log", **ticks, **where)
    line = curve(counts, cases[column], color=GREY, width=1)
    return line.update(mode="lines+markers", marker={"size": 8, "color": colour})


# -- rows beside one another ------------------------------------------------------------------


def _forest(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    tables = [_rows(one.cases, _ROWS[name]) for one in metrics]
    every = pd.concat(tables)
    every = every[~every.index.duplicated()]
    words = ["<br>".join(textwrap.wrap(w, 32, break_on_hyphens=False)) for w in every["label"]]
    note = f"{rests} Points: difference from the base model; lines: its {PAIRED}."
    note += " In brackets: neurons. Dotted: the best value, where it is in reach."
    if True in every["random"].tolist():
        note += " Grey: random neurons, the mean of the sets and their 2.5 to 97.5 percentiles."
    panels = [
        (one.title, partial(_forest_panel, one, table.reindex(every.index), words))
        for one, table in zip(metrics, tables, strict=True)
    ]
    height = len(words) * (36 if any("<br>" in text for text in words) else 22) + 10
    return grids(name, panels, note, height=height, apart=0.05)


def _rows(cases: pd.DataFrame, template: str) -> pd.DataFrame:
    """A row a case, and one for all random sets of a kind, whose names differ by a number."""
    names = [template.format(**row).replace("_", " ") for row in cases.to_dict("records")]
    rows = [re.sub(r"^(random.*?),? \d+\b", r"\1", name) for name in names]
    groups = cases.groupby(pd.Series(rows, cases.index), sort=False)
    return pd.DataFrame.from_dict({row: _row(str(row), one) for row, one in groups}, orient="index")


def _row(name: str, group: pd.DataFrame) -> dict[str, Any]:
    first, random = group.iloc[0], name.startswith("random")
    low, high = first["difference_low"], first["difference_high"]
    size = [] if np.isnan(first["n_neurons"]) else [f"{first['n_neurons']:.0f}"]
    if random:
        low, high = interval(group["difference"].to_numpy())
        size.append(f"{len(group)} sets")
    return {
        "label": f"{name} ({', '.join(size).replace(' ', GLUE)})" if size else name,
        "random": random,
        "difference": group["difference"].mean(),
        "difference_low": low,
        "difference_high": high,
    }


def _forest_panel(
    metric: Metric, table: pd.DataFrame, words: Sequence[str], figure: go.Figure, where: Where
) -> None:
    table = table.assign(place=range(len(table)))
    for random, part in table.dropna().groupby("random"):
        colour, symbol = (GREY, "square") if random else (BLUE, "circle")
        marker = {"size": 9, "color": colour, "symbol": symbol}
        points = go.Scatter(x=part["difference"], y=part["place"], mode="markers", marker=marker)
        figure.add_trace(points.update(error_x=error_bars(part, colour)), **where)
    difference_axis(metric, table, figure, "x", where)
    for place in table.loc[table["label"].isna(), "place"]:
        text = label("not measured", x=0.5, y=place, font={"size": SMALL, "color": NOTE})
        figure.add_annotation(**text, xref="x domain", bgcolor=BACKGROUND, **where)
    rows_axis(figure, words, where)
