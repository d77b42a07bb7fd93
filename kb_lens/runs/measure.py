"""Second half of the main job: one condition on all benchmarks, in one folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult, check_folder, save_results
from kb_lens.interventions.conditions import Condition


def measure(
    model: Any,
    condition: Condition,
    benchmarks: Sequence[Benchmark],
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate one condition on all benchmarks; results that are there already are kept.

    Args:
        model: The model, without the intervention.
        condition: What is done to it.
        benchmarks: What is measured.
        folder: Where ``results.json`` and ``items/`` are.
        seed: Of the bootstrap.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder has results of another model or intervention.
    """
    check_folder(folder, model, condition.describe())
    benchmarks = [condition.asked(benchmark) for benchmark in benchmarks]
    kept = _kept(folder, benchmarks, seed)
    missing = [benchmark for benchmark in benchmarks if benchmark.key not in kept]
    with condition.applied(model) if missing else nullcontext():
        for benchmark in missing:
            result = evaluate(
                model, benchmark, batch_tokens=batch_tokens, progress=progress, seed=seed
            )
            result = replace(result, condition=condition.info())
            save_results(folder, [result])
            kept[benchmark.key] = result
    return [kept[benchmark.key] for benchmark in benchmarks]


def _kept(
    folder: str | os.PathLike[str], benchmarks: Sequence[Benchmark], seed: int
) -> dict[str, EvaluationResult]:
    """Results on the same items, asked the same way, that are there whole."""
    kept = {}
    for benchmark in benchmarks:
        try:
            found = EvaluationResult.load(folder, benchmark.key)
        except (ValueError, OSError):  # none, or damaged: measured again
            continue
        same = (found.digest, found.seed) == (benchmark.digest, seed)
        if same and list(found.items["item"]) == list(benchmark.items["item"]):
            kept[benchmark.key] = found
    return kept
