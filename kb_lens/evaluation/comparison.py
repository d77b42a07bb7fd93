"""Set measurements beside one another: paired differences, directions of flips, ranks.

A before and an after are compared on the same items, so what the items have in common cancels. How
many items moved each way tells a shift from noise: whatever breaks a model flips items both ways,
which pulls a share towards 50 and looks like less bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from kb_lens.benchmarks.catalogue import formulas
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.statistics import (
    DEFAULT_RESAMPLES,
    Measure,
    Metric,
    Sums,
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

    The interval of a difference is a paired one: each resample draws the same items for both. The
    last two rows (of a benchmark where that makes sense) say how the items moved, in percent of the
    items: those whose preference went to the stereotype and to the anti-stereotype
    (``to_stereotype``, ``to_anti_stereotype``), or whose answer became right and wrong (``gained``,
    ``lost``). They tell a real shift from noise that flips items both ways; the first minus the
    second is the difference of ss, stereotype_share or acc.

    Args:
        base: The result before.
        other: The result after, on the same items in any order.
        n_bootstrap: Resamples for the intervals.
        seed: Of the resampling.

    Returns:
        One row a metric: metric, base, other, difference (other - base), low, high, n.

    Raises:
        ValueError: If the two are of different benchmarks, protocols or items.
    """
    table = _aligned(base, other)
    definition = formulas(base.benchmark, base.protocol)
    before, after = definition.statistics(base.items), definition.statistics(table)
    options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed}
    changed = paired_bootstrap(before, after, definition.metrics, **options)
    if definition.flips is None:
        return changed
    moved = flips(before, after, definition, **options)
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
    """How much nearer a metric came to its best value from one result to another, paired.

    Args:
        base: The result before.
        other: The result after, on the same items in any order.
        metric: One of the benchmark's metrics.
        best: Its best value; default the one that the benchmark names.
        n_bootstrap: Resamples for the interval.
        seed: Of the resampling.

    Raises:
        ValueError: If the two do not compare, or the metric or its best value is not known.
    """
    table, definition = _aligned(base, other), formulas(base.benchmark, base.protocol)
    if metric in base.metrics and best is None:
        best = definition.describe(metric).best
    if best is None or metric not in base.metrics:
        raise ValueError(f"{base.key} has no metric {metric!r} with a best value.")
    target = best

    def distance(sums: Sums) -> dict[str, Measure]:
        value, n = definition.metrics(sums)[metric]
        return {metric: Measure(-np.abs(value - target), n)}

    statistics = definition.statistics(base.items), definition.statistics(table)
    changed = paired_bootstrap(*statistics, distance, n_bootstrap=n_bootstrap, seed=seed)
    row = changed.set_index("metric").loc[metric]
    return Metric(*(float(row[c]) for c in ("difference", "low", "high")), n=int(row["n"]))


def _aligned(base: EvaluationResult, other: EvaluationResult) -> pd.DataFrame:
    """The other result's item table in the order of the base's."""
    for name in ("benchmark", "protocol"):
        if getattr(base, name) != getattr(other, name):
            raise ValueError(
                f"only results of one {name} can be compared; got {getattr(base, name)!r} and "
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
        One row a benchmark, metric and condition: value, low, high, n, and for all conditions but
        the first difference, difference_low, difference_high. The last two metrics of a benchmark
        are the shares of items that moved, each way by itself; they have a difference alone, and
        are left out where items cannot move (plain_text).
    """
    by_key = _by_key(results)
    first, *others = results
    rows = []
    for key, base in by_key[first].items():
        changes = {n: compare(base, by_key[n][key], seed=seed).set_index("metric") for n in others}
        for metric in (*headline(base), *flip_names(base)):
            for condition in results:
                measured = by_key[condition][key].metrics
                row: dict[str, Any] = {"benchmark": key, "metric": metric, "condition": condition}
                if metric in measured:
                    row |= asdict(measured[metric])
                if condition in changes:
                    change = changes[condition].loc[metric]
                    row["n"] = int(change["n"])
                    row["difference"] = change["difference"]
                    row["difference_low"] = change["low"]
                    row["difference_high"] = change["high"]
                if len(row) > 3:
                    rows.append(row)
    return pd.DataFrame(rows)


def _by_key(
    results: Mapping[str, Sequence[EvaluationResult]],
) -> dict[str, dict[str, EvaluationResult]]:
    """Every condition's results by key, in the order of the first; all have the same keys."""
    if not results:
        raise ValueError("no results: give at least one condition.")
    found = {name: {one.key: one for one in several} for name, several in results.items()}
    keys = list(dict.fromkeys(key for several in found.values() for key in several))
    for key in keys:
        if lacking := [name for name, several in found.items() if key not in several]:
            raise ValueError(
                f"{lacking[0]!r} has no result of {key}, which another has: measure the same "
                "benchmarks in every condition."
            )
    return {name: {key: several[key] for key in keys} for name, several in found.items()}


def headline(result: EvaluationResult) -> list[str]:
    """The metrics of a result to look at first."""
    return [m for m in formulas(result.benchmark, result.protocol).headline if m in result.metrics]


def flip_names(result: EvaluationResult) -> tuple[str, ...]:
    """The names of a benchmark's two directions in which items can move; none if they cannot."""
    names = formulas(result.benchmark, result.protocol).flips
    return () if names is None else names[1:]


def rank_table(
    results: Mapping[str, Sequence[EvaluationResult]], *, n_bootstrap: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The paper's rank table: methods as rows, benchmarks as columns, average rank.

    A benchmark ranks methods by how near its first headline metric is to its best value (see
    docs/benchmarks.md); methods that are equally near share the mean of their places. Resampled
    items rank them anew: methods whose intervals overlap were not told apart.

    Args:
        results: Method -> its results; every method needs the same benchmarks.
        n_bootstrap: Resamples for the interval of the average rank.
        seed: Of the resampling.

    Returns:
        One row a method, the best first: method, average_rank, rank_low, rank_high, and for each
        benchmark ``<key> <metric>`` (the value) and ``<key> rank``.

    Raises:
        ValueError: If a method lacks a benchmark that another has, or was measured on other items.
    """
    by_key = _by_key(results)
    table = pd.DataFrame({"method": list(results)})
    places, resampled = [], []
    for number, key in enumerate(next(iter(by_key.values()))):
        several = [found[key] for found in by_key.values()]
        metric = headline(several[0])[0]
        table[f"{key} {metric}"] = [one.metrics[metric].value for one in several]
        places.append(_places(several[0], metric, table[[f"{key} {metric}"]].to_numpy()))
        table[f"{key} rank"] = places[-1]
        drawn = _resampled(several, metric, n_bootstrap, seed + number)
        resampled.append(_places(several[0], metric, drawn))
    low, high = np.nanpercentile(np.mean(resampled, axis=0), [2.5, 97.5], axis=1)
    for place, (name, column) in enumerate(
        {"average_rank": np.mean(places, axis=0)[:, 0], "rank_low": low, "rank_high": high}.items()
    ):
        table.insert(1 + place, name, column)
    return table.sort_values("average_rank", kind="stable").reset_index(drop=True)


def _places(
    base: EvaluationResult, metric: str, values: Float[np.ndarray, "method resample"]
) -> Float[np.ndarray, "method resample"]:
    """Every method's rank in each resample; 1 is the nearest to the metric's best value."""
    best = formulas(base.benchmark, base.protocol).describe(metric).best or 0.0
    distance = pd.DataFrame(np.abs(values - best)).round(9)
    return distance.rank(method="average").to_numpy()


def _resampled(
    several: Sequence[EvaluationResult], metric: str, n_bootstrap: int, seed: int
) -> Float[np.ndarray, "method resample"]:
    """A metric of every method, under the same resampled items."""
    definition = formulas(several[0].benchmark, several[0].protocol)
    statistics = [definition.statistics(_aligned(several[0], one)) for one in several]
    found = resample(statistics, definition.metrics, n_bootstrap, seed)
    return np.stack([one[metric] for one in found])
