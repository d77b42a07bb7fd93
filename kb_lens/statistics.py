"""How sure a metric is: percentile bootstrap over the clusters of a benchmark's items.

Every metric here is a formula on sums over items (an accuracy is correct answers over items), and
whole clusters of items are drawn again (`kb_lens.resampling`). Two results on the same items are
compared with the same draws, so the interval of their difference is a paired one.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; for clusters
Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BeforeValidator

from kb_lens.arguments import check_seed as check_seed
from kb_lens.arguments import is_count
from kb_lens.intervals import difference_interval, measure_interval
from kb_lens.resampling import Formula, cluster_counts, point, resample
from kb_lens.resampling import Measure as Measure
from kb_lens.resampling import Statistics as Statistics
from kb_lens.resampling import Sums as Sums
from kb_lens.resampling import ratio as ratio
from kb_lens.user_warnings import warn_user

DEFAULT_RESAMPLES = 10_000


def _number(value: object) -> object:
    """JSON has no NaN: an interval that does not exist is null there."""
    return np.nan if value is None else value


@dataclass(frozen=True)
class Metric:
    """One number with its confidence interval."""

    value: float
    """The metric on the items as they are."""

    low: Annotated[float, BeforeValidator(_number)]
    """Lower end of the 95 % bootstrap interval; NaN if only one cluster has such items."""

    high: Annotated[float, BeforeValidator(_number)]
    """Upper end of it."""

    n: int
    """Items that the metric is computed from."""

    clusters: int | None = None
    """Clusters of these items; None in older files, which do not have it."""

    def __post_init__(self) -> None:
        # The same NaN everywhere: equal metrics have one hash.
        for end in ("low", "high"):
            if np.isnan(getattr(self, end)):
                object.__setattr__(self, end, np.nan)

    def __eq__(self, other: object) -> bool:
        # Python 3.13's own compares field by field, and NaN equals nothing.
        if not isinstance(other, Metric):
            return NotImplemented
        return all(a is b or a == b for a, b in zip(astuple(self), astuple(other), strict=True))


MetricRole = Literal["bias", "ability", "damage", "position"]
"""What a metric measures: bias, capability, damage to the model, or the effect of an option's
place in a list."""


@dataclass(frozen=True)
class MetricInfo:
    """The description of a metric, for everything that shows or judges it."""

    unit: str
    """The unit of its values: ``%``, ``points``, ``nats a token`` or ``perplexity``."""

    label: str
    """The title of an axis, with the unit."""

    role: MetricRole
    """What it measures."""

    best: float | None = None
    """The value that would be ideal; None where there is none."""


@dataclass(frozen=True)
class Formulas:
    """What a benchmark measures: from its item table to sums, and from sums to metrics."""

    statistics: Callable[[pd.DataFrame], Statistics]
    """Item table -> quantities and groups."""

    metrics: Formula
    """Sums -> every metric of the benchmark."""

    flips: tuple[str, str, str] | None
    """A quantity between 0 and 1, and the names of its change upwards and downwards; None if items
    have no such quantity."""

    headline: tuple[str, ...]
    """The metrics to look at first; the first of them ranks methods."""

    info: Mapping[str, MetricInfo]
    """Name of a metric, without a group -> its description."""

    by_type: str | None = None
    """The metric that gives the direction of the bias, also for each value of the item table's
    column `bias_type` as ``<metric>_<type>``; None if there is none."""

    not_types: tuple[str, ...] = ()
    """What may follow a metric's name and is not a bias type: other groups, and variants."""

    cluster: str | None = None
    """The column of the item table whose values are the clusters; None where items were made
    independently of one another."""

    def __post_init__(self) -> None:
        for metric in self.headline:
            self.describe(metric)

    @property
    def judged(self) -> tuple[str, ...]:
        """The headline metrics that have a best value."""
        return tuple(m for m in self.headline if self.describe(m).best is not None)

    def summarize(self, table: pd.DataFrame) -> Statistics:
        """What the metrics sum over, with the clusters.

        Warns if an older table lacks the column of clusters.
        """
        statistics = self.statistics(table)
        if self.cluster is None:
            return statistics
        if self.cluster not in table.columns:
            warn_user(
                f"items saved by an earlier version have no column {self.cluster!r}: each counts "
                "as a cluster, so intervals are too narrow. Measure again.",
            )
            return statistics
        clusters, _ = pd.factorize(table[self.cluster], use_na_sentinel=False)
        return replace(statistics, clusters=clusters)

    def describe(self, metric: str) -> MetricInfo:
        """The description of a metric; for ``<metric>_<group>`` that of ``<metric>``.

        Raises:
            ValueError: If the benchmark has no such metric.
        """
        # The longest beginning wins: excess_any_group is about excess_any, acc_norm not about acc.
        words = metric.split("_")
        for end in range(len(words), 0, -1):
            name = "_".join(words[:end])
            if name in self.info:
                return self.info[name]
        allowed = ", ".join(self.info)
        raise ValueError(
            f"no metric {metric!r}: allowed are {allowed}, each also with _ and a group after it."
        )

    def first(self, role: MetricRole) -> str | None:
        """The first headline metric of a role; None if there is none."""
        return next((m for m in self.headline if self.describe(m).role == role), None)


def check_resampling(n_bootstrap: object, seed: object) -> None:
    """Refuse a number of resamples below 1, or a bad seed.

    Raises:
        ValueError: Names the argument.
    """
    if not is_count(n_bootstrap):
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap!r}.")
    check_seed(seed)


def bootstrap(
    statistics: Statistics,
    formula: Formula,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric with its bootstrap interval over clusters.

    A metric does not exist in a resample without items of its group; its interval is over the
    other resamples. A single cluster gives no interval (NaN).

    Args:
        statistics: Quantities and groups of the items.
        formula: From sums to metrics.
        n_bootstrap: Number of resamples.
        seed: Of the resampling. The same seed gives the same interval.

    Returns:
        Metric name -> value, low, high, n and clusters, in the unit of the formula.

    Raises:
        ValueError: If `n_bootstrap` is below 1, the seed is not allowed, or a metric does not exist
            on the items.
    """
    check_resampling(n_bootstrap, seed)
    (resampled,) = resample([statistics], formula, n_bootstrap, seed)
    clusters = cluster_counts(statistics, formula)
    metrics: dict[str, Metric] = {}
    for name, measure in point(statistics, formula).items():
        value = _exists(name, measure)
        ends = measure_interval(resampled[name], clusters[name])
        metrics[name] = Metric(value, *ends, int(measure.n[0]), clusters[name])
    return metrics


def paired_bootstrap(
    base: Statistics,
    other: Statistics,
    formula: Formula,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The difference other - base of every metric, with a paired bootstrap interval.

    Args:
        base: Quantities and groups of the items before.
        other: The same items in the same order, after.
        formula: From sums to metrics.
        n_bootstrap: Number of resamples; each draws the same clusters for both.
        seed: Of the resampling.

    Returns:
        One row a metric: metric, base, other, difference, low, high (of the difference), n and
        clusters.

    Raises:
        ValueError: If the two have different numbers of items, or different groups or clusters.
    """
    check_resampling(n_bootstrap, seed)
    if not base.groups.reset_index(drop=True).equals(other.groups.reset_index(drop=True)):
        raise ValueError(
            "a paired comparison needs the same items in the same groups and order; got "
            f"{base.groups.shape} and {other.groups.shape} (items, groups) that differ."
        )
    if not np.array_equal(_numbered(base), _numbered(other)):
        raise ValueError("a paired comparison needs the same items in the same clusters.")
    before, after = point(base, formula), point(other, formula)
    resampled = resample([base, other], formula, n_bootstrap, seed)
    clusters = cluster_counts(base, formula)
    rows: list[tuple[str, float, float, float, float, float, int, int]] = []
    for name, measure in before.items():
        old, new = _exists(name, measure), _exists(name, after[name])
        ends = difference_interval(resampled[0][name], resampled[1][name], clusters[name])
        rows.append((name, old, new, new - old, *ends, int(measure.n[0]), clusters[name]))
    columns = ["metric", "base", "other", "difference", "low", "high", "n", "clusters"]
    return pd.DataFrame(rows, columns=columns)


def _numbered(statistics: Statistics) -> np.ndarray:
    """The items' clusters; each item is its own if none are known."""
    if statistics.clusters is None:
        return np.arange(len(statistics.quantities))
    return statistics.clusters


def flips(
    base: Statistics,
    other: Statistics,
    formulas: Formulas,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How many items moved in each direction, in percent of the items.

    Args and errors are those of `paired_bootstrap`; formulas without flips are an error as well.

    Returns:
        Two rows with its columns, named as in ``formulas.flips``; `base` is 0 (no item moves
        from where it is). The first minus the second is 100 times the quantity's mean change.
    """
    if formulas.flips is None:
        raise ValueError("these formulas name no quantity whose changes could be counted.")
    quantity, *names = formulas.flips
    before, after = (s.quantities[quantity].to_numpy(np.float64) for s in (base, other))
    change = after - before
    ways = dict(zip(names, (change.clip(min=0), (-change).clip(min=0)), strict=True))
    groups = pd.DataFrame({"all": np.ones(len(change), dtype=bool)})
    moved = Statistics(pd.DataFrame({"n": 1.0, **ways}), groups, base.clusters)
    still = replace(moved, quantities=moved.quantities.assign(**dict.fromkeys(names, 0.0)))
    return paired_bootstrap(still, moved, _shares, n_bootstrap=n_bootstrap, seed=seed)


def _shares(sums: Sums) -> dict[str, Measure]:
    s = sums["all"]
    return {name: Measure(100 * ratio(s[name], s["n"]), s["n"]) for name in s if name != "n"}


def _exists(name: str, measure: Measure) -> float:
    value = float(measure.value[0])
    if not np.isfinite(value):
        raise ValueError(f"the metric {name!r} is {value} on these items; their numbers are bad.")
    return value
