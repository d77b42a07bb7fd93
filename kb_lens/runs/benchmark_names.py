"""Load the benchmarks of ``--benchmarks``: ``NAME[=FILE][:PROTOCOL][@ITEMS]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import BENCHMARKS, load_benchmark, protocols
from kb_lens.benchmarks.data import NoDataError
from kb_lens.benchmarks.own_items import dataset_name, own_path
from kb_lens.files import folded_name
from kb_lens.rows import shown
from kb_lens.runs.settings import Items

_FORM = "NAME=FILE[:PROTOCOL][@ITEMS]"
_COUNT = re.compile("0*[1-9][0-9]{0,17}")
"""A number of items, of at most 18 digits."""


class BenchmarkName(NamedTuple):
    """One benchmark of the option."""

    name: str
    protocol: str
    limit: int | None
    path: Path | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """The key of its results: two benchmarks with one key would share a file."""
        dataset = "" if self.path is None else folded_name(dataset_name(self.path))
        return self.name, self.protocol, dataset


def parse_name(text: str, items: Items) -> BenchmarkName:
    """Read a name; without a protocol or number of items it takes those of `items`.

    Raises:
        ValueError: If what follows a : or @ is not allowed, there is no such file, or a file has no
            name before it.
    """
    name, equals, file = text.strip().partition("=")
    if equals:
        return _parse_file(name, file, items)
    front, at, limit = text.strip().partition("@")
    name, colon, protocol = front.partition(":")
    if at and not _COUNT.fullmatch(limit):
        raise ValueError(f"after the @ comes a number of items, got {shown(limit)}; at least 1.")
    if colon and not protocol:
        raise ValueError("after the : comes a protocol, got nothing.")
    if name not in BENCHMARKS and any(mark in name for mark in "./\\"):
        raise ValueError(
            "a file comes behind the name of the benchmark whose format it has: write "
            f"stereoset={name} ({_FORM})."
        )
    n_items = int(limit) if at else items.limit_of(name)
    return BenchmarkName(name, protocol or items.protocol, n_items)


def _parse_file(name: str, text: str, items: Items) -> BenchmarkName:
    """Read the part after the =.

    It is read from its end, since a path may contain : and @. A number after the last @ and a
    protocol after the last : are not part of the path; everything else is.
    """
    if name != name.rstrip() or ":" in name or "@" in name:
        raise ValueError(f"a file comes right behind the name: {_FORM}.")
    if not text:
        raise ValueError(f"after the = comes a file: {_FORM}.")
    allowed = protocols(name)
    front, _, limit = text.rpartition("@")
    n_items = int(limit) if front and _COUNT.fullmatch(limit) else None
    rest = text if n_items is None else front
    file, _, protocol = rest.rpartition(":")
    if not file or protocol not in allowed:
        file, protocol = rest, items.protocol
    try:
        path = own_path(file)
    except ValueError as error:
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}" if allowed[1:] else allowed[0]
        raise ValueError(f"{error} Write {_FORM}, PROTOCOL being {words}.") from error
    return BenchmarkName(name, protocol, n_items or items.limit_of(name), path)


def load_named(
    names: Sequence[str], items: Items, seed: int, option: str = "--benchmarks"
) -> list[Benchmark]:
    """Load all named benchmarks.

    Args:
        names: The names.
        items: Limit and protocol of names without their own, and the data folder.
        seed: Seed of the sample.
        option: The option that names them, for the messages.

    Raises:
        ValueError: If no benchmark is named, one is named twice or unknown, or its data is missing.
    """
    if not names:
        raise ValueError(f"{option} names no benchmark: give at least one.")
    parsed: dict[str, BenchmarkName] = {}
    for text in names:
        with _naming(option, text):
            parsed[text] = parse_name(text, items)
    if len({choice.key for choice in parsed.values()}) < len(names):
        files = [choice for choice in parsed.values() if choice.path]
        advice = " Two files need different names, without folder and ending." if files else ""
        raise ValueError(f"{option} has a name twice: {','.join(names)}.{advice}")
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
        data_dir=None if choice.path else items.data_dir,
        path=choice.path,
        seed=seed,
        chat_format=items.chat_format(),
    )


def own_sources(benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """Result's key -> file and digest, for items of the user's own."""
    return {b.key: b.source for b in benchmarks if b.dataset is not None}


@contextmanager
def _naming(option: str, text: str) -> Generator[None, None, None]:
    """Name the option in the message of an error."""
    try:
        yield
    except NoDataError:  # its message already says where data are looked for
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
    """Load the named benchmarks; of the default list those whose data is there.

    A protocol applies to the benchmarks of the default list that have it.

    Args:
        names: The names.
        items: Limit and protocol of names without their own, and the data folder.
        seed: Seed of the sample.
        default: The job's default list.
        left_out: Called with the reason for each benchmark that is left out.

    Raises:
        ValueError: As `load_named`, or if there is no data for any benchmark of the default list.
    """
    parsed = {text: parse_name(text, items).name for text in default}
    offered = any(items.protocol in protocols(name) for name in parsed.values())
    if tuple(names) != tuple(default) or not offered:
        return load_named(names, items, seed)
    benchmarks: list[Benchmark] = []
    for text, name in parsed.items():
        # Ability benchmarks only have the original protocol; they go with any other.
        protocol = items.protocol if items.protocol in protocols(name) else "original"
        try:
            benchmarks += load_named([text], replace(items, protocol=protocol), seed)
        except NoDataError as error:
            left_out(f"LEFT OUT: {name}. {error}")
    if not benchmarks:
        raise ValueError("there is no data for any benchmark: see above.")
    return benchmarks
