"""A run's folder: the record of how it came about, and everything in it read back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import EvaluationResult, load_results
from kb_lens.knowledge import Knowledge
from kb_lens.neurons import NeuronSet
from kb_lens.runs.record import _load_json, load_record

_TOKENS = ("layer", "index", "side", "rank", "token")

_CHECKS = ("check", "status", "finding", "advice")
"""Columns of ``tokens.csv`` and ``checks.json`` that are needed."""


@dataclass(frozen=True)
class RunFolder:
    """What ``run``, ``identify`` or ``doctor`` wrote; parts that are not there are empty."""

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
        scores, answers = folder / "attributions.safetensors", folder / "knowledge.json"
        attributions = Attributions.load(scores) if scores.is_file() else None
        knowledge = Knowledge.load(answers) if answers.is_file() else None
        sets, results = _load_sets(folder, attributions), _load_conditions(folder)
        if not (attributions or sets or results or knowledge):
            raise ValueError(f"'{folder}' has no results: expected what `kb-lens run` wrote.")
        there = (folder / "specificity.csv").is_file()
        specificity = Specificity.load(folder) if there else None
        joined = folder / "neurons.json"
        return cls(
            attributions,
            sets,
            results,
            knowledge,
            specificity,
            neurons=NeuronSet.load(joined) if joined.is_file() else None,
            tokens=_load_tokens(folder / "tokens.csv"),
            checks=_load_checks(folder / "checks.json"),
            record=load_record(folder),
        )


def _load_tokens(path: Path) -> pd.DataFrame | None:
    """A token may be spelled like a missing value (``NA``, ``null``) and is none."""
    if not path.is_file():
        return None
    return _with_columns(pd.read_csv(path, keep_default_na=False), _TOKENS, path)


def _load_checks(path: Path) -> pd.DataFrame | None:
    found = _load_json(path)
    return None if found is None else _with_columns(pd.DataFrame(found), _CHECKS, path)


def _with_columns(table: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    if lacking := [name for name in columns if name not in table]:
        raise ValueError(f"'{path}' is not what kb_lens writes: no {lacking[0]!r}.")
    return table


def _load_sets(folder: Path, attributions: Attributions | None) -> dict[str, NeuronSet]:
    """The neurons of each dimension, in the order of the questions; else the joined set alone."""
    order = list(attributions.by_dimension()) if attributions is not None else []
    files = {path.stem: path for path in sorted((folder / "neurons").glob("*.json"))}
    names = [name for name in order if name in files]
    names += [name for name in files if name not in names]
    if names:
        return {name: NeuronSet.load(files[name]) for name in names}
    joined = folder / "neurons.json"
    return {"all": NeuronSet.load(joined)} if joined.is_file() else {}


def _load_conditions(folder: Path) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results: base first, then by name, with lambda 2 before lambda 10."""
    folders = [path.parent for path in (folder / "evaluations").glob("*/results.json")]
    folders.sort(key=lambda path: (path.name != "base", _natural(path.name)))
    return {path.name: list(load_results(path).values()) for path in folders}


def read_conditions(
    folders: Sequence[str | os.PathLike[str]],
) -> dict[str, list[EvaluationResult]]:
    """Condition -> its results, from folders of ``evaluate`` or one of ``run``.

    Raises:
        ValueError: If a folder has no results, two have one name, or there are not two conditions.
    """
    found: dict[str, list[EvaluationResult]] = {}
    for folder in map(Path, folders):
        conditions = _load_conditions(folder)
        if not conditions:
            conditions = {folder.resolve().name: list(load_results(folder).values())}
        if twice := found.keys() & conditions.keys():
            raise ValueError(
                f"two folders are named {min(twice)!r}; rename one: it names the method."
            )
        found |= conditions
    if len(found) < 2:
        raise ValueError(
            f"nothing to compare: got {', '.join(found) or 'no folder'}. Name at least two folders "
            "of `kb-lens evaluate`, the base first, or one of `kb-lens run`."
        )
    return found


def _natural(name: str) -> list[tuple[int, float, str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(1, float(part), "") if i % 2 else (0, 0.0, part) for i, part in enumerate(parts)]
