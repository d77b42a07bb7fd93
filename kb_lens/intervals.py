"""Intervals from resamples, also of metrics with a corner.

A metric with a corner (icat at ss = 50) is the minimum of smooth functions, its pieces. A
percentile interval of the metric itself covers too rarely at the corner. So each piece gets an
interval, and the metric's goes from the smallest lower end to the smallest upper end.
docs/statistics.md shows how often that covers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from kb_lens.resampling import Measure
from kb_lens.user_warnings import warn_user

CONFIDENCE = 0.95
"""Share of the resamples between `low` and `high`."""
FEW_CLUSTERS = 20
"""With fewer clusters a percentile interval is clearly too narrow (docs/statistics.md).

Source: Cameron, Gelbach and Miller, Bootstrap-Based Improvements for Inference with Clustered
Errors (2008), where tests made for many clusters err too often with 5 to 30."""


class FewClustersWarning(UserWarning):
    """A metric rests on so few clusters that its interval is too narrow."""


def interval(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """The middle 95 % of the resamples in which the metric exists (is not NaN)."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def nearness(measure: Measure, best: float) -> Measure:
    """Minus the distance from the best value, with its corner there."""
    # A metric with pieces (icat) has its best value above all of them.
    pieces = [piece - best for piece in measure.pieces]
    pieces = pieces or [measure.value - best, best - measure.value]
    return Measure(-np.abs(measure.value - best), measure.n, tuple(pieces))


def measure_interval(measure: Measure, clusters: int) -> tuple[float, float]:
    """The interval of a minimum of smooth pieces, or of a value that is smooth itself."""
    if clusters < 2:
        return float("nan"), float("nan")
    ends = [interval(piece) for piece in measure.smooth]
    return min(low for low, _ in ends), min(high for _, high in ends)


def difference_interval(base: Measure, other: Measure, clusters: int) -> tuple[float, float]:
    """The interval of other - base, both of the same metric with the same pieces.

    Every difference of two pieces P[p] (other) and Q[q] (base) is smooth and has an interval.
    min P - min Q is the min over p of the max over q of P[p] - Q[q], and also the max over q of the
    min over p. Applied to the ends of intervals the two may differ. Each end is the outer one of
    the two, so that the interval of base - other is the mirror image. min P - min Q also lies
    between the least and the largest P[p] - Q[p], which is sharper for a small change near the
    corner. The result is the intersection of both intervals.
    """
    if clusters < 2:
        return float("nan"), float("nan")
    ends = np.array([[interval(new - old) for old in base.smooth] for new in other.smooth])
    low = ends[..., 0].min(axis=0).max()
    high = ends[..., 1].max(axis=1).min()
    same_piece = ends.diagonal().T
    return max(low, same_piece[:, 0].min()), min(high, same_piece[:, 1].max())


def warn_of_few(clusters: Mapping[str, int | None], what: str, cluster: str | None) -> None:
    """Warn if a metric rests on fewer clusters than an interval needs.

    Args:
        clusters: Metric -> its number of clusters.
        what: The benchmark, for the message.
        cluster: What a cluster is (`Formulas.cluster`).
    """
    few = {metric: n for metric, n in clusters.items() if n is not None and n < FEW_CLUSTERS}
    if few:
        counts = ", ".join(f"{metric} {n}" for metric, n in few.items())
        warn_user(
            f"{what}: few clusters ({cluster or 'item'}): {counts}. Below {FEW_CLUSTERS} an "
            "interval is too narrow; take more items.",
            FewClustersWarning,
        )


def count_text(n: int, clusters: int | None) -> str:
    """Items, and their clusters where these are fewer: ``4229 in 79 clusters``."""
    return f"{n}" if clusters is None or clusters == n else f"{n} in {clusters} clusters"


def interval_text(value: float, low: float, high: float, spec: str = ".2f") -> str:
    """A number with the ends of its interval: ``1.20 [0.90, 1.50]``.

    Args:
        value: The number.
        low: Lower end.
        high: Upper end.
        spec: How all three are formatted, as in a format string; ``+.2f`` for changes.
    """
    ends = "no interval" if np.isnan([low, high]).any() else f"{low:{spec}}, {high:{spec}}"
    return f"{value:{spec}} [{ends}]"
