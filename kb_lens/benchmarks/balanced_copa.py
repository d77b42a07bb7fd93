"""Balanced COPA: each item of COPA's development half with its mirror image.

A mirror image has the same two choices after another premise, which makes the other choice right. A
model that looks only at the choices has one item of each pair wrong. Prompts and scoring are those
of COPA in lm-evaluation-harness (`harness`). An item and its mirror image are one cluster.

Source: Kavumba et al., When Choosing Plausible Alternatives, Clever Hans can be Clever (2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import pandas as pd

from kb_lens.benchmarks import harness
from kb_lens.benchmarks.benchmark import BenchmarkSpec, DataDir
from kb_lens.benchmarks.data import Sources, find_rows
from kb_lens.benchmarks.harness_files import check_harness, copa
from kb_lens.benchmarks.measures import DAMAGE
from kb_lens.benchmarks.own_items import own_jsonl
from kb_lens.benchmarks.source_rows import Row, hub_rows, item_keys, read_jsonl
from kb_lens.statistics import Formulas, MetricInfo, Statistics

_HUB = "pkavumba/balanced-copa"
_SPLIT = "train"  # the hub's name for COPA's development items with their mirror images
_MIRRORED = {False: "original", True: "mirrored"}


def load(data_dir: DataDir = None) -> tuple[pd.DataFrame, str]:
    """The items and their source.

    Returns:
        Columns item, part (original or mirrored), choices (the same two for an item and its
        mirror image), doc and task (`harness.load`).
    """
    check_harness("balanced_copa")
    rows, source = find_rows(SOURCES, data_dir)
    return items_of(rows), source


def items_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The items from the rows of a source, see `load`."""
    check_harness("balanced_copa")
    documents = [copa(row) for row in rows]
    docs = [document.columns for document in documents]
    items = {
        "item": item_keys([document.texts for document in documents]),
        "part": [_MIRRORED[_mirrored(row)] for row in rows],
        "choices": [" / ".join(sorted((doc["choice1"], doc["choice2"]))) for doc in docs],
    }
    task = harness.local_task("copa", docs)
    return pd.DataFrame({**items, "doc": docs, "task": [task] * len(docs)})


def _mirrored(row: Row) -> bool:
    value = row.cells.get("mirrored")
    if not isinstance(value, bool):
        raise row.error("mirrored", "true or false")
    return value


def _load_hub() -> Iterable[Row]:
    from datasets import load_dataset

    return hub_rows(load_dataset(_HUB, split=_SPLIT), _HUB)


SOURCES = Sources(
    name="balanced_copa",
    file="balanced_copa/train.jsonl",
    read=read_jsonl,
    hub=_HUB,
    load_hub=_load_hub,
)


def statistics(table: pd.DataFrame) -> Statistics:
    """The statistics of the metrics, from the item table."""
    return harness.statistics(table, groups=("part",))


_INFO = {
    "acc": MetricInfo("%", "right answers, %", "ability", 100.0),
    "acc_original": MetricInfo("%", "right answers, COPA's items, %", "ability", 100.0),
    "acc_mirrored": MetricInfo("%", "right answers, mirror images, %", "ability", 100.0),
    "logprob_per_token": DAMAGE,
}

SPEC = BenchmarkSpec(
    name="balanced_copa",
    load=load,
    requests=harness.requests,
    tabulate=partial(harness.tabulate, normalized=False),
    formulas={
        "original": Formulas(
            statistics,
            harness.metrics,
            ("correct", "gained", "lost"),
            ("acc", "acc_original", "acc_mirrored", "logprob_per_token"),
            _INFO,
            cluster="choices",
        )
    },
    groups=("part",),
    read=own_jsonl,
    items=items_of,
)
