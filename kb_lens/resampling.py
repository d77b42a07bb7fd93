"""Formulas on sums over items, for all resamples at once.

Drawing items again with replacement changes only how often each item counts, so all resamples of
all metrics are one matrix product: counts [resample, item] times per-item quantities [item,
quantity].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

_CHUNK_NUMBERS = 4_000_000
"""Counts that are held at once (32 MB)."""

Sums = Mapping[str, Mapping[str, np.ndarray]]
"""group -> quantity -> that quantity summed over the group's items, [resample]."""


class Measure(NamedTuple):
    """A metric's value in every resample, and how many items it rests on."""

    value: np.ndarray
    n: np.ndarray


Formula = Callable[[Sums], dict[str, Measure]]
"""Metric name -> its value in every resample. Must work on arrays of resamples elementwise."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the formulas sum over: numbers of each item, and the groups it belongs to."""

    quantities: pd.DataFrame
    """[item, quantity] numbers; formulas expect a quantity `n` that is 1 everywhere."""

    groups: pd.DataFrame
    """[item, group] True where the item belongs to the group. Groups may overlap."""

    def __post_init__(self) -> None:
        if len(self.quantities) == 0:
            raise ValueError("statistics need at least one item, got none.")
        if len(self.quantities) != len(self.groups):
            raise ValueError(
                f"quantities has {len(self.quantities)} items and groups {len(self.groups)}; "
                "they must describe the same items in the same order."
            )


def point(statistics: Statistics, formula: Formula) -> dict[str, Measure]:
    """Every metric on the items as they are; `value` and `n` have one entry."""
    return formula(_sums(np.ones((1, len(statistics.quantities))), statistics))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with NaN where the denominator is 0 (an empty group)."""
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator != 0)


def resample(
    statistics: Sequence[Statistics], formula: Formula, n_bootstrap: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Every metric of each of `statistics`, [resample], under the same resampled items.

    Args:
        statistics: Of one or more results on the same items in the same order.
        formula: From sums to metrics.
        n_bootstrap: Number of resamples.
        seed: Of the resampling.

    Raises:
        ValueError: If `n_bootstrap` is below 1.
    """
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}.")
    chunks: list[list[dict[str, Measure]]] = [[] for _ in statistics]
    for counts in _counts(len(statistics[0].quantities), n_bootstrap, seed):
        for measured, sample in zip(chunks, statistics, strict=True):
            measured.append(formula(_sums(counts, sample)))
    return [_joined(measured) for measured in chunks]


def _joined(chunks: Sequence[Mapping[str, Measure]]) -> dict[str, np.ndarray]:
    """Every metric's values of all chunks, one after the other."""
    return {name: np.concatenate([chunk[name].value for chunk in chunks]) for name in chunks[0]}


def _counts(
    n_items: int, n_bootstrap: int, seed: int
) -> Iterator[Float[np.ndarray, "resample item"]]:
    """How often each resample draws each item, in chunks of bounded size."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK_NUMBERS // n_items)
    for start in range(0, n_bootstrap, size):
        rows = min(size, n_bootstrap - start)
        items = generator.integers(n_items, size=(rows, n_items))
        # Each resample counts in a range of its own, so one bincount serves them all.
        items += n_items * np.arange(rows)[:, None]
        counts = np.bincount(items.ravel(), minlength=rows * n_items)
        yield counts.reshape(rows, n_items).astype(np.float64)


def _sums(counts: Float[np.ndarray, "resample item"], statistics: Statistics) -> Sums:
    """Every quantity summed over every group, weighted by the counts."""
    quantities = statistics.quantities.to_numpy(np.float64)
    groups = statistics.groups.to_numpy(np.float64)
    weights = (groups[:, :, None] * quantities[:, None, :]).reshape(len(quantities), -1)
    sums = (counts @ weights).reshape(len(counts), groups.shape[1], quantities.shape[1])
    return {
        group: {q: sums[:, g, k] for k, q in enumerate(statistics.quantities.columns)}
        for g, group in enumerate(statistics.groups.columns)
    }
