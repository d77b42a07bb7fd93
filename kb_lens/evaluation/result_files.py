"""The files of a folder of results: ``results.json``, and a table of items for each result.

Reading checks them: both must agree, and the metrics must be those of the items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic_core import from_json, to_json

from kb_lens.benchmarks.benchmark import unchecked_key
from kb_lens.benchmarks.catalogue import formulas
from kb_lens.files import locked, shared_name
from kb_lens.models.digests import same_weights
from kb_lens.records.objects import read_json, short, write_json
from kb_lens.records.tables import read_parquet, write_parquet
from kb_lens.resampling import point
from kb_lens.statistics import Metric
from kb_lens.written import BOOKS

Role = Literal["base", "method", "control"]
"""The unchanged model; a tested method; a control that it is compared with."""

RESULTS_FILE = "results.json"
_SHOWN_LENGTH = 120
"""Characters of an intervention in an error message: lambda and the first neurons."""
_ROUNDING = 1e-9
"""Relative difference allowed between a metric and its items: sums may be in another order."""


@dataclass(frozen=True)
class Details:
    """How a result was measured."""

    benchmark: str
    protocol: str
    source: str
    seconds: float
    n_bootstrap: int
    seed: int
    digest: str
    chat_format: dict[str, Any] | None = None  # older folders lack it
    dataset: str | None = None  # older folders lack it


@dataclass(frozen=True)
class ConditionNames:
    """A condition's name and its role in a comparison."""

    name: str = ""
    """The condition's name; empty if it has none."""
    role: Role | None = None
    """Its role in a comparison; None if it is not known."""
    control_of: str | None = None
    """For a control: the name of the condition that it is compared with."""
    draw: int | None = None
    """For one of several random controls: its number."""


@dataclass(frozen=True)
class ResultsFile:
    """The content of ``results.json``."""

    model: str
    intervention: Any
    benchmarks: dict[str, dict[str, Metric]]
    details: dict[str, Details]
    # Older folders lack conditions or the fingerprint.
    condition: ConditionNames = field(default_factory=ConditionNames)
    fingerprint: str = ""

    def about(self, key: str) -> dict[str, Any]:
        """The metadata of a result's item table, as JSON data."""
        content = asdict(self)
        names = ("model", "fingerprint", "intervention")
        about = {name: content[name] for name in names}
        about |= {"metrics": content["benchmarks"][key], "details": content["details"][key]}
        return json_data(about)


def write_results(folder: Path, content: ResultsFile, tables: Mapping[str, pd.DataFrame]) -> Path:
    """Add results to a folder; an existing result of the same key is replaced.

    Raises:
        ValueError: If the folder has results of another model or intervention.
    """
    path = folder / RESULTS_FILE
    with locked(folder / BOOKS / "results.lock"):
        # Items first, so that every result in results.json has its items.
        check_same(folder, content.model, content.fingerprint, content.intervention)
        for key, table in tables.items():
            rows = table.reset_index(drop=True)
            write_parquet(items_path(folder, key), rows, content.about(key))
        merged = json_data(content)
        if path.is_file():
            before = json_data(read_json(path, ResultsFile))
            for name in ("benchmarks", "details"):
                # Whoever writes all results decides their order.
                kept = {} if before[name].keys() <= merged[name].keys() else before[name]
                merged[name] = kept | merged[name]
        write_json(path, merged, indent=2)
    return path


def json_data(content: Any) -> dict[str, Any]:
    """A record as JSON data: tuples are lists, and a missing number is null."""
    return from_json(to_json(content, inf_nan_mode="null"))


def read_results(folder: Path) -> tuple[ResultsFile, dict[str, pd.DataFrame]]:
    """The results of a folder, and key -> items.

    Raises:
        ValueError: Names the file that is missing, damaged, of another model, or changed, and the
            place in it.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise ValueError(f"'{folder}' has no {RESULTS_FILE}; is it a folder of results?")
    content = read_json(path, ResultsFile)
    if content.benchmarks.keys() != content.details.keys():
        raise ValueError(f"'{path}' has benchmarks without details, or details without benchmarks.")
    return content, {key: _items(folder, key, content) for key in content.benchmarks}


def check_same(folder: Path, model: str, fingerprint: str, intervention: Any) -> None:
    """Raise `ValueError` if a folder has results of another model or intervention."""
    path = folder / RESULTS_FILE
    if not path.is_file():
        return
    before = read_json(path, ResultsFile)
    if not _same_model(before, model, fingerprint):
        raise _another(
            path, "model", _named(before.model, before.fingerprint), _named(model, fingerprint)
        )
    # As text, since JSON has lists instead of tuples.
    old, new = (json.dumps(value, sort_keys=True) for value in (before.intervention, intervention))
    if old != new:
        raise _another(path, "intervention", old, new)


def items_path(folder: Path, key: str) -> Path:
    """The file of a result's items."""
    return folder / "items" / f"{key}.parquet"


def _same_model(before: ResultsFile, model: str, fingerprint: str) -> bool:
    # older folders lack the fingerprint, and so do results made by hand
    unknown = not (before.fingerprint and fingerprint)
    # older folders have the whole path of a model
    return shared_name(before.model) == model and (
        unknown or same_weights(before.fingerprint, fingerprint)
    )


def _named(model: str, fingerprint: str) -> str:
    return f"{json.dumps(model)} (weights {fingerprint or 'unknown'})"


def _another(path: Path, name: str, old: str, new: str) -> ValueError:
    shown = [
        text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]} ..." for text in (old, new)
    ]
    return ValueError(
        f"'{path}' is of another {name}: it has {shown[0]}, but this is {shown[1]}. "
        "Use another folder, or empty this one."
    )


def _items(folder: Path, key: str, content: ResultsFile) -> pd.DataFrame:
    """The items of a result, which must match its metrics."""
    details = content.details[key]
    # unchecked, so that a bad name is refused with the file's name
    if unchecked_key(details.benchmark, details.protocol, details.dataset) != key:
        raise ValueError(
            f"'{folder / RESULTS_FILE}', details.{key}: it is of {details.benchmark}, protocol "
            f"{details.protocol}."
        )
    path = items_path(folder, key)
    table, about = read_parquet(path)
    # Older item tables have no metadata: then only the values are checked.
    if about is not None and (place := _difference(about, content.about(key))):
        raise ValueError(
            f"'{folder / RESULTS_FILE}' and '{path}' differ in {key}, {place}. One of them was "
            "changed or is of another run: measure again."
        )
    _check_values(table, key, content, path)
    return table


def _difference(items: Any, results: Any, name: str = "") -> str:
    """Where two values differ, and how; empty if they are equal."""
    if isinstance(items, dict) and isinstance(results, dict):
        for key in {**items, **results}:
            within = f"{name}.{key}".lstrip(".")
            if place := _difference(items.get(key), results.get(key), within):
                return place
        return ""
    return "" if items == results else f"{name}: {short(results)} and {short(items)}"


def _check_values(table: pd.DataFrame, key: str, content: ResultsFile, path: Path) -> None:
    """Compute every metric again."""
    details = content.details[key]
    definition = formulas(details.benchmark, details.protocol)
    try:
        measures = point(definition.statistics(table), definition.metrics)
        values = {name: float(measure.value[0]) for name, measure in measures.items()}
    # a missing or wrong column makes the formulas fail in various ways
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"'{path}': its columns are not those of {key}: {error!r}.") from error
    for name, metric in content.benchmarks[key].items():
        value = values.get(name, float("nan"))
        if not abs(value - metric.value) <= _ROUNDING * max(1.0, abs(value)):
            raise ValueError(
                f"'{path.parents[1] / RESULTS_FILE}', benchmarks.{key}.{name} is {metric.value}, "
                f"but the items in '{path}' give {value}. One of them was changed: measure again."
            )
