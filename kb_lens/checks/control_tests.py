"""Is what a method does more than what random neurons do?

An interval over items says whether there is an effect, not whether it needs these neurons: any
perturbation of a model moves its scores. So the same is done with many random sets of neurons, and
the method's effect is ranked among theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.evaluation.comparison import gain, headline
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import interval
from kb_lens.statistics import Metric

Results = Mapping[str, EvaluationResult]
"""Benchmark's key -> result."""

# a control's own interval is not used: few resamples save nearly all of the time
_FEW = 100
"""Resamples where only the value is used."""
# the smallest p of 19 draws is 0.05: a single draw decides, and no p is left after correction
ENOUGH_DRAWS = 99
"""Random draws that a p needs; the smallest possible p is then 0.01."""
NO_P = (
    f"No p with fewer than {ENOUGH_DRAWS} random draws: the rank is the effect's place among them, "
    "1 is the largest."
)
"""The note for a missing p."""


@dataclass(frozen=True, eq=False)
class ControlTest:
    """A method's effect among those of its random controls."""

    key: str
    """The benchmark."""
    metric: str
    """The metric that measures the effect."""
    effect: Metric
    """How much nearer the metric came to its best value, with its paired 95 % interval."""
    controls: Float[np.ndarray, " control"]
    """The same number for each control."""
    q: float = math.nan
    """The false discovery rate among all tests of its table, see `false_discovery_rates`; NaN for
    a single test."""

    def __post_init__(self) -> None:
        if not len(self.controls):
            raise ValueError(f"no controls: give at least one; a p needs {ENOUGH_DRAWS}.")

    @property
    def n_controls(self) -> int:
        """The number of controls."""
        return len(self.controls)

    @property
    def control_mean(self) -> float:
        """Mean effect of the controls."""
        return float(self.controls.mean())

    @property
    def control_interval(self) -> tuple[float, float]:
        """The middle 95 % of the controls' effects."""
        return interval(self.controls)

    @property
    def rank(self) -> int:
        """The effect's rank among the controls' effects; 1 is the largest, ties rank above it."""
        as_good = self.controls >= self.effect.value - 1e-9  # equal up to rounding
        return 1 + int(as_good.sum())

    @property
    def p(self) -> float:
        """The one-sided permutation p; NaN for fewer than `ENOUGH_DRAWS` controls.

        (1 + controls that do at least as much) / (1 + controls): under the null hypothesis the
        method's neurons are one more random draw, so the method counts as one of the draws.

        Source: Phipson and Smyth, Permutation p-values should never be zero (2010).
        """
        if self.n_controls < ENOUGH_DRAWS:
            return math.nan
        return self.rank / (1 + self.n_controls)


def false_discovery_rates(p: Sequence[float]) -> Float[np.ndarray, " test"]:
    """Each p's q: the false discovery rate if every p up to this one is called a discovery.

    The family is every p that is given; a missing one (NaN) is not counted and stays missing.
    It holds for tests that are independent or positively dependent.

    Args:
        p: The p of every test of a table.

    Source: Benjamini and Hochberg, Controlling the false discovery rate (1995).
    """
    # imported here: it takes half a second, which every command would wait for
    from scipy.stats import false_discovery_control

    values = np.asarray(p, dtype=np.float64)
    rates = np.full(len(values), np.nan)
    tested = ~np.isnan(values)
    if tested.any():
        rates[tested] = false_discovery_control(values[tested], method="bh")
    return rates


def control_test(
    base: EvaluationResult,
    method: EvaluationResult,
    controls: Sequence[EvaluationResult],
    metric: str | None = None,
    *,
    seed: int = 0,
) -> ControlTest:
    """Rank a method's effect among those of random controls.

    Args:
        base: The result of the unchanged model.
        method: The result under the method, on the same items.
        controls: The results with random neurons in place of the method's, a draw each.
        metric: The metric of the effect; default the benchmark's first headline metric.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If there are no controls, the items differ, or the metric has no best value.
    """
    metric = headline(base)[0] if metric is None else metric
    effects = _effects(base, controls, metric)
    return ControlTest(base.key, metric, gain(base, method, metric, seed=seed), effects)


def _effects(
    base: EvaluationResult, controls: Sequence[EvaluationResult], metric: str
) -> Float[np.ndarray, " control"]:
    gains = [gain(base, control, metric, n_bootstrap=_FEW) for control in controls]
    return np.array([effect.value for effect in gains])


def control_table(
    base: Sequence[EvaluationResult],
    methods: Mapping[str, Sequence[EvaluationResult]],
    controls: Mapping[str, Sequence[EvaluationResult]],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Every method's effects among those of the controls, and the damage of both.

    p is not corrected for the number of rows; q is the false discovery rate over all rows with a p.
    Both are missing for fewer than `ENOUGH_DRAWS` controls.

    Args:
        base: The base model's results, one per benchmark.
        methods: Method -> its results on these benchmarks.
        controls: Control (a random draw) -> its results on these benchmarks.
        seed: Seed of the bootstraps.

    Returns:
        One row per benchmark, headline metric that has a best value, and method: benchmark, metric,
        method, gain, low, high, n, clusters, control_mean, control_low, control_high (middle
        95 %), rank (among the method and its controls, 1 the largest gain), p, q, n_controls; and
        for every headline metric of role damage or ability the change under the method, and its
        mean under the controls: ``<key> <metric> change`` and ``<key> <metric> control change``.

    Raises:
        ValueError: As `control_test`, or if a method or control lacks a benchmark.
    """
    if not (base and methods and controls):
        raise ValueError("base, methods and controls need at least one result each.")
    by_key = {result.key: result for result in base}
    measured = {name: _by_key(by_key, name, results) for name, results in methods.items()}
    draws = [_by_key(by_key, name, results) for name, results in controls.items()]
    costs = {name: _costs(by_key, results, draws) for name, results in measured.items()}
    rows: list[dict[str, Any]] = []
    for key, before in by_key.items():
        for metric in _present(before, formulas(before.benchmark, before.protocol).judged):
            # the controls' effects do not depend on the method
            effects = _effects(before, [draw[key] for draw in draws], metric)
            for name, results in measured.items():
                effect = gain(before, results[key], metric, seed=seed)
                row = {"benchmark": key, "metric": metric, "method": name}
                rows.append(row | _numbers(ControlTest(key, metric, effect, effects)) | costs[name])
    return with_rates(pd.DataFrame(rows))


def with_rates(tests: pd.DataFrame) -> pd.DataFrame:
    """A table of tests with its column q computed again, over all of its rows that have a p."""
    # a table without rows has no columns: no metric has a best value
    return tests.assign(q=false_discovery_rates(tests["p"].tolist())) if len(tests) else tests


def _by_key(
    base: Results, name: str, results: Sequence[EvaluationResult]
) -> dict[str, EvaluationResult]:
    by_key = {result.key: result for result in results}
    if lacking := [key for key in base if key not in by_key]:
        raise ValueError(
            f"{name!r} has no result of {lacking[0]}, which the base model has: measure it, or "
            "leave it out of the base model's results."
        )
    return by_key


def _present(result: EvaluationResult, metrics: Sequence[str]) -> list[str]:
    """The metrics that a result has; few items may lack a whole group."""
    return [metric for metric in metrics if metric in result.metrics]


def _numbers(test: ControlTest) -> dict[str, float | None]:
    low, high = test.control_interval
    return {
        "gain": test.effect.value,
        "low": test.effect.low,
        "high": test.effect.high,
        "n": test.effect.n,
        "clusters": test.effect.clusters,
        "control_mean": test.control_mean,
        "control_low": low,
        "control_high": high,
        "rank": test.rank,
        "p": test.p,
        "q": test.q,  # filled in when all rows are there
        "n_controls": test.n_controls,
    }


def _costs(base: Results, method: Results, controls: Sequence[Results]) -> dict[str, float]:
    """The changes of ability and damage, under the method and on average under the controls."""
    row: dict[str, float] = {}
    for key, result in base.items():
        definition = formulas(result.benchmark, result.protocol)
        for metric in _present(result, definition.headline):
            if definition.describe(metric).role not in ("damage", "ability"):
                continue
            before = result.metrics[metric].value
            after = [control[key].metrics[metric].value for control in controls]
            row[f"{key} {metric} change"] = method[key].metrics[metric].value - before
            row[f"{key} {metric} control change"] = float(np.mean(after)) - before
    return row


def saved_tests(tables: Mapping[str, pd.DataFrame], method: str) -> dict[str, ControlTest]:
    """The tests of one method, from a study's tables ``results`` and ``control_tests``.

    Args:
        tables: The tables of a `kb_lens.studies.experiments.Experiment`.
        method: The method's name.

    Returns:
        ``<benchmark>, <kind of control>`` -> the test of the benchmark's first headline metric.
    """
    results = tables["results"]
    tests: dict[str, ControlTest] = {}
    for row in tables["control_tests"].query("method == @method").to_dict("records"):
        key, metric, kind = str(row["benchmark"]), str(row["metric"]), str(row["control"])
        best = _best(key, metric)
        if best is None:
            continue
        measured = results.query("benchmark == @key and metric == @metric")
        distance = np.abs(measured["value"].to_numpy(float) - best)
        # one row: the unchanged model, measured once
        base = distance[measured["role"] == "base"][0]
        effects = base - distance[measured["control"] == kind]
        effect = Metric(row["gain"], row["low"], row["high"], n=int(row["n"]))
        q = row.get("q", math.nan)  # older tables have none
        tests[f"{key}, {kind}"] = ControlTest(key, metric, effect, effects, q)
    return tests


def _best(key: str, metric: str) -> float | None:
    """The best value of a metric if it is the benchmark's first; `key` is its result's key."""
    benchmark = named_by(key)
    if benchmark is None:
        return None
    definition = formulas(*benchmark)
    # a figure shows one test per benchmark: that of the metric that ranks methods
    return definition.describe(metric).best if metric == definition.headline[0] else None
