"""Second half of the main job: measure conditions on benchmarks, a folder each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import EvaluationResult, check_folder, save_results
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import HookedModel
from kb_lens.runs.units import Unit, check_units
from kb_lens.shared_work import work_off
from kb_lens.store import Store
from kb_lens.user_warnings import each_once


def check_asked(model: HookedModel, condition: Condition, benchmarks: Sequence[Benchmark]) -> None:
    """Raise `ValueError` if a benchmark does not work for the model under a condition."""
    check_units(model, [Unit(condition, benchmark) for benchmark in benchmarks])


def measure(
    model: HookedModel,
    condition: Condition,
    benchmarks: Sequence[Benchmark],
    folder: str | os.PathLike[str],
    *,
    store: Store | None = None,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate one condition on all benchmarks, see `measure_all`.

    Args:
        model: The model, without the intervention.
        condition: The change of the model.
        benchmarks: The benchmarks.
        folder: The folder for ``results.json`` and ``items/``.
        store: As for `measure_all`; default ``store`` in the folder.
        seed: Seed of the bootstrap.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder has results of another model or intervention.
    """
    if store is None:
        store = Store(Path(folder) / "store", SUFFIX)
    options: dict[str, Any] = {"seed": seed, "batch_tokens": batch_tokens, "progress": progress}
    measured = measure_all(model, {Path(folder): condition}, benchmarks, store, **options)
    return measured[condition.name]


@each_once()
def measure_below(
    folder: Path,
    model: HookedModel,
    conditions: Sequence[Condition],
    benchmarks: Sequence[Benchmark],
    **options: Any,
) -> dict[str, list[EvaluationResult]]:
    """Evaluate conditions into ``evaluations/NAME`` of a job's folder, by `measure_all`.

    One store serves all conditions: its keys depend on the content of what is measured.
    """
    folders = {folder / "evaluations" / condition.name: condition for condition in conditions}
    return measure_all(model, folders, benchmarks, Store(folder / "store", SUFFIX), **options)


def measure_all(
    model: HookedModel,
    conditions: Mapping[Path, Condition],
    benchmarks: Sequence[Benchmark],
    store: Store,
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> dict[str, list[EvaluationResult]]:
    """Evaluate every condition on all benchmarks; results in the store are not computed again.

    Args:
        model: The model, without the interventions.
        conditions: Folder for ``results.json`` and ``items/`` -> the change of the model.
        benchmarks: The benchmarks.
        store: The store of results and unfinished benchmarks. Processes that share it share the
            work.
        seed: Seed of the bootstraps.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Returns:
        Condition's name -> a result per benchmark.

    Raises:
        ValueError: If a folder has results of another model or intervention.
    """
    for folder, condition in conditions.items():
        check_folder(folder, model, condition.describe())
    folder_of = {condition.name: folder for folder, condition in conditions.items()}
    units = {
        condition.name: [Unit(condition, benchmark, seed, batch_tokens) for benchmark in benchmarks]
        for condition in conditions.values()
    }
    keys = {str(unit): unit.key(model) for of_one in units.values() for unit in of_one}

    def work(unit: Unit) -> bytes:
        content = unit.entry(model, store, progress=progress)
        # Written at once, so that the folder can be read meanwhile.
        save_results(folder_of[unit.condition.name], [unit.named(content, model)])
        return content

    pieces = {keys[str(unit)]: unit for of_one in units.values() for unit in of_one}
    work_off(
        pieces,
        store,
        work,
        assist=lambda unit: unit.assist(model, store),
        progress=progress and len(pieces) > 1,
    )
    results = {
        name: [unit.kept(keys[str(unit)], model, store) for unit in of_one]
        for name, of_one in units.items()
    }
    for name, measured in results.items():
        save_results(folder_of[name], measured)
    return results
