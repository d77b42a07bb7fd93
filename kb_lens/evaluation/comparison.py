"""Compare measurements: paired differences, directions of flips, ranks.

Two results are compared on the same items, so the variation between items cancels. The number of
items that moved in each direction separates a shift from noise: damage to a model flips items both
ways, which pulls a share towards 50 and looks like less bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from kb_lens.benchmarks.catalogue import formulas
from kb_lens.evaluation.results import EvaluationResult, conditions_of
from kb_lens.intervals import nearness
from kb_lens.statistics import (
    DEFAULT_RESAMPLES,
    Measure,
    Metric,
    Statistics,
    Sums,
    check_resampling,
    flips,
    paired_bootstrap,
    resample,
)


def compare(
    base: EvaluationResult,
    other: EvaluationResult,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How much every metric changed from one result to another on the same items.

    Intervals of differences are paired: each resample draws the same clusters for both results. For
    benchmarks whose items can flip, the last two rows say how many items moved in each direction,
    in
    percent: to the stereotype or the anti-stereotype (``to_stereotype``, ``to_anti_stereotype``),
    or to a right or a wrong answer (``gained``, ``lost``). They separate a shift from noise that
    flips items both ways. The first minus the second is the difference of ss, stereotype_share or
    acc.

    Args:
        base: The result before.
        other: The result after, on the same items in any order.
        n_bootstrap: Resamples for the intervals.
        seed: Of the resampling.

    Returns:
        One row a metric: metric, base, other, difference (other - base), low, high, n, clusters.

    Raises:
        ValueError: If the two are of different benchmarks, protocols or items.
    """
    definition = formulas(base.benchmark, base.protocol)
    before, after = _statistics([base, other])
    changed = paired_bootstrap(
        before, after, definition.metrics, n_bootstrap=n_bootstrap, seed=seed
    )
    if definition.flips is None:
        return changed
    moved = flips(before, after, definition, n_bootstrap=n_bootstrap, seed=seed)
    return pd.concat([changed, moved], ignore_index=True)


def gain(
    base: EvaluationResult,
    other: EvaluationResult,
    metric: str,
    best: float | None = None,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Metric:
    """How much nearer to its best value a metric is in the second result, paired.

    Args:
        base: The result before.
        other: The result after, on the same items in any order.
        metric: One of the benchmark's metrics.
        best: Its best value; default the benchmark's. For a metric with a corner (icat) only its
            upper bound, 100, has an interval.
        n_bootstrap: Resamples for the interval.
        seed: Of the resampling.

    Raises:
        ValueError: If the two cannot be compared, or the metric or its best value is not known.
    """
    definition = formulas(base.benchmark, base.protocol)
    if best is None and metric in base.metrics:
        best = definition.describe(metric).best
    if best is None or metric not in base.metrics:
        raise ValueError(f"{base.key} has no metric {metric!r} with a best value.")
    target = best

    def to_best(sums: Sums) -> dict[str, Measure]:
        return {metric: nearness(definition.metrics(sums)[metric], target)}

    before, after = _statistics([base, other])
    changed = paired_bootstrap(before, after, to_best, n_bootstrap=n_bootstrap, seed=seed)
    row = changed.iloc[0]
    ends = (float(row["low"]), float(row["high"]))
    return Metric(float(row["difference"]), *ends, n=int(row["n"]), clusters=int(row["clusters"]))


def _statistics(results: Sequence[EvaluationResult]) -> list[Statistics]:
    """The statistics of each result, with the items in the order of the first result."""
    first = results[0]
    definition = formulas(first.benchmark, first.protocol)
    return [definition.summarize(_aligned(first, result)) for result in results]


def _aligned(base: EvaluationResult, other: EvaluationResult) -> pd.DataFrame:
    """The other result's item table in the order of the base's."""
    for name in ("benchmark", "protocol"):
        if getattr(base, name) != getattr(other, name):
            raise ValueError(
                f"only results of the same {name} can be compared; got {getattr(base, name)!r} and "
                f"{getattr(other, name)!r}."
            )
    keys, others = set(base.items["item"]), set(other.items["item"])
    if keys != others:
        raise ValueError(
            f"only results on the same items can be compared: {len(keys - others)} of {len(keys)} "
            f"items are only in the first, {len(others - keys)} of {len(others)} only in the "
            "second. Evaluate both with the same limit and seed."
        )
    return other.items.set_index("item").loc[base.items["item"]].reset_index()


def summarize(results: Mapping[str, Sequence[EvaluationResult]], *, seed: int = 0) -> pd.DataFrame:
    """The headline metrics of every condition, and each one's paired difference from the first.

    Args:
        results: Condition -> its results, the base first.
        seed: Of the paired bootstrap.

    Returns:
        One row a benchmark, metric and condition: role, control_of and draw of the condition
        (`conditions_of`), value, low, high, n, clusters, and for all conditions but the first
        difference, difference_low, difference_high. The last two metrics of a benchmark are the
        shares of items that moved in each direction. They have only a difference, and are left
        out if items cannot flip (plain_text).
    """
    by_key = _by_key(results)
    first, *others = results
    rows: list[dict[str, Any]] = []
    for key, base in by_key[first].items():
        changes = {name: _changes(base, by_key[name][key], seed) for name in others}
        for metric in (*headline(base), *flip_names(base)):
            for name, info in conditions_of(results).items():
                measured = by_key[name][key].metrics.get(metric)
                numbers = {} if measured is None else asdict(measured)
                numbers |= changes[name].loc[metric] if name in changes else {}
                if numbers:
                    row = {"benchmark": key, "metric": metric, "condition": name}
                    row |= {"role": info.role, "control_of": info.control_of, "draw": info.draw}
                    rows.append(row | numbers)
    return pd.DataFrame(rows)


def _changes(base: EvaluationResult, other: EvaluationResult, seed: int) -> pd.DataFrame:
    """By metric: n, clusters, difference, difference_low and difference_high."""
    table = compare(base, other, seed=seed).set_index("metric")
    table = table.rename(columns={"low": "difference_low", "high": "difference_high"})
    # As objects, counts stay whole numbers beside float differences.
    return table.drop(columns=["base", "other"]).astype(object)


def _by_key(
    results: Mapping[str, Sequence[EvaluationResult]],
) -> dict[str, dict[str, EvaluationResult]]:
    """Every condition's results by key, in the order of the first; all have the same keys."""
    if not results:
        raise ValueError("no results: give at least one condition.")
    by_key = {name: {r.key: r for r in measured} for name, measured in results.items()}
    keys = list(dict.fromkeys(key for measured in by_key.values() for key in measured))
    for key in keys:
        if lacking := [name for name, measured in by_key.items() if key not in measured]:
            raise ValueError(
                f"{lacking[0]!r} has no result of {key}, which another condition has: measure "
                "the same benchmarks in every condition."
            )
    return {name: {key: measured[key] for key in keys} for name, measured in by_key.items()}


def headline(result: EvaluationResult) -> list[str]:
    """The headline metrics of a result."""
    return [m for m in formulas(result.benchmark, result.protocol).headline if m in result.metrics]


def flip_names(result: EvaluationResult) -> tuple[str, ...]:
    """The names of the two directions in which a benchmark's items can flip, if they can."""
    names = formulas(result.benchmark, result.protocol).flips
    return () if names is None else names[1:]


def rank_table(
    results: Mapping[str, Sequence[EvaluationResult]], *, n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The paper's rank table: methods as rows, benchmarks as columns, average rank.

    A benchmark ranks methods by the distance of its first headline metric from its best value (see
    docs/benchmarks.md); ties get their mean rank. Ranks are computed again for resampled items:
    methods with overlapping intervals cannot be separated.

    Args:
        results: Method -> its results; every method needs the same benchmarks.
        n_bootstrap: Resamples for the interval of the average rank.
        seed: Of the resampling.

    Returns:
        One row a method, the best first: method, role (`conditions_of`), average_rank, rank_low,
        rank_high, and for each benchmark ``<key> <metric>`` (the value) and ``<key> rank``.

    Raises:
        ValueError: If a method lacks a benchmark that another has, or was measured on other items.
    """
    check_resampling(n_bootstrap, seed)
    by_key = _by_key(results)
    columns: dict[str, Any] = {}
    ranks: list[np.ndarray] = []
    resampled: list[np.ndarray] = []
    for number, key in enumerate(next(iter(by_key.values()))):
        measured = [method[key] for method in by_key.values()]
        metric = headline(measured[0])[0]
        values = np.array([result.metrics[metric].value for result in measured])
        ranks.append(_ranks(measured[0], metric, values[:, None])[:, 0])
        columns |= {f"{key} {metric}": values, f"{key} rank": ranks[-1]}
        # Another seed for each benchmark, so that their resamples are independent.
        draws = _resampled(measured, metric, n_bootstrap, seed + number)
        resampled.append(_ranks(measured[0], metric, draws))
    low, high = np.nanpercentile(np.mean(resampled, axis=0), [2.5, 97.5], axis=1)
    table = pd.DataFrame(
        {
            "method": list(results),
            "role": [info.role for info in conditions_of(results).values()],
            "average_rank": np.mean(ranks, axis=0),
            "rank_low": low,
            "rank_high": high,
            **columns,
        }
    )
    return table.sort_values("average_rank", kind="stable").reset_index(drop=True)


def _ranks(
    base: EvaluationResult, metric: str, values: Float[np.ndarray, "method resample"]
) -> Float[np.ndarray, "method resample"]:
    """Every method's rank in each resample; 1 is the nearest to the metric's best value."""
    best = formulas(base.benchmark, base.protocol).describe(metric).best or 0.0
    # Rounded, so that equal distances are ties whatever the order of summation.
    distance = pd.DataFrame(np.abs(values - best)).round(9)
    return distance.rank(method="average").to_numpy()


def _resampled(
    measured: Sequence[EvaluationResult], metric: str, n_bootstrap: int, seed: int
) -> Float[np.ndarray, "method resample"]:
    """A metric of every method on the same resampled items."""
    definition = formulas(measured[0].benchmark, measured[0].protocol)
    values = resample(_statistics(measured), definition.metrics, n_bootstrap, seed)
    return np.stack([metrics[metric].value for metrics in values])
