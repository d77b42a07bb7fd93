"""A benchmark's items and definition, without a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress

import numpy as np
import pandas as pd

from kb_lens.benchmarks.data import NoDataError as NoDataError
from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.benchmarks.source_rows import Reader, Row
from kb_lens.files import check_file_name
from kb_lens.models.chat import ChatFormat
from kb_lens.statistics import Formulas, check_seed

DataDir = str | os.PathLike[str] | None
"""A folder with the authors' files; None to search, see `kb_lens.benchmarks.data`."""


@dataclass(frozen=True)
class BenchmarkSpec:
    """The definition of a benchmark: the source of its items, its requests and its metrics."""

    name: str
    """Its name in `load_benchmark`, in results and in their files."""

    load: Callable[[DataDir], tuple[pd.DataFrame, str]]
    """Data folder -> all items, and their source in words."""

    requests: Callable[[pd.DataFrame, str], Sequence[Request]]
    """(items, protocol) -> the requests, equally many for each item, in the order of items."""

    tabulate: Callable[[pd.DataFrame, OptionScores, str], pd.DataFrame]
    """(items, scores of the requests, protocol) -> the item table."""

    formulas: Mapping[str, Formulas]
    """Protocol -> its formulas. The first protocol is the default."""

    groups: tuple[str, ...] = ()
    """Columns of the items that a limited sample is balanced over."""

    read: Reader | None = None
    """Reads a user's own file in the benchmark's format; None if there is no such format."""

    items: Callable[[Sequence[Row]], pd.DataFrame] | None = None
    """Rows of such a file -> all items."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The ways to turn items into texts to score."""
        return tuple(self.formulas)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """The items of a benchmark, with everything that does not need a model."""

    name: str
    """One of `BENCHMARKS`."""

    protocol: str
    """How items become texts to score."""

    source: str
    """The source of the items, in words; a file by its path below the data folder."""

    items: pd.DataFrame
    """One row for each item, in the source's order; the column `item` identifies it."""

    requests: tuple[Request, ...]
    """Equally many for each item, in the order of items."""

    groups: tuple[str, ...]
    """Columns that a limited sample is balanced over."""

    tabulate: Callable[[pd.DataFrame, OptionScores], pd.DataFrame]
    """(items, scores of the requests) -> the item table, from which metrics are computed."""

    formulas: Formulas
    """From the item table to metrics."""

    dataset: str | None = None
    """The name of the user's own file of items; None for the benchmark's items."""

    @property
    def key(self) -> str:
        """Its name among results, see `result_key`."""
        return result_key(self.name, self.protocol, self.dataset)

    @property
    def chat_format(self) -> ChatFormat | None:
        """How its chats are rendered; None if it has none."""
        return next((request.chat_format for request in self.requests if request.chat), None)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the requests: they change with any text or option."""
        texts = "\n".join(map(repr, self.requests))
        texts += "".join(request.further for request in self.requests)
        if (chat_format := self.chat_format) not in (None, ChatFormat()):
            # left out for the default, so that older results have the same digest
            texts += repr(chat_format)
        # 16 digits: 64 bits are enough to separate a few thousand benchmarks.
        return hashlib.sha256(texts.encode()).hexdigest()[:16]

    @cached_property
    def items_digest(self) -> str:
        """The digest of every cell of the items, of any type."""
        return hashlib.sha256(repr(self.items.to_dict("split")).encode()).hexdigest()

    def __post_init__(self) -> None:
        key = self.key  # refuses a name that cannot be a file's
        if len(self.items) == 0:
            raise ValueError(f"the benchmark {key!r} has no items; at least one is needed.")
        if not self.requests or len(self.requests) % len(self.items):
            raise ValueError(
                f"the benchmark {key!r} has {len(self.items)} items but "
                f"{len(self.requests)} requests; there must be equally many for each item."
            )
        twice = self.items["item"][self.items["item"].duplicated()].tolist()
        if twice:
            raise ValueError(f"{self.source} has the item {twice[0]!r} of {self.name!r} twice.")

    def split(self, share: float = 0.5, seed: int = 0) -> tuple[Benchmark, Benchmark]:
        """Split into two benchmarks without common items, to choose on one and test on the other.

        Every group is split in the same proportion, up to one item. Items stay in order.

        Args:
            share: Share of items in the first part, above 0 and below 1.
            seed: Seed of the random split.

        Raises:
            ValueError: If the share is not allowed or leaves a part without items.
        """
        check_seed(seed)
        if not 0 < share < 1:
            raise ValueError(f"share is {share}: allowed is 0 < share < 1 (0.5 is one half).")
        first = _stratified(self.items, list(self.groups), share, seed)
        if first.all() or not first.any():
            raise ValueError(
                f"a share of {share:g} leaves a part of the {len(first)} items of {self.key!r} "
                "empty. Load more items, or use a share nearer to 0.5."
            )
        return self._only(first), self._only(~first)

    def slices(self, n_items: int) -> list[Benchmark]:
        """The items in order, `n_items` in each slice and the rest in the last."""
        numbers = np.arange(len(self.items)) // n_items
        return [self._only(numbers == number) for number in range(numbers[-1] + 1)]

    def _only(self, chosen: np.ndarray) -> Benchmark:
        """The benchmark of the items where `chosen` [item] is true."""
        each = np.repeat(chosen, len(self.requests) // len(self.items))
        return replace(
            self,
            items=self.items[chosen].reset_index(drop=True),
            requests=tuple(compress(self.requests, each)),
        )


def result_key(name: str, protocol: str, dataset: str | None = None) -> str:
    """The key of a result: the benchmark, its protocol if not the original, its own items' name.

    Raises:
        ValueError: If files cannot have this name.
    """
    key = unchecked_key(name, protocol, dataset)
    check_file_name(key, "benchmark")
    return key


def unchecked_key(name: str, protocol: str, dataset: str | None) -> str:
    """`result_key` without a check that it can be a file's name."""
    key = name if protocol == "original" else f"{name}_{protocol}"
    # Names of benchmarks and protocols have no hyphen, so keys of own items are different.
    return key if dataset is None else f"{key}-{dataset}"


def _stratified(items: pd.DataFrame, groups: list[str], share: float, seed: int) -> np.ndarray:
    """[item] True for a random share of every group."""
    shuffled = shuffled_items(items.reset_index(drop=True), seed)
    if groups:
        first = shuffled.groupby(groups)["_order"].transform("min")
        shuffled = shuffled.assign(_first=first).sort_values(["_first", "_order"])
    # The rounded running share rises by one at even distances.
    chosen = np.diff(np.floor(share * np.arange(len(items) + 1) + 0.5)) > 0
    return np.isin(np.arange(len(items)), shuffled.index[chosen])


def shuffled_items(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The items in an order that depends only on their keys; the column `_order` has its hash."""
    order = items["item"].map(lambda item: hashlib.sha256(f"{seed}:{item}".encode()).hexdigest())
    return items.assign(_order=order).sort_values("_order")
