"""What a model scored on a benchmark, down to the items; written to a folder and read back."""

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
    """What was done to the model that a result is of, as ``results.json`` says it."""

    intervention: Any = None
    """What was done, as JSON data; None for the base model."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What a model scored on a benchmark, down to the items."""

    benchmark: str
    """Name of the benchmark."""

    protocol: str
    """How its items were scored."""

    source: str
    """Where its items came from."""

    model: str
    """Name of the model."""

    metrics: Mapping[str, Metric]
    """Every metric with its 95 % interval; in percent where the field uses percent."""

    items: pd.DataFrame
    """One row an item. The metrics are functions of this table alone, see `recompute`."""

    n_bootstrap: int
    """Resamples behind the intervals."""

    seed: int
    """Of the resampling."""

    seconds: float
    """Time that the scoring took."""

    digest: str = ""
    """Of the requests (`Benchmark.digest`): the same texts were asked in the same way."""

    chat_format: Mapping[str, Any] | None = None
    """Options and date of the chat template (`ChatFormat.to_json`); None if no chat was held."""

    fingerprint: str = ""
    """The model's weights (`kb_lens.models.hooked.fingerprint`); empty if it is not known."""

    condition: ConditionInfo = ConditionInfo()
    """What was done to the model; `evaluate` does not know it, who calls it inside a block does."""

    dataset: str | None = None
    """What a file of the user's own is called, whose items these are; None for the benchmark's."""

    @property
    def key(self) -> str:
        """Its name in ``results.json`` and of its file: `kb_lens.benchmarks.result_key`."""
        return result_key(self.benchmark, self.protocol, self.dataset)

    def __repr__(self) -> str:
        parts = (self.key, self.model, f"{len(self.items)} items", f"{len(self.metrics)} metrics")
        return f"EvaluationResult({', '.join(parts)}: see .table())"

    def table(self) -> pd.DataFrame:
        """The metrics, one a row: value, low, high (95 %), n, clusters; the index is their names."""
        return pd.DataFrame.from_dict(self.to_json(), orient="index").rename_axis("metric")

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """The metrics as plain numbers: name -> value, low, high, n, clusters."""
        return {name: asdict(metric) for name, metric in self.metrics.items()}

    def save(self, folder: str | os.PathLike[str], *, intervention: Any = None) -> Path:
        """Write ``results.json`` and ``items/<key>.parquet``; see `save_results`."""
        return save_results(folder, [self], intervention=intervention)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], benchmark: str | None = None) -> EvaluationResult:
        """Read the result of a key back; it need not be named if it is the only one."""
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
    """What was done under each of some named conditions, its role included.

    Where the results do not say their role, the first condition is the base and the others are
    methods, so that no condition is without a part.

    Args:
        results: Condition -> its results.
    """
    # A control names its method as that was called when it was measured; here it may have another
    # name, a folder's for example.
    called = {measured[0].condition.name: name for name, measured in results.items() if measured}
    infos: dict[str, ConditionInfo] = {}
    for name, measured in results.items():
        info = measured[0].condition if measured else ConditionInfo()
        unsaid: Role = "method" if infos else "base"
        control_of = info.control_of and called.get(info.control_of, info.control_of)
        infos[name] = replace(info, name=name, role=info.role or unsaid, control_of=control_of)
    return infos


def save_results(
    folder: str | os.PathLike[str],
    results: Iterable[EvaluationResult],
    *,
    intervention: Any = None,
) -> Path:
    """Write ``results.json`` and one ``items/<key>.parquet`` a result.

    A folder holds one model under one intervention. Results of further benchmarks are added to
    those that are there; a benchmark that is there already is replaced.

    Args:
        folder: Where to write; made if it is not there.
        results: One a benchmark, all of the same model.
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

    ``condition`` is {name, role, control_of, draw} (`ConditionInfo`); without an `intervention` of
    its own the call writes that of the results' condition.

    ``benchmarks`` is {key: {metric: {value, low, high, n, clusters}}}; ``details`` is {key:
    {benchmark, protocol, source, seconds, n_bootstrap, seed, digest, chat_format, dataset}}. The
    key is `result_key`. ``fingerprint`` tells the model's weights.
    """
    return json_data(_content(list(results), intervention))


def _content(results: Sequence[EvaluationResult], intervention: Any) -> ResultsFile:
    models = sorted({result.model for result in results})
    first = results[0] if results else None
    if first is None or len(models) != 1:
        raise ValueError(
            f"results.json describes one model, got results of {len(models)}: {models}. "
            "Save each model's results into a folder of its own."
        )
    for result in results:
        if not same_weights(first.fingerprint, result.fingerprint):
            raise ValueError(
                f"results.json describes one model, got results of weights {first.fingerprint} "
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
    """The fields of a record, from an object that has them too."""
    return {option.name: getattr(source, option.name) for option in fields(record)}


def check_folder(folder: str | os.PathLike[str], model: HookedModel, intervention: Any) -> None:
    """Raise `ValueError` if a folder has results of another model or intervention."""
    check_same(Path(folder), model_name(model), fingerprint(model), intervention)


def load_results(folder: str | os.PathLike[str]) -> dict[str, EvaluationResult]:
    """Every result that `save_results` wrote into a folder, by key.

    The metrics are computed again from the items, and both files must say the same.

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
