"""Is what a method does more than what random neurons do?

An interval over items says whether an effect is there, not whether it needs these neurons: whatever
perturbs a model moves its scores. So the same is done with many random sets, and the method's
effect is placed among theirs. And since a stronger perturbation moves more, a control may need
another factor to do the same damage to the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.evaluation.comparison import gain, headline
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.statistics import Metric, interval

DAMAGE = {"stereoset": ("lms", "logprob_per_token"), "plain_text": ("logprob_per_token",)}
"""Benchmark -> the metrics that say what became of the language model."""

Results = Mapping[str, EvaluationResult]
"""Benchmark's key -> result."""

_FEW = 100
"""Resamples where only the value is of interest."""


@dataclass(frozen=True, eq=False)
class ControlTest:
    """A method's effect among those of its random controls."""

    key: str
    """The benchmark."""
    metric: str
    """What the effect is measured by."""
    effect: Metric
    """How much nearer the metric came to its best value, with its paired 95 % interval."""
    controls: Float[np.ndarray, " control"]
    """The same number of each control."""

    def __post_init__(self) -> None:
        if not len(self.controls):
            raise ValueError("no controls: give at least one; 19 can reach p = 0.05.")

    @property
    def n_controls(self) -> int:
        """How many controls there are."""
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
    def p(self) -> float:
        """One-sided: how often a set as good as this one would be drawn.

        If the method's neurons were one more random draw, each of the effects, its own among them,
        would be as likely the largest. So the method counts as one of the draws: (1 + controls
        that do at least as much) / (1 + controls).

        Source: Phipson and Smyth, Permutation p-values should never be zero (2010).
        """
        as_good = self.controls >= self.effect.value - 1e-9
        return (1 + int(as_good.sum())) / (1 + self.n_controls)

    @property
    def least_p(self) -> float:
        """The smallest p that so many controls can give."""
        return 1 / (1 + self.n_controls)


def control_test(
    base: EvaluationResult,
    method: EvaluationResult,
    controls: Sequence[EvaluationResult],
    metric: str | None = None,
    *,
    seed: int = 0,
) -> ControlTest:
    """Place a method's effect among those of random controls.

    Args:
        base: The model as it is.
        method: The model under the method, on the same items.
        controls: The same with random neurons in place of the method's, a draw each.
        metric: What the effect is measured by; default the benchmark's first headline metric.
        seed: Of the bootstrap.

    Raises:
        ValueError: For no controls, other items, or a metric without a best value.
    """
    metric = headline(base)[0] if metric is None else metric
    effects = _effects(base, controls, metric)
    return ControlTest(base.key, metric, gain(base, method, metric, seed=seed), effects)


def _effects(
    base: EvaluationResult, controls: Sequence[EvaluationResult], metric: str
) -> Float[np.ndarray, " control"]:
    return np.array([gain(base, one, metric, n_bootstrap=_FEW).value for one in controls])


def control_table(
    base: Sequence[EvaluationResult],
    methods: Mapping[str, Sequence[EvaluationResult]],
    controls: Mapping[str, Sequence[EvaluationResult]],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Every method's effects among those of the controls, and what both cost the language model.

    The p-values are not corrected for the number of rows.

    Args:
        base: The base model's results, one a benchmark.
        methods: Method -> its results on these benchmarks.
        controls: Control (a random draw) -> its results on these benchmarks.
        seed: Of the bootstraps.

    Returns:
        One row a benchmark, headline metric that has a best value, and method: benchmark, metric,
        method, gain, low, high, control_mean, control_low, control_high (middle 95 %), p,
        n_controls; and for every measure of `DAMAGE` that there is the mean change under the
        method and under the controls: ``<key> <metric> change`` and ``<key> <metric> control
        change``.

    Raises:
        ValueError: As `control_test`, or if a method or control lacks a benchmark.
    """
    if not (base and methods and controls):
        raise ValueError("base, methods and controls need at least one result each.")
    own = {one.key: one for one in base}
    found = {name: _by_key(own, name, several) for name, several in methods.items()}
    drawn = [_by_key(own, name, several) for name, several in controls.items()]
    damage = {name: _damage(own, results, drawn) for name, results in found.items()}
    rows = []
    for key, one in own.items():
        for metric in _judged(one):
            effects = _effects(one, [control[key] for control in drawn], metric)
            for name, results in found.items():
                effect = gain(one, results[key], metric, seed=seed)
                place = _place(ControlTest(key, metric, effect, effects))
                rows.append(
                    {"benchmark": key, "metric": metric, "method": name, **place, **damage[name]}
                )
    return pd.DataFrame(rows)


def _by_key(
    base: Results, name: str, several: Sequence[EvaluationResult]
) -> dict[str, EvaluationResult]:
    found = {one.key: one for one in several}
    if lacking := [key for key in base if key not in found]:
        raise ValueError(
            f"{name!r} has no result of {lacking[0]}, which the base model has: measure it, or "
            "leave it out of the base model's results."
        )
    return found


def _judged(result: EvaluationResult) -> list[str]:
    """The headline metrics that have a best value."""
    judged = formulas(result.benchmark, result.protocol).judged
    return [metric for metric in headline(result) if metric in judged]


def _place(test: ControlTest) -> dict[str, float]:
    low, high = test.control_interval
    return {
        "gain": test.effect.value,
        "low": test.effect.low,
        "high": test.effect.high,
        "n": test.effect.n,
        "control_mean": test.control_mean,
        "control_low": low,
        "control_high": high,
        "p": test.p,
        "n_controls": test.n_controls,
    }


def _damage(base: Results, method: Results, controls: Sequence[Results]) -> dict[str, float]:
    """The change of every measure of damage, under the method and on average under the controls."""
    row: dict[str, float] = {}
    for key, one in base.items():
        for metric in DAMAGE.get(one.benchmark, ()):
            before = one.metrics[metric].value
            after = [control[key].metrics[metric].value for control in controls]
            row[f"{key} {metric} change"] = method[key].metrics[metric].value - before
            row[f"{key} {metric} control change"] = float(np.mean(after)) - before
    return row


def saved_tests(tables: Mapping[str, pd.DataFrame], method: str) -> dict[str, ControlTest]:
    """The tests of one method again, from a study's tables ``results`` and ``control_tests``.

    Args:
        tables: What `kb_lens.studies.experiments.Experiment` holds.
        method: The method's name.

    Returns:
        ``<benchmark>, <kind of control>`` -> its test, by each benchmark's first headline metric.
    """
    results, found = tables["results"], {}
    for row in tables["control_tests"].query("method == @method").to_dict("records"):
        key, metric, kind = str(row["benchmark"]), str(row["metric"]), str(row["control"])
        best = _best(key, metric)
        if best is None:
            continue
        here = results.query("benchmark == @key and metric == @metric")
        values = here["value"].to_numpy(float)
        distance = np.abs(values - best)
        base = distance[here["difference"].isna().to_numpy()][0]
        effects = base - distance[(here["control"] == kind).to_numpy()]
        effect = Metric(row["gain"], row["low"], row["high"], n=int(row["n"]))
        found[f"{key}, {kind}"] = ControlTest(key, metric, effect, effects)
    return found


def _best(key: str, metric: str) -> float | None:
    """The best value of a metric, by its result's key, if it is the benchmark's first."""
    named = named_by(key)
    if named is None:
        return None
    definition = formulas(*named)
    return definition.describe(metric).best if metric == definition.headline[0] else None


@dataclass(frozen=True)
class Matched:
    """The factor at which a control does the damage that it was to do, or comes nearest to it."""

    lam: float
    """The factor."""
    damage: float
    """What it does there."""
    reached: bool
    """Whether that is the target, up to the tolerance."""


def matched_factor(
    damage: Callable[[float], float],
    target: float,
    *,
    low: float = 1.0,
    high: float = 16.0,
    tol: float = 0.02,
    max_steps: int = 12,
) -> Matched:
    """The factor at which a control does as much damage as a method, for a fair comparison.

    From `low` the factor is doubled until the damage is beyond the target, then the bracket is
    bisected (by ratio): so the first crossing is found, also where a small factor does a little
    good at first. A target that even `high` does not reach, or that `low` is beyond already, is
    not reached: the result is the factor that came nearest.

    Args:
        damage: Factor -> change of the mean log-probability a token: negative, and falling for
            large factors.
        target: What it is to be.
        low: The smallest factor, above 0.
        high: The largest factor.
        tol: How near to the target is near enough, as a share of it.
        max_steps: Calls of `damage` at most.

    Raises:
        ValueError: For bad arguments, or a damage that is not finite.
    """
    if not (0 < low < high < math.inf and tol > 0 and max_steps >= 1 and math.isfinite(target)):
        raise ValueError(
            f"got target {target}, low {low}, high {high}, tol {tol}, max_steps {max_steps}: "
            "needed are a finite target, 0 < low < high, tol above 0 and at least 1 step."
        )
    tried: dict[float, float] = {}
    weak, strong, lam = low, math.inf, low
    while len(tried) < max_steps:
        tried[lam] = found = damage(lam)
        if not math.isfinite(found):
            raise ValueError(f"the damage at factor {lam:g} is {found}: give a smaller high.")
        weak, strong = (lam, strong) if found > target else (weak, lam)
        if abs(found - target) <= tol * abs(target) or strong <= low or weak >= high:
            break
        lam = min(2 * weak, high) if math.isinf(strong) else math.sqrt(weak * strong)
    nearest = min(tried, key=lambda one: abs(tried[one] - target))
    reached = abs(tried[nearest] - target) <= tol * abs(target)
    return Matched(nearest, tried[nearest], reached)
