"""Items to evaluate on, with everything that needs no model."""

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
    """What a benchmark is: where its items come from, what is asked, and what is measured."""

    name: str
    """What it is called in `load_benchmark` and in results, whose files have this name."""

    load: Callable[[DataDir], tuple[pd.DataFrame, str]]
    """Data folder -> all items, and in words where they came from."""

    requests: Callable[[pd.DataFrame, str], Sequence[Request]]
    """(items, protocol) -> equally many requests an item, those of the first item first."""

    tabulate: Callable[[pd.DataFrame, OptionScores, str], pd.DataFrame]
    """(items, scores of the requests, protocol) -> the item table."""

    formulas: Mapping[str, Formulas]
    """Protocol -> what is measured from the item table. The first protocol is the default."""

    groups: tuple[str, ...] = ()
    """Columns of the items that a limited sample is balanced over."""

    read: Reader | None = None
    """Reads a file of the user's own in the format of the benchmark's; None where it has none."""

    items: Callable[[Sequence[Row]], pd.DataFrame] | None = None
    """Rows of such a file -> all items."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """How items can become texts to score."""
        return tuple(self.formulas)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Items to evaluate on, with everything that needs no model."""

    name: str
    """One of `BENCHMARKS`."""

    protocol: str
    """How items become texts to score."""

    source: str
    """Where the items came from, in words; a file is named below its data folder."""

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

    dataset: str | None = None
    """What a file of the user's own is called, whose items these are; None for the benchmark's."""

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
        """Sixteen hex digits of what is asked: other texts or options, other digits."""
        texts = "\n".join(map(repr, self.requests))
        texts += "".join(request.further for request in self.requests)
        if (chat_format := self.chat_format) not in (None, ChatFormat()):
            texts += repr(chat_format)  # the default has no trace: older results have none
        # 16 digits: 64 bits are enough to tell a few thousand benchmarks apart.
        return hashlib.sha256(texts.encode()).hexdigest()[:16]

    @cached_property
    def items_digest(self) -> str:
        """Of every cell of the items, whatever kind of thing it is."""
        return hashlib.sha256(repr(self.items.to_dict("split")).encode()).hexdigest()

    def __post_init__(self) -> None:
        key = self.key  # checked: a name that cannot be a file's is refused here
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
        """Two benchmarks without a common item: choose something on one, test it on the other.

        Every group is cut in the same proportion, up to one item. Items stay in order.

        Args:
            share: Of the items, for the first part, above 0 and below 1.
            seed: Of the draw.

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
                "empty. Load more items, or take a share nearer to 0.5."
            )
        return self._only(first), self._only(~first)

    def slices(self, n_items: int) -> list[Benchmark]:
        """The items in order, `n_items` in each slice and the rest in the last."""
        numbers = np.arange(len(self.items)) // n_items
        return [self._only(numbers == number) for number in range(numbers[-1] + 1)]

    def _only(self, chosen: np.ndarray) -> Benchmark:
        """The items where `chosen` [item] is true, with their requests."""
        each = np.repeat(chosen, len(self.requests) // len(self.items))
        return replace(
            self,
            items=self.items[chosen].reset_index(drop=True),
            requests=tuple(compress(self.requests, each)),
        )


def result_key(name: str, protocol: str, dataset: str | None = None) -> str:
    """What a result is called: the benchmark, its protocol if not the original, its own items.

    Raises:
        ValueError: If files cannot have this name.
    """
    key = unchecked_key(name, protocol, dataset)
    check_file_name(key, "benchmark")
    return key


def unchecked_key(name: str, protocol: str, dataset: str | None) -> str:
    """`result_key` of what a file says, which may be no name for a file."""
    key = name if protocol == "original" else f"{name}_{protocol}"
    # No benchmark and no protocol has a hyphen, so that own items never take another's name.
    return key if dataset is None else f"{key}-{dataset}"


def _stratified(items: pd.DataFrame, groups: list[str], share: float, seed: int) -> np.ndarray:
    """[item] True for a share of every group: shuffled, group after group, at even distances."""
    shuffled = shuffled_items(items.reset_index(drop=True), seed)
    if groups:
        first = shuffled.groupby(groups)["_order"].transform("min")
        shuffled = shuffled.assign(_first=first).sort_values(["_first", "_order"])
    # The rounded running share rises by one at even distances.
    chosen = np.diff(np.floor(share * np.arange(len(items) + 1) + 0.5)) > 0
    return np.isin(np.arange(len(items)), shuffled.index[chosen])


def shuffled_items(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """In an order that depends on each item's key alone; the column `_order` has its hash."""
    order = items["item"].map(lambda item: hashlib.sha256(f"{seed}:{item}".encode()).hexdigest())
    return items.assign(_order=order).sort_values("_order")
