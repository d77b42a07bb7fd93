"""Read a run's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import pandas as pd

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import EvaluationResult, Role, load_results
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons.sets import NeuronSet
from kb_lens.records.objects import read_json
from kb_lens.records.tables import Belongs, Kind, check_columns, read_table_of
from kb_lens.rows import shown
from kb_lens.runs.record import RECORD, load_record

T = TypeVar("T")

_TOKENS: dict[str, Kind] = {
    "layer": "count",
    "index": "count",
    "side": "text",
    "rank": "count",
    "token": "text",
}
_CHECKS: dict[str, Kind] = dict.fromkeys(("check", "status", "finding", "advice"), "text")
"""The columns that ``tokens.csv`` and ``checks.json`` must have."""
_OTHER_FOLDERS = {
    "results.json": "one condition, as of `kb-lens evaluate`: give it to `kb-lens compare`, "
    "after the base's folder",
    "study.json": "`kb-lens experiment`: give it to `kb-lens figures` or `kb-lens report`",
    "tuning.json": "`kb-lens tune`: give it to `kb-lens figures`",
    "effects.safetensors": "`kb-lens neurons`: give it to `kb-lens figures`",
    "kb_lens.json": "`kb-lens export`: give it to `kb-lens evaluate` as the model",
}
"""A file that only one other command writes -> that command, and the command that reads it."""


@dataclass(frozen=True)
class RunFolder:
    """The content of a folder of ``run``, ``identify`` or ``doctor``; missing parts are empty."""

    attributions: Attributions | None
    """The scores."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension; else the joined set as ``all``."""
    results: Mapping[str, list[EvaluationResult]]
    """Condition -> its results."""
    knowledge: Knowledge | None
    """The model's answers."""
    specificity: Specificity | None = None
    """The result of `specificity`, if ``doctor --specificity`` wrote the folder."""
    neurons: NeuronSet | None = None
    """The dimensions' neurons, aggregated."""
    tokens: pd.DataFrame | None = None
    """The tokens of the neurons: `kb_lens.checks.neuron_meaning.promoted_tokens`."""
    checks: pd.DataFrame | None = None
    """The checks of `kb_lens.checks.doctor`: check, status, finding, advice."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """The content of ``run.json``."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RunFolder:
        """Read a folder.

        Raises:
            ValueError: If it has no file of a run, or a damaged file.
        """
        folder = Path(folder)
        attributions = _load(Attributions.load, folder / "attributions.safetensors")
        knowledge = _load(Knowledge.load, folder / "knowledge.json")
        neurons = _load(NeuronSet.load, folder / "neurons.json")
        sets = _load_sets(folder / "neurons", attributions)
        results = load_conditions(folder)
        if not (attributions or neurons or sets or results or knowledge):
            raise ValueError(f"'{folder}' {_instead_of_results(folder)}.")
        record = load_record(folder)
        run = cls(
            attributions,
            sets or ({} if neurons is None else {"all": neurons}),
            results,
            knowledge,
            neurons=neurons,
            record=record,
        )
        whose = run.whose(folder)
        has_specificity = (folder / "specificity.csv").exists()
        return replace(
            run,
            specificity=Specificity.load(folder, whose) if has_specificity else None,
            tokens=_load(partial(_load_tokens, whose=whose), folder / "tokens.csv"),
            checks=_load(partial(_load_checks, whose=whose), folder / "checks.json"),
        )

    def whose(self, folder: Path) -> Belongs:
        """The one model of all files.

        Raises:
            ValueError: If a file is of another model, or was measured with other neurons.
        """
        stated = dict(self._stated())
        # a file that states the weights counts more than one with only the model's name
        whose = next((origin for origin in stated.values() if origin.fingerprint), None)
        whose = whose or next(iter(stated.values()), Belongs())
        for name, origin in stated.items():
            origin.check(whose, f"'{folder / name}'")
        if self.neurons is not None:
            _check_neurons(folder, self.neurons, self.results)
        return whose

    def _stated(self) -> Iterator[tuple[str, Belongs]]:
        """File -> the model that it states."""
        if model := self.record.get("model"):
            yield RECORD, Belongs(model.get("name") or "", model.get("fingerprint") or "")
        if self.attributions is not None:
            yield "attributions.safetensors", Belongs.of(self.attributions.settings)
        if self.knowledge is not None:
            yield "knowledge.json", Belongs.of(self.knowledge)
        for name, neurons in self.sets.items():
            yield f"neurons/{name}.json", Belongs.of(neurons)
        if self.neurons is not None:
            yield "neurons.json", Belongs.of(self.neurons)
        for name, results in self.results.items():
            for result in results:
                yield f"evaluations/{name}/results.json", Belongs.of(result)


def _check_neurons(
    folder: Path, neurons: NeuronSet, results: Mapping[str, Sequence[EvaluationResult]]
) -> None:
    """Raise `ValueError` if a method of a run scaled other neurons than the run found."""
    expected = [list(neuron) for neuron in neurons]
    for name, measured in results.items():
        change: Any = measured[0].condition.intervention if measured else None
        is_method = bool(measured) and measured[0].condition.role == "method"
        if is_method and isinstance(change, dict) and change.get("neurons", expected) != expected:
            raise ValueError(
                f"'{folder / 'evaluations' / name}' was measured with other neurons than those in "
                f"'{folder / 'neurons.json'}'. Keep each run in a folder of its own."
            )


def _load(read: Callable[[Path], T], path: Path) -> T | None:
    """The content of a file; None if there is no file."""
    # A folder of that name is refused.
    return read(path) if path.exists() else None


def _instead_of_results(folder: Path) -> str:
    """What a folder without results of a run has, and what to do with it."""
    for name, command in _OTHER_FOLDERS.items():
        if (folder / name).exists():
            return f"has no results of `kb-lens run`; it is of {command}"
    if command := load_record(folder).get("command"):
        return f"has no results yet: `kb-lens {command}` did not finish. Give that command again"
    return "has no results: expected what `kb-lens run` wrote"


def _load_tokens(path: Path, whose: Belongs) -> pd.DataFrame:
    table = read_table_of(path, _TOKENS, whose)
    if unknown := set(table["side"]) - {"promotes", "suppresses"}:
        raise ValueError(
            f"'{path}', column 'side' has {shown(min(unknown))}: allowed are promotes, suppresses."
        )
    return table


def _load_checks(path: Path, whose: Belongs) -> pd.DataFrame:
    rows: list[dict[str, str]] = read_json(path, list[dict[str, str]])
    table = pd.DataFrame(rows)
    check_columns(table, _CHECKS, path)
    # older checks do not name their model
    if "fingerprint" in table:
        for model, fingerprint in set(zip(table["model"], table["fingerprint"], strict=True)):
            Belongs(model, fingerprint).check(whose, f"'{path}'")
    return pd.DataFrame(table[list(_CHECKS)])


def _load_sets(folder: Path, attributions: Attributions | None) -> dict[str, NeuronSet]:
    """The neurons of each dimension: first in the order of the questions, then the others."""
    files = {path.stem: path for path in sorted(folder.glob("*.json"))}
    order = [] if attributions is None else list(attributions.by_dimension())
    order = [dimension for dimension in dict.fromkeys([*order, *files]) if dimension in files]
    return {dimension: NeuronSet.load(files[dimension]) for dimension in order}


def load_conditions(folder: Path) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results: the base, the methods, the controls; lambda 2 before lambda 10."""
    results = {
        path.parent.name: list(load_results(path.parent).values())
        for path in (folder / "evaluations").glob("*/results.json")
    }
    roles = get_args(Role)

    def order(name: str) -> tuple[int, list[tuple[float, str]]]:
        role = results[name][0].condition.role if results[name] else None
        return roles.index(role) if role in roles else len(roles), _natural(name)

    return {name: results[name] for name in sorted(results, key=order)}


def _natural(name: str) -> list[tuple[float, str]]:
    """A key to sort names with the numbers in them as numbers."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", name)
    # Every second piece is a number, the others are words: like is compared with like.
    return [(float(piece), "") if place % 2 else (0.0, piece) for place, piece in enumerate(pieces)]


def one_model(results: Mapping[str, Sequence[EvaluationResult]]) -> Belongs | None:
    """The model of all results; None if there are several."""
    first, *others = _models_of(results).values()
    return first if all(other.may_be(first) for other in others) else None


def _models_of(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, Belongs]:
    """Condition -> the model of its results."""
    return {name: Belongs.of(measured[0]) for name, measured in results.items() if measured}


def several_models(results: Mapping[str, Sequence[EvaluationResult]]) -> str:
    """A line that says which conditions are of which model, if there are several."""
    if one_model(results) is not None:
        return ""
    listed = ", ".join(f"{name} of {origin}" for name, origin in _models_of(results).items())
    return f"NOTE: these are different models, compared on the same items: {listed}."


def measured_in(folder: Path) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results, from a folder of ``run``; for ``evaluate`` under the folder's name.

    Raises:
        ValueError: If the folder has no results, or damaged ones.
    """
    if not (conditions := load_conditions(folder)):
        return {folder.resolve().name: list(load_results(folder).values())}
    RunFolder(None, {}, conditions, None, record=load_record(folder)).whose(folder)
    return conditions


def read_conditions(
    folders: Sequence[str | os.PathLike[str]],
) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results, from folders of ``evaluate`` or one of ``run``.

    Raises:
        ValueError: If a folder has no results, two have one name, or there are fewer than two
            conditions.
    """
    results: dict[str, list[EvaluationResult]] = {}
    origins: dict[str, Path] = {}
    for folder in map(Path, folders):
        conditions = measured_in(folder)
        if repeated := origins.keys() & conditions.keys():
            raise ValueError(_twice(min(repeated), origins[min(repeated)], folder))
        results |= conditions
        origins |= dict.fromkeys(conditions, folder)
    if len(results) < 2:
        raise ValueError(
            f"nothing to compare: got {', '.join(results) or 'no folder'}. Name at least two "
            "folders of `kb-lens evaluate`, the base first, or one of `kb-lens run`."
        )
    return results


def _twice(name: str, first: Path, second: Path) -> str:
    """What to do about two conditions of one name."""
    runs = [folder for folder in (first, second) if (folder / "evaluations").is_dir()]
    single = f"Give single conditions, such as '{runs[0] / 'evaluations' / name}'. " if runs else ""
    return (
        f"both '{first}' and '{second}' have a condition {name!r}. {single}A single condition has "
        "its folder's name: where two have one name, copy a folder under another name."
    )
