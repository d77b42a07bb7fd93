"""Formulas on sums over items, for all resamples at once.

Items that share a template, a target or a writer are not independent, so whole clusters of items
are drawn again with replacement. A resample changes only how often each
cluster counts, so all resamples of all metrics are one matrix product: counts [resample, cluster]
times per-cluster sums [cluster, group x quantity].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

_CHUNK_NUMBERS = 4_000_000
"""Counts that are held at once (32 MB)."""

Sums = Mapping[str, Mapping[str, np.ndarray]]
"""group -> quantity -> that quantity summed over the group's items, [resample]."""


class Measure(NamedTuple):
    """A metric's value in every resample, and how many items it rests on."""

    value: np.ndarray
    n: np.ndarray
    pieces: tuple[np.ndarray, ...] = ()
    """If the value has a corner: the smooth functions whose minimum it is."""

    @property
    def smooth(self) -> tuple[np.ndarray, ...]:
        """The pieces, or the value where it is smooth itself."""
        return self.pieces or (self.value,)


Formula = Callable[[Sums], dict[str, Measure]]
"""Metric name -> its value in every resample. Must work on arrays of resamples elementwise."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the formulas sum over: numbers of each item, and the groups it belongs to."""

    quantities: pd.DataFrame
    """[item, quantity] numbers; formulas expect a quantity `n` that is 1 everywhere."""

    groups: pd.DataFrame
    """[item, group] True where the item belongs to the group. Groups may overlap."""

    clusters: Int[np.ndarray, " item"] | None = None
    """The number of each item's cluster, from 0; None if every item is its own cluster."""

    def __post_init__(self) -> None:
        n_items = len(self.quantities)
        if n_items == 0:
            raise ValueError("statistics need at least one item, got none.")
        lengths = {"groups": len(self.groups)}
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        for name, length in lengths.items():
            if length != n_items:
                raise ValueError(
                    f"quantities has {n_items} items and {name} {length}; "
                    "they must describe the same items in the same order."
                )

    @cached_property
    def item_sums(self) -> Float[np.ndarray, "item sum"]:
        """What each item adds to each quantity's sum over each group."""
        quantities = self.quantities.to_numpy(np.float64)
        groups = self.groups.to_numpy(np.float64)
        return (groups[:, :, None] * quantities[:, None, :]).reshape(len(quantities), -1)

    @cached_property
    def cluster_sums(self) -> Float[np.ndarray, "cluster sum"]:
        """The same for each cluster."""
        if self.clusters is None:
            return self.item_sums
        sums = np.zeros((int(self.clusters.max()) + 1, self.item_sums.shape[1]))
        np.add.at(sums, self.clusters, self.item_sums)
        return sums


def point(statistics: Statistics, formula: Formula) -> dict[str, Measure]:
    """Every metric on the items as they are; `value` and `n` have one entry."""
    return formula(_named(statistics.item_sums.sum(axis=0, keepdims=True), statistics))


def cluster_counts(statistics: Statistics, formula: Formula) -> dict[str, int]:
    """The number of clusters that each metric is computed from.

    A formula's n is a sum over items. If each sum is replaced by the number of clusters that
    contribute to it, n becomes a number of clusters.
    """
    present = (statistics.cluster_sums != 0).sum(axis=0, keepdims=True).astype(np.float64)
    # The values of such formulas mean nothing and may be out of range.
    with np.errstate(all="ignore"):
        measures = formula(_named(present, statistics))
    return {name: int(measure.n[0]) for name, measure in measures.items()}


def means(sums: Sums) -> dict[str, Measure]:
    """The mean of every quantity over all items, as a formula."""
    totals = dict(sums["all"])
    n = totals.pop("n")
    return {name: Measure(total / n, n) for name, total in totals.items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with NaN where the denominator is 0 (an empty group)."""
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator != 0)


def resample(
    statistics: Sequence[Statistics], formula: Formula, n_bootstrap: int, seed: int
) -> list[dict[str, Measure]]:
    """Every metric of each of `statistics`, [resample], on the same resampled clusters.

    Args:
        statistics: Of one or more results on the same items in the same order and clusters.
        formula: From sums to metrics.
        n_bootstrap: Number of resamples.
        seed: Of the resampling.

    Raises:
        ValueError: If `n_bootstrap` is below 1.
    """
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap must be at least 1, got {n_bootstrap}.")
    n_clusters = len(statistics[0].cluster_sums)
    chunks: list[list[dict[str, Measure]]] = [[] for _ in statistics]
    for counts in _counts(n_clusters, n_bootstrap, seed):
        for measured, sample in zip(chunks, statistics, strict=True):
            measured.append(formula(_named(counts @ sample.cluster_sums, sample)))
    return [_joined(measured) for measured in chunks]


def _joined(chunks: Sequence[Mapping[str, Measure]]) -> dict[str, Measure]:
    """Every metric's values of all chunks, one after the other."""
    joined: dict[str, Measure] = {}
    for name in chunks[0]:
        values, counts, pieces = zip(*(chunk[name] for chunk in chunks), strict=True)
        whole = tuple(np.concatenate(piece) for piece in zip(*pieces, strict=True))
        joined[name] = Measure(np.concatenate(values), np.concatenate(counts), whole)
    return joined


def _counts(
    n_clusters: int, n_bootstrap: int, seed: int
) -> Iterator[Float[np.ndarray, "resample cluster"]]:
    """How often each resample draws each cluster, in chunks of bounded size."""
    generator = np.random.default_rng(seed)
    size = max(1, _CHUNK_NUMBERS // n_clusters)
    for start in range(0, n_bootstrap, size):
        rows = min(size, n_bootstrap - start)
        drawn = generator.integers(n_clusters, size=(rows, n_clusters))
        # Each resample has its own range of numbers, so one bincount counts them all.
        drawn += n_clusters * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n_clusters)
        yield counts.reshape(rows, n_clusters).astype(np.float64)


def _named(sums: Float[np.ndarray, "resample sum"], statistics: Statistics) -> Sums:
    """Every quantity's sum over every group, by their names."""
    groups, quantities = statistics.groups.columns, statistics.quantities.columns
    table = sums.reshape(len(sums), len(groups), len(quantities))
    return {
        group: {quantity: table[:, g, q] for q, quantity in enumerate(quantities)}
        for g, group in enumerate(groups)
    }
