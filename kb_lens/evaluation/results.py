"""What a model scored on a benchmark, down to the items; written to a folder and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from kb_lens.benchmarks.benchmark import result_key
from kb_lens.files import moved_whole, write_text
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.statistics import Metric

Role = Literal["base", "method", "control"]
"""The model as it is; what is put to the test; what the test is held against."""


@dataclass(frozen=True)
class ConditionInfo:
    """What was done to the model that a result is of, as ``results.json`` says it."""

    name: str = ""
    """The condition's name; empty where nobody named it."""

    role: Role | None = None
    """Its part in a comparison; None where nobody said it."""

    control_of: str | None = None
    """Of a control: the name of the condition that it is held against."""

    draw: int | None = None
    """Of one of several random controls: its number."""

    intervention: Any = None
    """What was done, as JSON data; None for the base model."""


RESULTS_FILE, ITEMS_FOLDER = "results.json", "items"
_DETAILS = ("benchmark", "protocol", "source", "seconds", "n_bootstrap", "seed", "digest")
_LATER_DETAILS = ("chat_format",)
"""Those that older folders lack."""
_MERGED = ("benchmarks", "details")
"""Of ``results.json``: what has an entry a result, and grows."""
_SHOWN_LENGTH = 120
"""Characters of an intervention in an error message: lambda and the first neurons."""


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
    """Every metric with its 95 % bootstrap interval; in percent where the field uses percent."""

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

    condition: ConditionInfo = ConditionInfo()
    """What was done to the model; `evaluate` does not know it, who calls it inside a block does."""

    @property
    def key(self) -> str:
        """Its name in ``results.json`` and of its file: `kb_lens.benchmarks.result_key`."""
        return result_key(self.benchmark, self.protocol)

    def to_json(self) -> dict[str, dict[str, float | int]]:
        """The metrics as plain numbers: name -> value, low, high, n."""
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
    path = Path(folder) / RESULTS_FILE
    content = results_json(results, intervention=intervention)
    if path.is_file():
        before = _read_json(path)
        _check_same(before, content, path)
        for name in _MERGED:
            content[name] = {**before.get(name, {}), **content[name]}
    # Items first: whoever finds a result in results.json finds its items.
    for result in results:
        with moved_whole(_items_path(path.parent, result.key)) as unfinished:
            result.items.to_parquet(unfinished, index=False)
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def results_json(
    results: Iterable[EvaluationResult], *, intervention: Any = None
) -> dict[str, Any]:
    """The content of ``results.json``: model, condition, intervention, benchmarks and details.

    ``condition`` is {name, role, control_of, draw} (`ConditionInfo`); without an `intervention` of
    its own the call writes that of the results' condition.

    ``benchmarks`` is {key: {metric: {value, low, high, n}}}; ``details`` is {key: {benchmark,
    protocol, source, seconds, n_bootstrap, seed, digest, chat_format}}. The key is the benchmark's
    name, with the protocol behind it if that is not the original one.
    """
    results = list(results)
    models = sorted({result.model for result in results})
    if len(models) != 1:
        raise ValueError(
            f"results.json describes one model, got results of {len(models)}: {models}. "
            "Save each model's results into a folder of its own."
        )
    condition = asdict(results[0].condition)
    of_condition = condition.pop("intervention")
    names = _DETAILS + _LATER_DETAILS
    details = {result.key: {name: getattr(result, name) for name in names} for result in results}
    return {
        "model": models[0],
        "condition": condition,
        "intervention": of_condition if intervention is None else intervention,
        "benchmarks": {result.key: result.to_json() for result in results},
        "details": details,
    }


def check_folder(folder: str | os.PathLike[str], model: HookedModel, intervention: Any) -> None:
    """Raise `ValueError` if a folder has results of another model or intervention."""
    path = Path(folder) / RESULTS_FILE
    if path.is_file():
        content = {"model": model_name(model), "intervention": intervention}
        _check_same(_read_json(path), content, path)


def _check_same(before: dict[str, Any], content: dict[str, Any], path: Path) -> None:
    for key in ("model", "intervention"):
        # As text: what was read back has lists where tuples were written.
        old = json.dumps(before.get(key), sort_keys=True)
        new = json.dumps(content[key], sort_keys=True)
        if old != new:
            raise ValueError(
                f"'{path}' is of another {key}: it has {_short(before.get(key))}, this is "
                f"{_short(content[key])}. Use another folder, or empty this one."
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]} ..."


def load_results(folder: str | os.PathLike[str]) -> dict[str, EvaluationResult]:
    """Every result that `save_results` wrote into a folder, by key.

    Raises:
        ValueError: If the folder has no ``results.json``, or a file is missing or damaged.
    """
    path = Path(folder) / RESULTS_FILE
    content = _read_json(path)
    try:
        # Folders from before there were conditions have the intervention alone.
        names = content.get("condition", {})
        condition = ConditionInfo(**names, intervention=content["intervention"])
        return {key: _result(path.parent, key, content, condition) for key in content["benchmarks"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is not what kb_lens writes: no {error}.") from error


def _result(
    folder: Path, key: str, content: dict[str, Any], condition: ConditionInfo
) -> EvaluationResult:
    items = _items_path(folder, key)
    if not items.is_file():
        raise ValueError(f"'{items}' is missing; the results of {key!r} are not complete.")
    metrics = {name: Metric(**numbers) for name, numbers in content["benchmarks"][key].items()}
    details = {name: content["details"][key][name] for name in _DETAILS}
    details |= {name: content["details"][key].get(name) for name in _LATER_DETAILS}
    return EvaluationResult(
        model=content["model"],
        metrics=metrics,
        items=pd.read_parquet(items),
        condition=condition,
        **details,
    )


def _items_path(folder: Path, key: str) -> Path:
    return folder / ITEMS_FOLDER / f"{key}.parquet"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"'{path.parent}' has no {path.name}; is it a folder of results?")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON ({error}).") from error
