"""What ``--benchmarks`` names, loaded: ``NAME[:PROTOCOL][@ITEMS]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import load_benchmark, protocols
from kb_lens.benchmarks.data import NoDataError
from kb_lens.rows import shown
from kb_lens.runs.settings import Items

_COUNT = re.compile("0*[1-9][0-9]{0,17}")
"""A number of items; more digits than any benchmark needs are a slip."""


class BenchmarkName(NamedTuple):
    """One benchmark as it was named."""

    name: str
    protocol: str
    limit: int | None


def parse_name(text: str, items: Items) -> BenchmarkName:
    """Read a name; protocol and number of items are those of `items` unless it has its own.

    Raises:
        ValueError: If nothing, or no number, comes after the : or the @.
    """
    front, at, limit = text.strip().partition("@")
    name, colon, protocol = front.partition(":")
    if at and not _COUNT.fullmatch(limit):
        raise ValueError(f"after the @ comes a number of items, got {shown(limit)}; at least 1.")
    if colon and not protocol:
        raise ValueError("after the : comes a protocol, got nothing.")
    n_items = int(limit) if at else items.limit_of(name)
    return BenchmarkName(name, protocol or items.protocol, n_items)


def load_named(
    names: Sequence[str], items: Items, seed: int, option: str = "--benchmarks"
) -> list[Benchmark]:
    """Load every benchmark that is named.

    Args:
        names: The names.
        items: Limit and protocol of names without their own, and the data folder.
        seed: Of the sample.
        option: Where they are named, for the messages.

    Raises:
        ValueError: If none or one twice is named, one is unknown, or its data cannot be had.
    """
    if not names:
        raise ValueError(f"{option} names no benchmark: give at least one.")
    parsed: dict[str, BenchmarkName] = {}
    for text in names:
        with _naming(option, text):
            parsed[text] = parse_name(text, items)
    if len({(choice.name, choice.protocol) for choice in parsed.values()}) < len(names):
        raise ValueError(f"{option} has a name twice: {','.join(names)}.")
    benchmarks: list[Benchmark] = []
    for text, choice in parsed.items():
        with _naming(option, text):
            benchmarks.append(_load(choice, items, seed))
    return benchmarks


def _load(choice: BenchmarkName, items: Items, seed: int) -> Benchmark:
    return load_benchmark(
        choice.name,
        limit=choice.limit,
        protocol=choice.protocol,
        data_dir=items.data_dir,
        seed=seed,
        chat_format=items.chat_format(),
    )


@contextmanager
def _naming(option: str, text: str) -> Generator[None, None, None]:
    """Say which option is wrong."""
    try:
        yield
    except NoDataError:  # which says where data are looked for
        raise
    except ValueError as error:
        raise ValueError(f"{option}, {shown(text.strip())}: {error}") from error


def load_available(
    names: Sequence[str],
    items: Items,
    seed: int,
    default: Sequence[str],
    left_out: Callable[[str], object],
) -> list[Benchmark]:
    """Load what is named; of the default list, what can be had, and tell what cannot.

    A protocol that some benchmarks of the default list lack is for the others.

    Args:
        names: The names.
        items: Limit and protocol of names without their own, and the data folder.
        seed: Of the sample.
        default: What the job measures unless told otherwise.
        left_out: Called with the reason for each benchmark that is left out.

    Raises:
        ValueError: As `load_named`, or if no data of the default list can be had.
    """
    parsed = {text: parse_name(text, items).name for text in default}
    offered = any(items.protocol in protocols(name) for name in parsed.values())
    if tuple(names) != tuple(default) or not offered:
        return load_named(names, items, seed)
    benchmarks: list[Benchmark] = []
    for text, name in parsed.items():
        # Abilities have the original protocol alone, and belong beside any other.
        protocol = items.protocol if items.protocol in protocols(name) else "original"
        try:
            benchmarks += load_named([text], replace(items, protocol=protocol), seed)
        except NoDataError as error:
            left_out(f"LEFT OUT: {name}. {error}")
    if not benchmarks:
        raise ValueError("no benchmark's data can be had: see above.")
    return benchmarks
