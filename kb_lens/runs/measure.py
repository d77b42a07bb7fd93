"""Second half of the main job: one condition on all benchmarks, in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import EvaluationResult, check_folder, save_results
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import HookedModel
from kb_lens.runs.units import Unit, check_units
from kb_lens.store import Store


def check_asked(model: HookedModel, condition: Condition, benchmarks: Sequence[Benchmark]) -> None:
    """Raise `ValueError` for a benchmark that cannot be asked of the model under a condition."""
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
    """Evaluate one condition on all benchmarks; what the store has is not done again.

    Args:
        model: The model, without the intervention.
        condition: What is done to it.
        benchmarks: What is measured.
        folder: Where ``results.json`` and ``items/`` are written.
        store: Where results and unfinished benchmarks are kept; conditions may share it. Default
            ``store`` in the folder.
        seed: Of the bootstrap.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder has results of another model or intervention.
    """
    check_folder(folder, model, condition.describe())
    if store is None:
        store = Store(Path(folder) / "store", SUFFIX)
    results: list[EvaluationResult] = []
    for benchmark in benchmarks:
        unit = Unit(condition, benchmark, seed, batch_tokens)
        results.append(unit.measured(model, store, progress=progress))
        save_results(folder, results[-1:])  # each at once: the folder can be read meanwhile
    return results
