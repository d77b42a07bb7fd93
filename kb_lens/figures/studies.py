"""Figures of the paper's studies, drawn from their tables: a panel per metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.arguments import nearest
from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.benchmarks.measures import DAMAGE
from kb_lens.figures.marks import band, curve
from kb_lens.figures.results_panels import Key
from kb_lens.figures.study_forest import forest
from kb_lens.figures.study_heatmaps import threshold_maps, transfer_matrix
from kb_lens.figures.study_panels import (
    PAIRED,
    TITLES,
    Metric,
    Panel,
    Position,
    difference_axis,
    difference_bars,
    grids,
    metric_of,
    reach,
)
from kb_lens.figures.style import (
    BASE,
    BEST_LINE,
    CONTROL,
    GREY,
    INK,
    METHOD,
    faint,
    shown_model,
)
from kb_lens.statistics import Formulas, MetricInfo

_CHOSEN = ("question-types", "right-answers")
"""Studies whose cases use parts of the questions."""
_APART = 1.6
"""Least ratio of two numbers on the logarithmic axis, so that they do not touch."""


def study_figures(
    name: str,
    tables: Mapping[str, pd.DataFrame],
    settings: Mapping[str, Any],
    *,
    metrics: Iterable[Key] | None = None,
) -> dict[str, go.Figure]:
    """What a study's cases change, by each benchmark's first headline metric.

    For plain text it is the log-probability a token.

    Args:
        name: The study, one of `kb_lens.studies.experiments.EXPERIMENTS`.
        tables: The tables of the `Experiment`.
        settings: Its settings.
        metrics: (result's key, metric) pairs to show instead, a panel each.

    Returns:
        Name -> figure. Panels that do not fit on one page are in ``<name>_2`` and so on.
        ``transfer`` also has ``transfer_matrix`` if StereoSet or CrowS-Pairs was measured.

    Raises:
        ValueError: If the study or a metric is unknown, or the results lack cases or the base
            model.
    """
    if name not in TITLES:
        raise ValueError(f"no study {name!r}: allowed are {', '.join(TITLES)}.")
    if tables["results"].empty:
        raise ValueError(f"the results of {name!r} have no rows: give the study a benchmark.")
    results = tables["results"]
    if "control" not in results:
        results = results.assign(control=None)  # all its random sets are of one kind
    rests = _rests_on(name, settings)
    shown = [_headline(results, key) for key in results["benchmark"].unique()]
    if metrics is not None:
        shown = [_chosen(results, *key) for key in metrics]
    figures = transfer_matrix(results, rests) if name == "transfer" else {}
    draws = {"lambda": _factors, "questions": _counts, "thresholds": threshold_maps}
    draw = draws.get(name, forest)
    return figures | draw(name, shown, rests)


def _chosen(results: pd.DataFrame, key: str, name: str) -> Metric:
    """A requested metric."""
    measured = list(results[["benchmark", "metric"]].drop_duplicates().itertuples(index=False))
    if (key, name) not in measured:
        near = nearest(f"{key}.{name}", [".".join(pair) for pair in measured])
        raise ValueError(f"no metric {key}.{name} was measured: there are {near}.")
    benchmark = named_by(key)
    info = MetricInfo("points", name, "ability")
    if benchmark is not None:
        info = formulas(*benchmark).describe(name)
    return metric_of(results, key, name, info)


def _headline(results: pd.DataFrame, key: str) -> Metric:
    """A benchmark's first headline metric; its first metric if it is the caller's own benchmark."""
    benchmark = named_by(key)
    if benchmark is None:
        first = results.loc[results["benchmark"].eq(key), "metric"].iloc[0]
        return metric_of(results, key, first, MetricInfo("points", first, "ability"))
    definition = formulas(*benchmark)
    metric = _metric_to_show(definition)
    return metric_of(results, key, metric, definition.describe(metric))


def _metric_to_show(definition: Formulas) -> str:
    """The first headline metric; if it measures damage, the log-probability."""
    first = definition.headline[0]
    if definition.describe(first).role != "damage":
        return first
    # Perplexity is its exponential: equal damage does not give equal differences.
    logprobs = (m for m in definition.headline if definition.describe(m) == DAMAGE)
    return next(logprobs, first)


def _rests_on(name: str, settings: Mapping[str, Any]) -> str:
    """The model and the settings of all cases; a setting that the study varies is None."""
    facts = [shown_model(settings["model"])]
    if settings["n_questions"] is not None:
        questions = f"{settings['n_questions']} questions"
        facts.append(f"parts of {questions}" if name in _CHOSEN else questions)
    for threshold in ("tau", "beta"):
        if settings[threshold] is not None:
            facts.append(f"{threshold} {100 * settings[threshold]:.3g} %")
    if settings["lam"] is not None:
        facts.append(f"lambda {settings['lam']:g}")
    return ", ".join(facts) + "."


# -- against a number -------------------------------------------------------------------------


def _factors(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Blue: the value, with the {PAIRED} of its difference from the base model. Grey: "
        "as many random neurons of like influence, a line a set; the band spans the sets."
    )
    panels = [(metric.title, partial(_factor_panel, metric)) for metric in metrics]
    return grids(name, panels, note)


def _factor_panel(metric: Metric, figure: go.Figure, position: Position) -> None:
    cases = metric.cases.sort_values("lam")
    controls = cases.loc[cases["role"].eq("control")]
    method = cases.loc[cases["role"].eq("method")]
    lams = method["lam"].to_numpy()
    low = metric.base + method["difference_low"].to_numpy()
    high = metric.base + method["difference_high"].to_numpy()
    ends = reach([metric.base, *low, *high, *controls["value"]])
    across = lams[[0, -1]]
    traces = _control_curves(controls, metric.base)
    traces.append(band(lams, low, high, faint(METHOD)))
    traces.append(curve(across, [metric.base] * 2, "base model", color=BASE, dash="dash"))
    best = metric.best_within(ends)
    if best is not None:
        traces.append(curve(across, [best] * 2, "best value", **BEST_LINE))
    traces.append(curve(lams, method["value"], "know-bias neurons", color=METHOD, width=2.5))
    for trace in traces:
        figure.add_trace(trace, **position)
    figure.update_xaxes(title_text="lambda", nticks=6, showgrid=False, **position)
    figure.update_yaxes(title_text=metric.info.unit, range=ends, nticks=6, **position)


def _control_curves(controls: pd.DataFrame, base: float) -> list[go.Scatter]:
    """A line per draw, and the band from the least to the largest value.

    All lines start from the base model at lambda 1, which was not measured.
    """
    if controls.empty:
        return []
    draws = [draw.sort_values("lam") for _, draw in controls.groupby("draw")]
    curves = [_from_base(draw["lam"].tolist(), draw["value"].tolist(), base) for draw in draws]
    points = pd.concat([pd.DataFrame({"lam": lams, "value": values}) for lams, values in curves])
    spread = points.groupby("lam")["value"].agg(["min", "max"]).reset_index()
    lams, least, largest = spread.to_numpy().T
    area = band(lams, least, largest, faint(CONTROL, 0.3), "random neurons")
    return [area, *(curve(*points, color=CONTROL, width=1) for points in curves)]


def _from_base(
    lams: list[float], values: list[float], base: float
) -> tuple[list[float], list[float]]:
    """A draw's curve, with the base model at lambda 1 in front if it begins above 1."""
    return (lams, values) if min(lams) <= 1 else ([1.0, *lams], [base, *values])


def _counts(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Differences from the base model with their {PAIRED}. Each set of questions "
        "contains the smaller ones. Dotted: the best value, where it is in reach."
    )
    panels: list[Panel] = [(metric.title, partial(_count_panel, metric)) for metric in metrics]
    panels.append(("<b>neurons selected</b>", partial(_size_panel, metrics[0].cases)))
    return grids(name, panels, note)


def _count_panel(metric: Metric, figure: go.Figure, position: Position) -> None:
    trace = _against_questions(figure, metric.cases, "difference", METHOD, position)
    figure.add_trace(trace.update(error_y=difference_bars(metric.cases)), **position)
    difference_axis(metric, metric.cases, figure, "y", position)


def _size_panel(cases: pd.DataFrame, figure: go.Figure, position: Position) -> None:
    trace = _against_questions(figure, cases, "n_neurons", INK, position)
    figure.add_trace(trace, **position)
    figure.update_yaxes(title_text="neurons", rangemode="tozero", nticks=6, **position)


def _against_questions(
    figure: go.Figure, cases: pd.DataFrame, column: str, colour: str, position: Position
) -> go.Scatter:
    """The points, on a logarithmic axis that is labelled with as many counts as fit."""
    counts = cases["n_questions"].astype(int).tolist()
    numbers: list[int] = []
    for count in sorted(counts):
        if not numbers or count > _APART * numbers[-1]:
            numbers.append(count)
    ticks = {"tickvals": numbers, "ticktext": [str(number) for number in numbers]}
    figure.update_xaxes(title_text="questions", type="log", **ticks, showgrid=False, **position)
    line = curve(counts, cases[column], color=GREY, width=1)
    return line.update(mode="lines+markers", marker={"size": 8, "color": colour})


# -- forest plots -----------------------------------------------------------------------------
