"""How sure a metric is: percentile bootstrap over the items of a benchmark.

Every metric here is a formula on sums over items (an accuracy is correct answers over items, a
macro average is a mean of such ratios, one a target). Drawing items again with replacement changes
only how often each item counts, so all resamples of all metrics are one matrix product: counts
[resample, item] times per-item quantities [item, quantity]. Two results on the same items are
compared with the same counts, which is what makes their difference's interval a paired one.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from kb_lens.arguments import check_seed as check_seed
from kb_lens.arguments import is_count
from kb_lens.resampling import Formula, point, resample
from kb_lens.resampling import Measure as Measure
from kb_lens.resampling import Statistics as Statistics
from kb_lens.resampling import Sums as Sums
from kb_lens.resampling import ratio as ratio

DEFAULT_RESAMPLES = 10_000
CONFIDENCE = 0.95
"""Share of the resamples between `low` and `high`."""


@dataclass(frozen=True)
class Metric:
    """One number with its confidence interval."""

    value: float
    """The metric on the items as they are."""

    low: float
    """Lower end of the 95 % percentile bootstrap interval."""

    high: float
    """Upper end of it."""

    n: int
    """Items that the metric is computed from."""


MetricRole = Literal["bias", "ability", "damage", "position"]
"""What a metric tells: how biased the model is, what it can do, what was damaged in it, or what
the place of an option in a list does."""


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is, said once for everything that shows or judges it."""

    unit: str
    """Of its values: ``%``, ``points``, ``nats a token`` or ``perplexity``."""

    label: str
    """What an axis says, the unit included."""

    role: MetricRole
    """What it tells."""

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
    """A quantity between 0 and 1, and what its change is called upwards and downwards; None where
    an item has no such quantity."""

    headline: tuple[str, ...]
    """The metrics to look at first; the first of them ranks methods."""

    info: Mapping[str, MetricInfo]
    """What every metric is, by its name without a group."""

    by_type: str | None = None
    """The metric that also tells the direction of the bias in every value of the item table's
    column `bias_type`, as ``<metric>_<type>``; None if there is none."""

    def __post_init__(self) -> None:
        for metric in self.headline:
            self.describe(metric)

    @property
    def judged(self) -> tuple[str, ...]:
        """The headline metrics that have a best value."""
        return tuple(m for m in self.headline if self.describe(m).best is not None)

    def describe(self, metric: str) -> MetricInfo:
        """What a metric is; of ``<metric>_<group>``, what ``<metric>`` is.

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
            f"no metric {metric!r}: allowed are {allowed}, each also with _ and a group behind it."
        )

    def first(self, role: MetricRole) -> str | None:
        """The first headline metric of a role; None if there is none."""
        return next((m for m in self.headline if self.describe(m).role == role), None)


def check_resampling(n_bootstrap: object, seed: object) -> None:
    """Refuse a number of resamples below 1, or what is no seed.

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
    """Every metric with its percentile bootstrap interval over items.

    In a resample that leaves a metric's group empty the metric does not exist; the interval is
    that of the resamples in which it does.

    Args:
        statistics: Quantities and groups of the items.
        formula: From sums to metrics.
        n_bootstrap: Number of resamples.
        seed: Of the resampling. The same seed gives the same interval.

    Returns:
        Metric name -> value, low, high and n, in the unit of the formula.

    Raises:
        ValueError: If `n_bootstrap` is below 1, the seed is not allowed, or a metric does not exist
            on the items.
    """
    check_resampling(n_bootstrap, seed)
    (resampled,) = resample([statistics], formula, n_bootstrap, seed)
    return {
        name: Metric(_exists(name, measure), *interval(resampled[name]), int(measure.n[0]))
        for name, measure in point(statistics, formula).items()
    }


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
        n_bootstrap: Number of resamples; each draws the same items for both.
        seed: Of the resampling.

    Returns:
        One row a metric: metric, base, other, difference, low, high (of the difference) and n.

    Raises:
        ValueError: If the two have different numbers of items or different groups.
    """
    check_resampling(n_bootstrap, seed)
    if not base.groups.reset_index(drop=True).equals(other.groups.reset_index(drop=True)):
        raise ValueError(
            "a paired comparison needs the same items in the same groups and order; got "
            f"{base.groups.shape} and {other.groups.shape} (items, groups) that differ."
        )
    before, after = point(base, formula), point(other, formula)
    resampled = resample([base, other], formula, n_bootstrap, seed)
    rows: list[tuple[str, float, float, float, float, float, int]] = []
    for name, measure in before.items():
        old, new = _exists(name, measure), _exists(name, after[name])
        low, high = interval(resampled[1][name] - resampled[0][name])
        rows.append((name, old, new, new - old, low, high, int(measure.n[0])))
    columns = ["metric", "base", "other", "difference", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def flips(
    base: Statistics,
    other: Statistics,
    formulas: Formulas,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How the items moved, each way by itself, in percent of the items.

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
    moved = Statistics(pd.DataFrame({"n": 1.0, **ways}), groups)
    still = Statistics(moved.quantities.assign(**dict.fromkeys(names, 0.0)), groups)
    return paired_bootstrap(still, moved, _shares, n_bootstrap=n_bootstrap, seed=seed)


def _shares(sums: Sums) -> dict[str, Measure]:
    s = sums["all"]
    return {name: Measure(100 * ratio(s[name], s["n"]), s["n"]) for name in s if name != "n"}


def interval(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """The middle 95 % of the resamples in which the metric exists (is not NaN)."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def interval_text(value: float, low: float, high: float, spec: str = ".2f") -> str:
    """A number with the ends of its interval: ``1.20 [0.90, 1.50]``.

    Args:
        value: The number.
        low: Lower end.
        high: Upper end.
        spec: How all three are formatted, as in a format string; ``+.2f`` for changes.
    """
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"


def _exists(name: str, measure: Measure) -> float:
    value = float(measure.value[0])
    if not np.isfinite(value):
        raise ValueError(f"the metric {name!r} is {value} on these items; their numbers are bad.")
    return value
