"""A result, and the scores of a slice of items, as bytes that a store keeps: parquet files.

What is no column of the table is JSON in the metadata of the file's schema.
"""

from __future__ import annotations

import io
import json
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.statistics import Metric

SUFFIX = ".parquet"
"""Of the entries' files."""
_METADATA = b"kb_lens"
"""Under which name the schema of a file carries the JSON."""


def result_to_bytes(result: EvaluationResult) -> bytes:
    """The items, with all the rest as metadata.

    All but the condition: an entry belongs to whoever asks the same of the same model, whatever
    the condition is called there.
    """
    names = {field.name for field in fields(result)} - {"items", "metrics", "condition"}
    details = {name: getattr(result, name) for name in sorted(names)}
    return _to_bytes(result.items, {**details, "metrics": result.to_json()})


def result_from_bytes(content: bytes) -> EvaluationResult:
    """What `result_to_bytes` wrote; nobody's condition yet."""
    items, details = _from_bytes(content)
    metrics = {name: Metric(**metric) for name, metric in details.pop("metrics").items()}
    return EvaluationResult(metrics=metrics, items=items, **details)


def scores_to_bytes(scores: OptionScores, seconds: float) -> bytes:
    """A row a request, and the time that it all took."""
    table = pd.DataFrame({"logprob": list(scores.logprob), "tokens": list(scores.tokens)})
    return _to_bytes(table, {"texts": scores.texts, "seconds": seconds})


def scores_from_bytes(content: bytes) -> tuple[OptionScores, float]:
    """What `scores_to_bytes` wrote."""
    table, details = _from_bytes(content)
    logprob = np.stack(table["logprob"].tolist())
    tokens = np.stack(table["tokens"].tolist())
    return OptionScores(logprob, tokens, tuple(details["texts"])), details["seconds"]


def _to_bytes(table: pd.DataFrame, details: dict[str, Any]) -> bytes:
    columns = pa.Table.from_pandas(table)
    # Beside the types and the index, which pandas writes there.
    metadata = {**(columns.schema.metadata or {}), _METADATA: json.dumps(details)}
    file = io.BytesIO()
    pq.write_table(columns.replace_schema_metadata(metadata), file)
    return file.getvalue()


def _from_bytes(content: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    columns = pq.read_table(pa.BufferReader(content))
    return columns.to_pandas(), json.loads(columns.schema.metadata[_METADATA])
