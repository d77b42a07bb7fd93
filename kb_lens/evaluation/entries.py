"""A result, and the scores of a slice of items, as bytes that a store keeps: parquet files.

What is no column of the table is JSON in the metadata of the file's schema.
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
"""Of the entries' files."""


def result_to_bytes(result: EvaluationResult) -> bytes:
    """The items, with all the rest as metadata.

    All but the condition: an entry belongs to whoever asks the same of the same model, whatever
    the condition is called there.
    """
    names = {field.name for field in fields(result)} - {"items", "metrics", "condition"}
    details = {name: getattr(result, name) for name in sorted(names)}
    return table_to_bytes(result.items, {**details, "metrics": result.to_json()})


def result_from_bytes(content: bytes) -> EvaluationResult:
    """What `result_to_bytes` wrote; nobody's condition yet."""
    items, details = table_from_bytes(content)
    metrics = {name: Metric(**metric) for name, metric in details.pop("metrics").items()}
    return EvaluationResult(metrics=metrics, items=items, **details)


def scores_to_bytes(scores: OptionScores, seconds: float) -> bytes:
    """A row a request, and the time that it all took."""
    table = pd.DataFrame({"logprob": list(scores.logprob), "tokens": list(scores.tokens)})
    return table_to_bytes(table, {"texts": scores.texts, "seconds": seconds})


def scores_from_bytes(content: bytes) -> tuple[OptionScores, float]:
    """What `scores_to_bytes` wrote."""
    table, details = table_from_bytes(content)
    logprob = np.stack(table["logprob"].tolist())
    tokens = np.stack(table["tokens"].tolist())
    return OptionScores(logprob, tokens, tuple(details["texts"])), details["seconds"]
