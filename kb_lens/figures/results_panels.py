"""The metrics that a forest plot shows, and the numbers beside their points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from kb_lens.arguments import nearest
from kb_lens.benchmarks.catalogue import SPECS, formulas
from kb_lens.benchmarks.titles import benchmark_title, metric_title
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.figures.style import value_and_interval
from kb_lens.intervals import count_text
from kb_lens.statistics import Formulas, Metric, MetricInfo

Key = tuple[str, str]
"""A result's key (the benchmark, with its protocol if not the original) and a metric."""
_MAX_JUDGED, _MAX_UNKNOWN = 3, 6
"""Default number of panels: of a benchmark in the catalogue, of a benchmark of the caller's own."""
_NATS = "nats a token"
"""The unit of log-probabilities; their changes show in the second decimal."""


@dataclass(frozen=True)
class Panel:
    """One metric of one benchmark."""

    key: Key
    """The benchmark and the metric."""
    values: Mapping[str, Metric | None]
    """Condition -> the metric; None where it was not measured."""
    differences: Mapping[str, Metric | None]
    """Condition -> its paired difference from the first; None where there is none."""
    info: MetricInfo | None
    """What the metric is; None if no benchmark of the catalogue has it."""

    @property
    def measured(self) -> list[Metric]:
        """The metric under the conditions that have it."""
        return [metric for metric in self.values.values() if metric is not None]

    @property
    def unit(self) -> str:
        """The unit of the values."""
        return "points" if self.info is None else self.info.unit

    @property
    def ideal(self) -> float | None:
        """The best value, if the panel has a line for it."""
        # No model has all answers right: a line at 100 % would only shrink the rest.
        if self.info is None or (self.info.unit == "%" and self.info.best == 100):
            return None
        return self.info.best

    @property
    def best_difference(self) -> float | None:
        """The difference between the ideal and the first condition."""
        first = next(iter(self.values.values()))
        return None if self.ideal is None or first is None else self.ideal - first.value

    @property
    def title(self) -> str:
        """The metric's name, what it is, its best value and its number of items."""
        benchmark, metric = self.key
        counts = sorted({(metric.n, metric.clusters) for metric in self.measured})
        n = count_text(*counts[0]) if len(counts) == 1 else f"{counts[0][0]} to {counts[-1][0]}"
        facts = [] if self.info is None else [self.info.label]
        facts += [] if self.ideal is None else [f"best {self.ideal:g}"]
        name = f"<b>{benchmark_title(benchmark)}: {metric_title(metric)}</b>, n = {n}"
        return "<br>".join([name, "; ".join(facts)])

    def number(self, metric: Metric | None, sign: str = "") -> str:
        """The text beside a row."""
        if metric is None:
            return "not measured"
        digits = 2 if self.unit == _NATS else 1
        return value_and_interval(metric.value, metric.low, metric.high, f"{sign}.{digits}f")

    def difference_text(self, condition: str) -> str:
        """The text beside a row of differences."""
        change = self.differences[condition]
        if change is not None:
            return self.number(change, "+z")
        is_first = condition == next(iter(self.values))
        return "" if is_first or self.values[condition] is None else "on other items"

    def reach(self) -> list[float]:
        """Every finite number that the axis of values must show."""
        ends = [end for metric in self.measured for end in (metric.value, metric.low, metric.high)]
        if self.ideal is not None:
            ends.append(self.ideal)
        return [end for end in ends if np.isfinite(end)]

    def reach_of_differences(self) -> list[float]:
        """Every finite number that the axis of differences must show, 0 included."""
        changes = [change for change in self.differences.values() if change is not None]
        ends = [end for change in changes for end in (change.value, change.low, change.high)]
        return [0.0, *(end for end in ends if np.isfinite(end))]


def collect(
    results: Mapping[str, Sequence[EvaluationResult]],
    metrics: Iterable[Key | str] | None,
    n_bootstrap: int,
    seed: int,
) -> list[Panel]:
    """The panels of `metrics`, or of the headline metrics.

    Raises:
        ValueError: As `kb_lens.figures.before_after`.
    """
    conditions = _collect(results)
    judges = _judges(results)
    available = list(dict.fromkeys(key for values in conditions.values() for key in values))
    keys = _headline(available, judges) if metrics is None else _checked(metrics, available)
    changes = _changes(results, {benchmark for benchmark, _ in keys}, n_bootstrap, seed)
    return [_panel(key, conditions, changes, judges) for key in keys]


def _changes(
    results: Mapping[str, Sequence[EvaluationResult]],
    benchmarks: set[str],
    n_bootstrap: int,
    seed: int,
) -> dict[str, dict[Key, Metric]]:
    """Condition -> its paired differences from the first condition."""
    base, *others = [
        {result.key: result for result in measured if result.key in benchmarks}
        for measured in results.values()
    ]
    changes: dict[str, dict[Key, Metric]] = {}
    for name, measured in zip(list(results)[1:], others, strict=True):
        changes[name] = {}
        for key in base.keys() & measured.keys():
            changes[name] |= _differences(base[key], measured[key], n_bootstrap, seed)
    return changes


def _differences(
    base: EvaluationResult, other: EvaluationResult, n_bootstrap: int, seed: int
) -> dict[Key, Metric]:
    """Every metric's difference; empty for other items or a benchmark without formulas."""
    if set(base.items["item"]) != set(other.items["item"]) or base.benchmark not in SPECS:
        return {}
    table = compare(base, other, n_bootstrap=n_bootstrap, seed=seed)
    columns = ["difference", "low", "high", "n", "clusters"]
    rows = table.set_index("metric")[columns].itertuples(name=None)
    return {(base.key, name): Metric(*numbers) for name, *numbers in rows}


def _collect(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, dict[Key, Metric]]:
    """Condition -> its metrics of all benchmarks."""
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
    """Result's key -> the formulas of its metrics, for benchmarks that have formulas."""
    judges: dict[str, Formulas] = {}
    for result in chain.from_iterable(results.values()):
        if result.benchmark in SPECS:  # or one of the caller's own
            judges[result.key] = formulas(result.benchmark, result.protocol)
    return judges


def _headline(available: Sequence[Key], judges: Mapping[str, Formulas]) -> list[Key]:
    """The metrics to show by default."""
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
    # no headline metric was measured: show whatever was
    return chosen + fluency[:1] or list(available[:_MAX_UNKNOWN])


def _checked(metrics: Iterable[Key | str], available: Sequence[Key]) -> list[Key]:
    """The requested metrics, after a check that they were measured."""
    names = {".".join(key): key for key in available}
    keys: list[Any] = [names.get(key, key) if isinstance(key, str) else key for key in metrics]
    for key in keys:
        if key not in available:
            name = ".".join(map(str, key)) if isinstance(key, tuple) else str(key)
            raise ValueError(
                f"no condition has the metric {name!r}: there are {nearest(name, list(names))}."
            )
    if not keys:
        raise ValueError("metrics is empty: name one as BENCHMARK.METRIC, or give None.")
    return keys


def _panel(
    key: Key,
    conditions: Mapping[str, Mapping[Key, Metric]],
    changes: Mapping[str, Mapping[Key, Metric]],
    judges: Mapping[str, Formulas],
) -> Panel:
    benchmark, metric = key
    info = None
    if benchmark in judges:
        try:
            info = judges[benchmark].describe(metric)
        except ValueError:
            info = None  # a result saved by another version may have a metric unknown to this one
    values = {name: metrics.get(key) for name, metrics in conditions.items()}
    differences = {name: changes.get(name, {}).get(key) for name in conditions}
    return Panel(key, values, differences, info)
