"""Results and scores of slices of items as bytes for a store, in parquet format.

Everything but the table is JSON in the metadata of the file's schema.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd

from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.records.tables import table_from_bytes, table_to_bytes
from kb_lens.statistics import Metric

SUFFIX = ".parquet"
"""The suffix of the entries' files."""


def result_to_bytes(result: EvaluationResult) -> bytes:
    """The items, with everything else as metadata.

    The condition is left out: an entry serves every call that asks the same of the same model,
    whatever its condition is called.
    """
    names = {field.name for field in fields(result)} - {"items", "metrics", "condition"}
    details = {name: getattr(result, name) for name in sorted(names)}
    return table_to_bytes(result.items, {**details, "metrics": result.to_json()})


def result_from_bytes(content: bytes) -> EvaluationResult:
    """Read what `result_to_bytes` wrote, without a condition."""
    items, details = table_from_bytes(content)
    metrics = {name: Metric(**metric) for name, metric in details.pop("metrics").items()}
    return EvaluationResult(metrics=metrics, items=items, **details)


def scores_to_bytes(scores: OptionScores, seconds: float) -> bytes:
    """One row for each request, and the time that all took."""
    table = pd.DataFrame({"logprob": list(scores.logprob), "tokens": list(scores.tokens)})
    return table_to_bytes(table, {"texts": scores.texts, "seconds": seconds})


def scores_from_bytes(content: bytes) -> tuple[OptionScores, float]:
    """Read what `scores_to_bytes` wrote."""
    table, details = table_from_bytes(content)
    logprob = np.stack(table["logprob"].tolist())
    tokens = np.stack(table["tokens"].tolist())
    return OptionScores(logprob, tokens, tuple(details["texts"])), details["seconds"]
