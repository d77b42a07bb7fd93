"""Figure of the last step: what the intervention changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.benchmarks.catalogue import SPECS, formulas
from kb_lens.evaluation.results import EvaluationResult, conditions_of
from kb_lens.figures.layout import ROW, Stack, padded_range
from kb_lens.figures.marks import error_bars, interval_hover, panel_title, rows_axis
from kb_lens.figures.style import COLOURS, GREY, colours, finish, label, value_and_interval
from kb_lens.intervals import count_text
from kb_lens.statistics import Formulas, Metric, MetricInfo

Key = tuple[str, str]
"""A result's key (the benchmark, with its protocol if not the original) and a metric."""
_MAX_JUDGED, _MAX_UNKNOWN = 3, 6
"""Panels of a benchmark that nobody chose: of one in the catalogue, of a caller's own."""
# Below a panel stand its axis and the next one's title of two lines.
_BETWEEN = 102
"""Pixels between panels."""
_NATS = "nats a token"
"""The unit of plain fluency; its changes show in the second decimal."""


@dataclass(frozen=True)
class _Panel:
    """One metric of one benchmark."""

    key: Key
    """What is shown."""

    values: Mapping[str, Metric | None]
    """Condition -> the metric; None where it was not measured."""

    info: MetricInfo | None
    """What the metric is; None for one that no benchmark of the catalogue has."""

    @property
    def measured(self) -> list[Metric]:
        """The metric under the conditions that have it."""
        return [metric for metric in self.values.values() if metric is not None]

    @property
    def ideal(self) -> float | None:
        """The best value, where it is worth a line."""
        # nobody expects all answers to be right: the line would only shrink what is there
        if self.info is None or (self.info.unit == "%" and self.info.best == 100):
            return None
        return self.info.best

    @property
    def title(self) -> str:
        """The metric; its ideal and its number of items."""
        benchmark, metric = self.key
        counts = sorted({(metric.n, metric.clusters) for metric in self.measured})
        n = count_text(*counts[0]) if len(counts) == 1 else f"{counts[0][0]} to {counts[-1][0]}"
        ideal = "" if self.ideal is None else f"ideal {self.ideal:g}, "
        return f"<b>{benchmark} {metric}</b><br>{ideal}n = {n}"

    def number(self, metric: Metric | None) -> str:
        """What is written beside a row."""
        if metric is None:
            return "not measured"
        spec = ".2f" if self.info and self.info.unit == _NATS else ".1f"
        return value_and_interval(metric.value, metric.low, metric.high, spec)

    def reach(self) -> list[float]:
        """Every finite number that the axis has to hold."""
        ends = [end for metric in self.measured for end in (metric.value, metric.low, metric.high)]
        if self.ideal is not None:
            ends.append(self.ideal)
        return [end for end in ends if np.isfinite(end)]


def before_after(
    results: Mapping[str, Sequence[EvaluationResult]], *, metrics: Iterable[Key] | None = None
) -> go.Figure:
    """Each metric under each condition with its interval: a forest plot.

    Args:
        results: Condition (``base``, ``lambda 2``, ``random control``) -> its results, one a
            benchmark. A condition that lacks a metric has an empty row there.
        metrics: (result's key, metric) pairs, a panel each; default the first headline metrics
            there, the mean log-probability a token of the first benchmark that has it, and the
            first metrics of a benchmark of your own.

    Raises:
        ValueError: For no results, a benchmark twice in a condition or a
            metric that no condition has.
    """
    conditions = _collect(results)
    judges = _judges(results)
    available = list(dict.fromkeys(key for values in conditions.values() for key in values))
    keys = _headline(available, judges) if metrics is None else _checked(metrics, available)
    panels = [_panel(key, conditions, judges) for key in keys]
    stack = Stack(len(panels), ROW * len(conditions), _BETWEEN)
    figure = make_subplots(rows=stack.n, vertical_spacing=stack.spacing)
    palette = _palette(results)
    for row, panel in enumerate(panels, 1):
        _draw(figure, row, panel, palette)
    models = sorted({result.model for result in chain.from_iterable(results.values())})
    dotted = " Dotted: the ideal." if any(panel.ideal is not None for panel in panels) else ""
    return finish(
        figure,
        "What the intervention changes",
        f"{', '.join(models)}. Points: the metric; lines: its 95 % bootstrap interval over n "
        f"items.{dotted}",
        height=stack.plot + 178,
        top=46,
        margin={"r": 165, "b": 60},
        showlegend=False,
    )


def _collect(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, dict[Key, Metric]]:
    """Condition -> its metrics, all benchmarks' together."""
    if not results or not any(results.values()):
        raise ValueError("no results: give at least one condition with one EvaluationResult.")
    conditions: dict[str, dict[Key, Metric]] = {}
    for condition, measured in results.items():
        names = [result.key for result in measured]
        if len(set(names)) < len(names):
            raise ValueError(f"{condition!r} has a benchmark twice: {', '.join(names)}.")
        metrics = conditions[condition] = {}
        for result in measured:
            metrics |= {(result.key, name): metric for name, metric in result.metrics.items()}
    return conditions


def _judges(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, Formulas]:
    """Result's key -> the formulas that say what its metrics are, of benchmarks that have them."""
    judges: dict[str, Formulas] = {}
    for result in chain.from_iterable(results.values()):
        if result.benchmark in SPECS:  # or one of the caller's own
            judges[result.key] = formulas(result.benchmark, result.protocol)
    return judges


def _headline(available: Sequence[Key], judges: Mapping[str, Formulas]) -> list[Key]:
    """What to look at first, where nobody says it."""
    chosen: list[Key] = []
    fluency: list[Key] = []
    for benchmark in dict.fromkeys(benchmark for benchmark, _ in available):
        judge = judges.get(benchmark)
        if judge is None:
            chosen += [key for key in available if key[0] == benchmark][:_MAX_UNKNOWN]
            continue
        headline = [name for name in judge.headline if (benchmark, name) in available]
        judged = [name for name in headline if name in judge.judged]
        chosen += [(benchmark, name) for name in judged[:_MAX_JUDGED]]
        in_nats = [name for name in headline if judge.describe(name).unit == _NATS]
        fluency += [(benchmark, name) for name in in_nats]
    # no headline metric was measured: whatever was
    return chosen + fluency[:1] or list(available[:_MAX_UNKNOWN])


def _checked(metrics: Iterable[Key], available: Sequence[Key]) -> list[Key]:
    """The metrics that were asked for, after a check that they were measured."""
    keys = list(metrics)
    for key in keys:
        if key not in available:
            raise ValueError(
                f"no condition has the metric {key!r}: allowed are (benchmark, metric) pairs out "
                f"of {', '.join(map(repr, available))}."
            )
    if not keys:
        raise ValueError("metrics is empty: name a (benchmark, metric) pair, or give None.")
    return keys


def _panel(
    key: Key, conditions: Mapping[str, Mapping[Key, Metric]], judges: Mapping[str, Formulas]
) -> _Panel:
    benchmark, metric = key
    info = None
    if benchmark in judges:
        try:
            info = judges[benchmark].describe(metric)
        except ValueError:
            info = None  # a saved result of another version has a metric that this one has not
    values = {name: metrics.get(key) for name, metrics in conditions.items()}
    return _Panel(key, values, info)


def _palette(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, str]:
    """Condition -> its colour: black for the base model."""
    infos = conditions_of(results)
    changed = [name for name, info in infos.items() if info.role != "base"]
    palette = dict.fromkeys(infos, COLOURS[-1])
    return palette | dict(zip(changed, colours(len(changed)), strict=True))


def _draw(figure: go.Figure, row: int, panel: _Panel, palette: Mapping[str, str]) -> None:
    for y, (condition, metric) in enumerate(panel.values.items()):
        if metric is not None:
            figure.add_trace(_marker(condition, y, metric, palette[condition]), row, 1)
        position = {"x": 1.01, "xref": "x domain", "xanchor": "left", "y": y}
        number = label(panel.number(metric), **position)
        figure.add_annotation(**number, row=row, col=1)
    axis_title = panel.key[1] if panel.info is None else panel.info.label
    span = padded_range(panel.reach(), 0.06)
    figure.update_xaxes(title_text=axis_title, range=span, nticks=8, row=row, col=1)
    figure.update_yaxes(**rows_axis(list(panel.values)), row=row, col=1)
    if panel.ideal is not None:
        dotted = {"color": GREY, "dash": "dot", "width": 2}
        figure.add_vline(x=panel.ideal, line=dotted, row=row, col=1)  # pyright: ignore[reportArgumentType]
    panel_title(figure, panel.title, row)


def _marker(condition: str, y: int, metric: Metric, colour: str) -> go.Scatter:
    marker = go.Scatter(x=[metric.value], y=[y], name=condition, mode="markers")
    marker.update(marker_size=9, marker_color=colour)
    value = np.array([metric.value])
    marker.update(error_x=error_bars(value, metric.low, metric.high, colour))
    marker.update(customdata=[[metric.low, metric.high, metric.n]])
    return marker.update(hovertemplate=f"{interval_hover('x')}, n = %{{customdata[2]}}")
