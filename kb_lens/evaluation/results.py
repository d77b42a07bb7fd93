"""A model's results on a benchmark with all items, and their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.benchmark import result_key
from kb_lens.evaluation.result_files import (
    ConditionNames,
    Details,
    ResultsFile,
    Role,
    check_same,
    json_data,
    read_results,
    write_results,
)
from kb_lens.models.digests import same_weights
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.statistics import Metric


@dataclass(frozen=True)
class ConditionInfo(ConditionNames):
    """The condition of a result, as in ``results.json``."""

    intervention: Any = None
    """The change of the model as JSON data; None for the base model."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """A model's result on a benchmark, with all items."""

    benchmark: str
    """Name of the benchmark."""

    protocol: str
    """How its items were scored."""

    source: str
    """The source of its items."""

    model: str
    """Name of the model."""

    metrics: Mapping[str, Metric]
    """Every metric with its 95 % interval; in percent where the field uses percent."""

    items: pd.DataFrame
    """One row for each item. The metrics depend only on this table, see `recompute`."""

    n_bootstrap: int
    """Number of resamples for the intervals."""

    seed: int
    """Seed of the resampling."""

    seconds: float
    """Seconds that the scoring took."""

    digest: str = ""
    """Digest of the requests (`Benchmark.digest`), which say which texts were asked and how."""

    chat_format: Mapping[str, Any] | None = None
    """Options and date of the chat template (`ChatFormat.to_json`); None without a chat."""

    fingerprint: str = ""
    """The model's weights (`kb_lens.models.hooked.fingerprint`); empty if it is not known."""

    condition: ConditionInfo = ConditionInfo()
    """The condition of the model. `evaluate` does not know it; its caller sets it."""

    dataset: str | None = None
    """The name of the user's own file of items; None for the benchmark's items."""

    @property
    def key(self) -> str:
        """Its name in ``results.json`` and in its file's name: `kb_lens.benchmarks.result_key`."""
        return result_key(self.benchmark, self.protocol, self.dataset)

    def __repr__(self) -> str:
        parts = (self.key, self.model, f"{len(self.items)} items", f"{len(self.metrics)} metrics")
        return f"EvaluationResult({', '.join(parts)}: see .table())"

    def table(self) -> pd.DataFrame:
        """One row per metric, by its name: value, low, high (95 % interval), n, clusters."""
        return pd.DataFrame.from_dict(self.to_json(), orient="index").rename_axis("metric")

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """The metrics as plain numbers: name -> value, low, high, n, clusters."""
        return {name: asdict(metric) for name, metric in self.metrics.items()}

    def save(self, folder: str | os.PathLike[str], *, intervention: Any = None) -> Path:
        """Write ``results.json`` and ``items/<key>.parquet``; see `save_results`."""
        return save_results(folder, [self], intervention=intervention)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], benchmark: str | None = None) -> EvaluationResult:
        """Read the result of a key; without a key the only one."""
        results = load_results(folder)
        if benchmark is None and len(results) == 1:
            return next(iter(results.values()))
        if benchmark not in results:
            raise ValueError(
                f"benchmark {benchmark!r} is not one of the results in '{os.fspath(folder)}': "
                f"{', '.join(results)}. Name one of these."
            )
        return results[benchmark]


def conditions_of(
    results: Mapping[str, Sequence[EvaluationResult]],
) -> dict[str, ConditionInfo]:
    """The description of each named condition, with its role.

    If results do not say their role, the first condition is the base and the others are methods, so
    that every condition has a role.

    Args:
        results: Condition -> its results.
    """
    # A control names its method by the name at its measurement; here it may have another one, such
    # as a folder's.
    called = {measured[0].condition.name: name for name, measured in results.items() if measured}
    infos: dict[str, ConditionInfo] = {}
    for name, measured in results.items():
        info = measured[0].condition if measured else ConditionInfo()
        unsaid: Role = "method" if infos else "base"
        control_of = info.control_of and called.get(info.control_of, info.control_of)
        infos[name] = replace(info, name=name, role=info.role or unsaid, control_of=control_of)
    return infos


def damage_matched(infos: Mapping[str, ConditionInfo]) -> list[str]:
    """The controls that have another factor than their method: the one of the same damage."""
    factors = {name: (info.intervention or {}).get("lam") for name, info in infos.items()}
    pairs = {
        name: (factors[name], factors.get(info.control_of or "")) for name, info in infos.items()
    }
    return [name for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


def save_results(
    folder: str | os.PathLike[str],
    results: Iterable[EvaluationResult],
    *,
    intervention: Any = None,
) -> Path:
    """Write ``results.json`` and one ``items/<key>.parquet`` a result.

    A folder holds one model under one intervention. Results of further benchmarks are added; a
    benchmark that is already there is replaced.

    Args:
        folder: Where to write; created if it is missing.
        results: One for each benchmark, all of the same model.
        intervention: What was done to the model, as JSON data; None for the base model.

    Returns:
        The path of ``results.json``.

    Raises:
        ValueError: If the results, or those in the folder, are of another model or intervention.
    """
    results = list(results)
    tables = {result.key: result.items for result in results}
    return write_results(Path(folder), _content(results, intervention), tables)


def results_json(
    results: Iterable[EvaluationResult], *, intervention: Any = None
) -> dict[str, Any]:
    """The content of ``results.json``: model, condition, intervention, benchmarks and details.

    ``condition`` is {name, role, control_of, draw} (`ConditionInfo`); without an `intervention` the
    call writes that of the results' condition.

    ``benchmarks`` is {key: {metric: {value, low, high, n, clusters}}}; ``details`` is {key:
    {benchmark, protocol, source, seconds, n_bootstrap, seed, digest, chat_format, dataset}}. The
    key is `result_key`. ``fingerprint`` identifies the model's weights.
    """
    return json_data(_content(list(results), intervention))


def _content(results: Sequence[EvaluationResult], intervention: Any) -> ResultsFile:
    models = sorted({result.model for result in results})
    first = results[0] if results else None
    if first is None or len(models) != 1:
        raise ValueError(
            f"results.json describes one model, but got results of {len(models)}: {models}. "
            "Save each model's results into a folder of its own."
        )
    for result in results:
        if not same_weights(first.fingerprint, result.fingerprint):
            raise ValueError(
                f"results.json describes one model, but got results of weights {first.fingerprint} "
                f"and {result.fingerprint}. Save each model's results into a folder of its own."
            )
    return ResultsFile(
        model=first.model,
        fingerprint=first.fingerprint,
        condition=ConditionNames(**_values_of(ConditionNames, first.condition)),
        intervention=first.condition.intervention if intervention is None else intervention,
        benchmarks={result.key: dict(result.metrics) for result in results},
        details={result.key: Details(**_values_of(Details, result)) for result in results},
    )


def _values_of(record: type[Any], source: Any) -> dict[str, Any]:
    """The fields of a record, from an object with the same fields."""
    return {option.name: getattr(source, option.name) for option in fields(record)}


def check_folder(folder: str | os.PathLike[str], model: HookedModel, intervention: Any) -> None:
    """Raise `ValueError` if a folder has results of another model or intervention."""
    check_same(Path(folder), model_name(model), fingerprint(model), intervention)


def load_results(folder: str | os.PathLike[str]) -> dict[str, EvaluationResult]:
    """Every result that `save_results` wrote into a folder, by key.

    The metrics are computed again from the items, and both files must agree.

    Raises:
        ValueError: If the folder has no ``results.json``, or a file is missing, damaged, of another
            model, or changed since it was written.
    """
    content, tables = read_results(Path(folder))
    condition = ConditionInfo(**vars(content.condition), intervention=content.intervention)
    return {
        key: EvaluationResult(
            **vars(content.details[key]),
            model=content.model,
            fingerprint=content.fingerprint,
            metrics=content.benchmarks[key],
            items=items,
            condition=condition,
        )
        for key, items in tables.items()
    }
