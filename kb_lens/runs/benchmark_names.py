"""What ``--benchmarks`` names, loaded: ``NAME[:PROTOCOL][@ITEMS]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import load_benchmark, protocols
from kb_lens.benchmarks.data import NoDataError
from kb_lens.runs.settings import Items


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
    if at and not limit.isdecimal():
        raise ValueError(f"{text.strip()!r}: after the @ comes a number of items, got {limit!r}.")
    if colon and not protocol:
        raise ValueError(f"{text.strip()!r}: after the : comes a protocol, got nothing.")
    return BenchmarkName(name, protocol or items.protocol, int(limit) if at else items.limit)


def load_named(names: Sequence[str], items: Items, seed: int) -> list[Benchmark]:
    """Load every benchmark that is named.

    Raises:
        ValueError: If one is named twice, is unknown, or its data cannot be had.
    """
    parsed = [parse_name(text, items) for text in names]
    if len({(choice.name, choice.protocol) for choice in parsed}) < len(parsed):
        raise ValueError(f"--benchmarks has a name twice: {','.join(names)}.")
    return [
        load_benchmark(
            choice.name,
            limit=choice.limit,
            protocol=choice.protocol,
            data_dir=items.data_dir,
            seed=seed,
            chat_format=items.chat_format(),
        )
        for choice in parsed
    ]


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
