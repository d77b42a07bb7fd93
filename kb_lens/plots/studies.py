"""Figures of the paper's studies, drawn from their tables alone: a panel a metric."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.benchmarks import BENCHMARKS, formulas, protocols, result_key
from kb_lens.plots.style import (
    COLOURS,
    DIVERGING,
    GREY,
    INK,
    MINUS,
    SEQUENTIAL,
    SMALL,
    finish,
    label,
)
from kb_lens.statistics import interval

_COLUMNS, _PAGE = 2, 900
"""Panels side by side; pixels of panels, one below the other, in one figure."""
_LINE, _BELOW, _PANEL, _CELL = 18, 56, 170, 34
"""Pixels: a line of text, a panel's axis, a panel with a y axis, the height of a heatmap's cell."""
_BLUE, _BLUE_BAND, _GREY_BAND = COLOURS[0], "rgba(0, 114, 178, 0.2)", "rgba(140, 140, 140, 0.3)"
_BEST = {"color": COLOURS[2], "dash": "dot"}
_GLUE = "\N{NO-BREAK SPACE}"
_FLUENCY = "logprob_per_token"
_PERCENT = ("acc", "any", "lms", "ss", "stereotype_share")
"""How the names of metrics in percent begin; the others are points, but for two."""
_PAIRED = "95 % paired bootstrap interval over n items"
_TITLES = {
    "aggregation": "How should the neurons of the dimensions be joined?",
    "lambda": "What does the factor do?",
    "methods": "What does each method change?",
    "quadrature": "Does the integral's precision matter?",
    "question-types": "Which kinds of questions are needed?",
    "questions": "How many questions does it take?",
    "right-answers": "Do questions that the model answers right find better neurons?",
    "site": "Which activations should be scaled, and where?",
    "thresholds": "What do the thresholds do?",
    "transfer": "Do the neurons of one dimension help the others?",
}
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
_VARIED = {
    "lambda": ("lam",),
    "question-types": ("n_questions",),
    "questions": ("n_questions",),
    "right-answers": ("n_questions",),
    "thresholds": ("tau", "beta"),
}
"""Settings that do not hold for the whole study."""
_TARGETS = {
    "stereoset": ("icat", ("gender", "race", "religion", "profession")),
    "crows_pairs": ("stereotype_share", ("gender", "race-color", "religion")),
}
"""Benchmark -> the metric and the bias types that neurons could transfer to."""

_Where = dict[str, Any]
"""Row and column of a panel."""
_Draw = Callable[[go.Figure, _Where], Any]
"""Draws a panel."""


@dataclass(frozen=True, eq=False)
class _Metric:
    """One metric of one benchmark in a study."""

    key: str
    """The benchmark."""
    name: str
    """The metric."""
    best: float | None
    """Its best value, if it has one."""
    base: float
    """The base model's value."""
    n: int
    """Items."""
    cases: pd.DataFrame
    """Its rows of the results, without the base model's."""

    @property
    def title(self) -> str:
        """What it is, and where it starts from."""
        name = "<br>".join(textwrap.wrap(f"{self.key} {self.name}", 32))
        best = "" if self.best is None else f"best {self.best:g}, "
        best = "lower is damage, " if self.key == "plain_text" else best
        return f"<b>{name}</b><br>base {self.number(self.base)}, {best}n = {self.n}"

    @property
    def unit(self) -> str:
        """Of its values; differences of percents are points."""
        named = {_FLUENCY: "nats a token", "perplexity": "perplexity"}
        return named.get(self.name, "%" if self.name.startswith(_PERCENT) else "points")

    @property
    def difference(self) -> str:
        """What an axis of differences says."""
        return "difference, " + self.unit.replace("%", "points")

    def number(self, value: float, sign: str = "") -> str:
        """A value with the digits that it deserves."""
        return _number(value, sign, 2 if self.name == _FLUENCY else 1)


def study_figures(
    name: str, tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]
) -> dict[str, go.Figure]:
    """What a study's cases change, each benchmark by its first headline metric.

    Plain text is shown by its log-probability a token.

    Args:
        name: The study, one of `kb_lens.experiments.EXPERIMENTS`.
        tables: The tables of the `Experiment`.
        settings: Its settings.

    Returns:
        Name -> figure. Panels that a page has no room for are in ``<name>_2`` and so on.
        ``transfer`` has ``transfer_matrix`` as well if StereoSet or CrowS-Pairs was measured.

    Raises:
        ValueError: For an unknown study, or results without cases or without the base model.
    """
    if name not in _TITLES:
        raise ValueError(f"no study {name!r}: allowed are {', '.join(_TITLES)}.")
    results, rests = tables["results"], _rests_on(name, settings)
    if results.empty:
        raise ValueError(f"the results of {name!r} have no rows: give the study a benchmark.")
    metrics = [_headline(results, key) for key in results["benchmark"].unique()]
    draw = {"lambda": _factors, "questions": _counts, "thresholds": _thresholds}.get(name, _forest)
    figures = _matrix(results, rests) if name == "transfer" else {}
    return figures | draw(name, metrics, rests)


def _headline(results: pd.DataFrame, key: str) -> _Metric:
    """The benchmark's metric to look at first; of a caller's own benchmark the first one."""
    if key == "plain_text":
        return _metric(results, key, _FLUENCY, None)
    known = {result_key(name, p): (name, p) for name in BENCHMARKS for p in protocols(name)}
    if key in known:
        return _metric(results, key, *next(iter(formulas(*known[key]).headline.items())))
    return _metric(results, key, results.loc[results["benchmark"].eq(key), "metric"].iloc[0], None)


def _metric(results: pd.DataFrame, key: str, name: str, best: float | None) -> _Metric:
    rows = results.loc[results["benchmark"].eq(key) & results["metric"].eq(name)]
    base, cases = (rows.loc[rows["difference"].isna() == own] for own in (True, False))
    if len(base) != 1 or cases.empty:
        raise ValueError(
            f"{key} {name} has {len(base)} rows of the base model and {len(cases)} of cases: "
            "expected 1 and at least 1, as in the results of kb_lens.experiments.experiment."
        )
    return _Metric(key, name, best, float(base["value"].iloc[0]), int(base["n"].iloc[0]), cases)


def _rests_on(name: str, settings: Mapping[str, Any]) -> str:
    percent = {key: 100 * settings[key] for key in ("tau", "beta")}
    said = {
        "n_questions": f"{settings['n_questions']} questions",
        **{key: f"{key} {value:.3g} %" for key, value in percent.items()},
        "lam": f"lambda {settings['lam']:g}",
    }
    fixed = [words for key, words in said.items() if key not in _VARIED.get(name, ())]
    return ", ".join([settings["model"], *fixed]) + "."


def _number(value: float, sign: str = "", digits: int = 1) -> str:
    """Rounded, with a true minus and without a negative zero."""
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", MINUS)


# -- panels -----------------------------------------------------------------------------------


def _grids(
    name: str,
    panels: Sequence[tuple[str, _Draw]],
    note: str,
    *,
    height: int = _PANEL,
    apart: float = 0.13,
    title: str = "",
) -> dict[str, go.Figure]:
    """Panels (title, how to draw it) two a row, shared out over as many figures as they need."""
    rows = -(-len(panels) // _COLUMNS)
    parts = -(-rows // max(1, _PAGE // (height + _BELOW))) or 1
    size = _COLUMNS * -(-rows // parts) or 1
    pages = [panels[start : start + size] for start in range(0, len(panels), size)]
    names = [name, *(f"{name}_{number}" for number in range(2, len(pages) + 1))]
    figures = (_grid(page, title or _TITLES[name], note, height, apart) for page in pages)
    return dict(zip(names, figures, strict=False))  # no page, no figure


def _grid(
    panels: Sequence[tuple[str, _Draw]], title: str, note: str, height: int, apart: float
) -> go.Figure:
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    above = _LINE * max(text.count("<br>") + 1 for text, _ in panels) + 6
    room = rows * height + (rows - 1) * (above + _BELOW)
    between = (above + _BELOW) / room if rows > 1 else 0
    figure = make_subplots(rows, columns, horizontal_spacing=apart, vertical_spacing=between)
    for place, (text, draw) in enumerate(panels):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        draw(figure, where)
        head = label(text, x=0, y=1, xanchor="left", yanchor="bottom", align="left")
        figure.add_annotation(**head, xref="x domain", yref="y domain", **where)
    legend = _one_legend(figure)
    top = above + legend * (_LINE + 12)
    finish(figure, title, note, top=top, legend={"y": 1 + above / room}, showlegend=legend)
    margin: Any = figure.layout["margin"]
    return figure.update_layout(height=margin.t + room + margin.b)


def _one_legend(figure: go.Figure) -> bool:
    """Each name once, of the first trace that has it; whether there is any."""
    seen: set[str | None] = {None}
    for trace in figure.data:
        trace.showlegend = trace.name not in seen
        seen.add(trace.name)
    return len(seen) > 1


def _line(x: Any, y: Any, name: str | None = None, **style: Any) -> go.Scatter:
    return go.Scatter(x=list(x), y=list(y), name=name, mode="lines", line=style)


def _band(x: Any, low: Any, high: Any, colour: str, name: str | None = None) -> go.Scatter:
    band = _line([*x, *x[::-1]], [*low, *high[::-1]], name, width=0)
    return band.update(fill="toself", fillcolor=colour, hoverinfo="skip")


def _reach(ends: Iterable[float]) -> tuple[float, float]:
    """From the least to the largest, and a little more."""
    ends = list(ends)
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _difference_axis(
    metric: _Metric, table: pd.DataFrame, figure: go.Figure, axis: str, where: _Where
) -> None:
    """Title and range, a line at no difference and one at the best value if it is in reach."""
    ends = _reach([0, *table["difference_low"].dropna(), *table["difference_high"].dropna()])
    update, line = (
        (figure.update_xaxes, figure.add_vline)
        if axis == "x"
        else (figure.update_yaxes, figure.add_hline)
    )
    zero = {"zeroline": True, "zerolinecolor": GREY, "zerolinewidth": 1.5}
    update(title_text=metric.difference, range=ends, nticks=6, **zero, **where)
    change = np.nan if metric.best is None else metric.best - metric.base
    if ends[0] <= change <= ends[1]:
        line(**{axis: change}, line=_BEST, layer="below", **where)


def _bars(table: pd.DataFrame, colour: str = _BLUE) -> dict[str, Any]:
    value, low, high = (table[f"difference{end}"] for end in ("", "_low", "_high"))
    ends = {"array": high - value, "arrayminus": value - low}
    return {**ends, "color": colour, "thickness": 2, "width": 4}


def _rows_axis(figure: go.Figure, words: Sequence[str], where: _Where) -> None:
    """Names at the left of the first column of panels, the first one on top."""
    ticks = {"tickvals": [*range(len(words))], "ticktext": words, "ticks": ""}
    span = {"range": [len(words) - 0.5, -0.5], "showgrid": False}
    figure.update_yaxes(**ticks, **span, showticklabels=where["col"] == 1, **where)


# -- against a number -------------------------------------------------------------------------


def _factors(name: str, metrics: Sequence[_Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Blue: the value, with the {_PAIRED} of its difference from the base model. Grey: "
        "as many random neurons of like influence, a line a set, and the band from the least to "
        "the largest."
    )
    return _grids(name, [(one.title, partial(_factor_panel, one)) for one in metrics], note)


def _factor_panel(metric: _Metric, figure: go.Figure, where: _Where) -> None:
    cases = metric.cases.sort_values("lam")
    mine, random = (cases.loc[cases["set"].eq("know-bias") == own] for own in (True, False))
    low, high = (metric.base + mine[f"difference_{end}"].to_numpy() for end in ("low", "high"))
    ends = _reach([metric.base, *low, *high, *random["value"]])
    lams = mine["lam"].to_numpy()
    traces = [
        _line(one["lam"], one["value"], color=GREY, width=1) for _, one in random.groupby("set")
    ]
    if traces:
        spread = random.groupby("lam")["value"].agg(["min", "max"]).reset_index()
        lam, low_end, high_end = spread.to_numpy().T
        traces.insert(0, _band(lam, low_end, high_end, _GREY_BAND, "random neurons"))
    traces.append(_band(lams, low, high, _BLUE_BAND))
    traces.append(_line(lams[[0, -1]], [metric.base] * 2, "base model", color=INK, dash="dash"))
    if metric.best is not None and ends[0] <= metric.best <= ends[1]:
        traces.append(_line(lams[[0, -1]], [metric.best] * 2, "best value", **_BEST))
    traces.append(_line(lams, mine["value"], "know-bias neurons", color=_BLUE, width=2.5))
    for trace in traces:
        figure.add_trace(trace, **where)
    figure.update_xaxes(title_text="lambda", nticks=6, showgrid=False, **where)
    figure.update_yaxes(title_text=metric.unit, range=ends, nticks=6, **where)


def _counts(name: str, metrics: Sequence[_Metric], rests: str) -> dict[str, go.Figure]:
    note = (
        f"{rests} Differences from the base model with their {_PAIRED}. Each set of questions "
        "contains the smaller ones. Dotted: the best value, where it is in reach."
    )
    panels = [(one.title, partial(_count_panel, one)) for one in metrics]
    sizes = metrics[0].cases
    return _grids(name, [*panels, ("<b>neurons selected</b>", partial(_size_panel, sizes))], note)


def _count_panel(metric: _Metric, figure: go.Figure, where: _Where) -> None:
    trace = _against_questions(figure, metric.cases, "difference", _BLUE, where)
    figure.add_trace(trace.update(error_y=_bars(metric.cases)), **where)
    _difference_axis(metric, metric.cases, figure, "y", where)


def _size_panel(cases: pd.DataFrame, figure: go.Figure, where: _Where) -> None:
    figure.add_trace(_against_questions(figure, cases, "n_neurons", INK, where), **where)
    figure.update_yaxes(title_text="neurons", rangemode="tozero", nticks=6, **where)


def _against_questions(
    figure: go.Figure, cases: pd.DataFrame, column: str, colour: str, where: _Where
) -> go.Scatter:
    """The points, on a logarithmic axis with as many of the counts as there is room for."""
    counts = cases["n_questions"].astype(int).tolist()
    shown: list[int] = []
    for count in sorted(counts):
        shown += [count] if not shown or count > 1.6 * shown[-1] else []
    ticks = {"tickvals": shown, "ticktext": [*map(str, shown)], "showgrid": False}
    figure.update_xaxes(title_text="questions", type="log", **ticks, **where)
    line = _line(counts, cases[column], color=GREY, width=1)
    return line.update(mode="lines+markers", marker={"size": 8, "color": colour})


# -- heatmaps ---------------------------------------------------------------------------------


def _thresholds(name: str, metrics: Sequence[_Metric], rests: str) -> dict[str, go.Figure]:
    sizes = metrics[0].cases.pivot_table("n_neurons", "tau", "beta")
    note = (
        f"{rests} Differences from the base model; blue: lower, orange: higher. Bold and *: the "
        f"{_PAIRED} excludes 0, not corrected for the number of cells."
    )
    panels = [("<b>neurons selected</b><br>colours: logarithm", partial(_sizes, sizes))]
    panels += [(one.title, partial(_changes, one)) for one in metrics]
    return _grids(name, panels, note, height=_CELL * len(sizes), apart=0.1)


def _sizes(sizes: pd.DataFrame, figure: go.Figure, where: _Where) -> None:
    logarithms = sizes.where(sizes > 0).map(np.log10)
    heat = _heat(logarithms, sizes.map("{:.0f}".format), colorscale=SEQUENTIAL)
    figure.add_trace(heat, **where)
    _threshold_axes(figure, sizes, where)


def _changes(metric: _Metric, figure: go.Figure, where: _Where) -> None:
    cases = metric.cases.assign(marked=_excludes_zero(metric.cases))
    value, marked = (cases.pivot_table(c, "tau", "beta") for c in ("difference", "marked"))
    text = value.map(partial(metric.number, sign="+"))
    figure.add_trace(_diverging(value, text, marked.astype(bool)), **where)
    _threshold_axes(figure, value, where)


def _threshold_axes(figure: go.Figure, table: pd.DataFrame, where: _Where) -> None:
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


def _matrix(results: pd.DataFrame, rests: str) -> dict[str, go.Figure]:
    """Source dimension x bias type: how much nearer to the best value, a panel a benchmark."""
    nearer = f"|base {MINUS} best| {MINUS} |value {MINUS} best|"
    note = (
        f"{rests} Points nearer to the best value: {nearer.replace(' ', _GLUE)}. Boxes: the "
        f"neurons' own dimension. In brackets: neurons. Bold and *: the {_PAIRED} excludes 0; "
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
    title = _TITLES["transfer"]
    return _grids("transfer_matrix", panels, note, height=height, apart=0.05, title=title)


def _targets(results: pd.DataFrame, key: str, benchmark: str) -> dict[str, _Metric]:
    """Bias type -> its metric, of the types that the items have."""
    metric, types = _TARGETS[benchmark]
    best = formulas(benchmark, "original").headline[metric]
    there = set(results.loc[results["benchmark"].eq(key), "metric"])
    names = {one: f"{metric}_{one}" for one in types if f"{metric}_{one}" in there}
    return {one: _metric(results, key, name, best) for one, name in names.items()}


def _nearer(targets: Mapping[str, _Metric], figure: go.Figure, where: _Where) -> None:
    value, marked = pd.DataFrame(), pd.DataFrame()
    for target, one in targets.items():
        rows, best = one.cases.set_index("source"), one.best or 0.0
        value[target] = abs(one.base - best) - (rows["value"] - best).abs()
        marked[target] = _excludes_zero(rows) & (best == 100)
    figure.add_trace(_diverging(value, value.map(partial(_number, sign="+")), marked), **where)
    for x, y in np.ndindex(value.shape[::-1]):
        if value.columns[x].removesuffix("-color") == value.index[y]:
            box = {"x0": x - 0.47, "x1": x + 0.47, "y0": y - 0.47, "y1": y + 0.47}
            figure.add_shape(type="rect", **box, line_color=INK, **where)
    sizes = next(iter(targets.values())).cases["n_neurons"]
    _rows_axis(figure, [f"{a} ({b:.0f})" for a, b in zip(value.index, sizes, strict=True)], where)
    heads = [f"{target}<br>n = {one.n}" for target, one in targets.items()]
    figure.update_xaxes(tickvals=[*range(len(heads))], ticktext=heads, showgrid=False, **where)


# -- rows beside one another ------------------------------------------------------------------


def _forest(name: str, metrics: Sequence[_Metric], rests: str) -> dict[str, go.Figure]:
    tables = [_rows(one.cases, _ROWS[name]) for one in metrics]
    every = pd.concat(tables)
    every = every[~every.index.duplicated()]
    words = ["<br>".join(textwrap.wrap(w, 32, break_on_hyphens=False)) for w in every["label"]]
    note = f"{rests} Points: difference from the base model; lines: its {_PAIRED}."
    note += " In brackets: neurons. Dotted: the best value, where it is in reach."
    if True in every["random"].tolist():
        note += " Grey: random neurons, the mean of the sets and their 2.5 to 97.5 percentiles."
    panels = [
        (one.title, partial(_forest_panel, one, table.reindex(every.index), words))
        for one, table in zip(metrics, tables, strict=True)
    ]
    height = len(words) * (36 if any("<br>" in text for text in words) else 22) + 10
    return _grids(name, panels, note, height=height, apart=0.05)


def _rows(cases: pd.DataFrame, template: str) -> pd.DataFrame:
    """A row a case, and one for all random sets of a kind, whose names end in a number."""
    names = [template.format(**row).replace("_", " ") for row in cases.to_dict("records")]
    rows = [re.sub(r"^(random.*?),? \d+$", r"\1", name) for name in names]
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
        "label": f"{name} ({', '.join(size).replace(' ', _GLUE)})" if size else name,
        "random": random,
        "difference": group["difference"].mean(),
        "difference_low": low,
        "difference_high": high,
    }


def _forest_panel(
    metric: _Metric, table: pd.DataFrame, words: Sequence[str], figure: go.Figure, where: _Where
) -> None:
    table = table.assign(place=range(len(table)))
    for random, part in table.dropna().groupby("random"):
        colour, symbol = (GREY, "square") if random else (_BLUE, "circle")
        marker = {"size": 9, "color": colour, "symbol": symbol}
        points = go.Scatter(x=part["difference"], y=part["place"], mode="markers", marker=marker)
        figure.add_trace(points.update(error_x=_bars(part, colour)), **where)
    _difference_axis(metric, table, figure, "x", where)
    for place in table.loc[table["label"].isna(), "place"]:
        text = label("not measured", x=0.5, y=place, font={"size": SMALL, "color": GREY})
        figure.add_annotation(**text, xref="x domain", bgcolor="white", **where)
    _rows_axis(figure, words, where)
