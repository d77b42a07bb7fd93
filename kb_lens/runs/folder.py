"""A run's folder, with everything in it read back."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import pandas as pd

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import EvaluationResult, Role, load_results
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons import NeuronSet
from kb_lens.runs.record import load_record, read_json

T = TypeVar("T")

_TOKENS = ("layer", "index", "side", "rank", "token")
_CHECKS = ("check", "status", "finding", "advice")
"""Columns of ``tokens.csv`` and ``checks.json`` that are needed."""


@dataclass(frozen=True)
class RunFolder:
    """What ``run``, ``identify`` or ``doctor`` wrote; what is not there is empty."""

    attributions: Attributions | None
    """The scores."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension; else the joined set as ``all``."""
    results: Mapping[str, list[EvaluationResult]]
    """Condition -> its results."""
    knowledge: Knowledge | None
    """What the model answers."""
    specificity: Specificity | None = None
    """What else selects the neurons, if ``doctor --specificity`` wrote the folder."""
    neurons: NeuronSet | None = None
    """The dimensions' neurons, aggregated."""
    tokens: pd.DataFrame | None = None
    """What the neurons promote: `kb_lens.checks.neuron_meaning.promoted_tokens`."""
    checks: pd.DataFrame | None = None
    """The checks of `kb_lens.checks.doctor`: check, status, finding, advice."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What ``run.json`` says."""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> RunFolder:
        """Read a folder.

        Raises:
            ValueError: If it has nothing of a run, or a damaged file.
        """
        folder = Path(folder)
        attributions = _load(Attributions.load, folder / "attributions.safetensors")
        knowledge = _load(Knowledge.load, folder / "knowledge.json")
        neurons = _load(NeuronSet.load, folder / "neurons.json")
        sets = _load_sets(folder / "neurons", attributions)
        if not sets and neurons is not None:
            sets = {"all": neurons}
        results = _load_conditions(folder)
        if not (attributions or sets or results or knowledge):
            raise ValueError(f"'{folder}' has no results: expected what `kb-lens run` wrote.")
        has_specificity = (folder / "specificity.csv").is_file()
        return cls(
            attributions,
            sets,
            results,
            knowledge,
            specificity=Specificity.load(folder) if has_specificity else None,
            neurons=neurons,
            tokens=_load(_load_tokens, folder / "tokens.csv"),
            checks=_load(_load_checks, folder / "checks.json"),
            record=load_record(folder),
        )


def _load(read: Callable[[Path], T], path: Path) -> T | None:
    """What a file holds; None if it is not there."""
    return read(path) if path.is_file() else None


def _load_tokens(path: Path) -> pd.DataFrame:
    # A token may be spelled like a missing value (``NA``, ``null``) and is none.
    return _with_columns(pd.read_csv(path, keep_default_na=False), _TOKENS, path)


def _load_checks(path: Path) -> pd.DataFrame:
    return _with_columns(pd.DataFrame(read_json(path)), _CHECKS, path)


def _with_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"'{path}' is not what kb_lens writes: no {missing[0]!r}.")
    return table


def _load_sets(folder: Path, attributions: Attributions | None) -> dict[str, NeuronSet]:
    """The neurons of each dimension: those of the questions in their order, then the others."""
    files = {path.stem: path for path in sorted(folder.glob("*.json"))}
    order = [] if attributions is None else list(attributions.by_dimension())
    order = [dimension for dimension in dict.fromkeys([*order, *files]) if dimension in files]
    return {dimension: NeuronSet.load(files[dimension]) for dimension in order}


def _load_conditions(folder: Path) -> dict[str, list[EvaluationResult]]:
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
    """A key to sort names by, with the numbers in them as numbers."""
    pieces = re.split(r"(\d+(?:\.\d+)?)", name)
    # Every second piece is a number; between them stand words, which no number is compared with.
    return [(float(piece), "") if place % 2 else (0.0, piece) for place, piece in enumerate(pieces)]


def read_conditions(
    folders: Sequence[str | os.PathLike[str]],
) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results, from folders of ``evaluate`` or one of ``run``.

    Raises:
        ValueError: If a folder has no results, two have one name, or there are not two conditions.
    """
    results: dict[str, list[EvaluationResult]] = {}
    for folder in map(Path, folders):
        conditions = _load_conditions(folder)
        if not conditions:
            conditions = {folder.resolve().name: list(load_results(folder).values())}
        if repeated := results.keys() & conditions.keys():
            raise ValueError(
                f"two folders are named {min(repeated)!r}; rename one: it names the method."
            )
        results |= conditions
    if len(results) < 2:
        raise ValueError(
            f"nothing to compare: got {', '.join(results) or 'no folder'}. Name at least two "
            "folders of `kb-lens evaluate`, the base first, or one of `kb-lens run`."
        )
    return results
