"""A summary of results as a table in Markdown, for cards of models and data sets."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from kb_lens.intervals import interval_text

_HEAD = ("benchmark", "metric", "condition", "value", "difference", "n", "clusters")


def summary_table(summary: pd.DataFrame) -> str:
    """Every value with its 95 % interval and its paired difference from the base model.

    Args:
        summary: `kb_lens.evaluation.comparison.summarize`; a missing column stays empty.
    """
    rows = [_HEAD, ("---",) * len(_HEAD)]
    for row in summary.to_dict("records"):
        names = [_plain(row.get(name)) for name in _HEAD[:3]]
        value = _number(row, "value", "low", "high", "")
        difference = _number(row, "difference", "difference_low", "difference_high", "+")
        counts = [_plain(row.get(name)) for name in _HEAD[5:]]
        rows.append((*names, value, difference, *counts))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(row: dict[Any, Any], value: str, low: str, high: str, sign: str) -> str:
    number = row.get(value)
    if number is None or math.isnan(number):
        return ""
    return interval_text(number, row[low], row[high], spec=f"{sign}.2f")


def _plain(cell: Any) -> str:
    """A cell's text in one line, without characters that would end the cell."""
    if isinstance(cell, float):  # counts are floats if some are missing
        return "" if math.isnan(cell) else f"{cell:.0f}"
    return "" if cell is None else " ".join(str(cell).split()).replace("|", "\\|")
