"""Measure a model on a benchmark and keep every item.

This is the last step of the method, with the same call outside and inside an intervention's
``with`` block. Nothing here knows about interventions, so the base and the enhanced model take the
same path and differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from kb_lens.arguments import check_count
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import formulas
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.evaluation.slices import benchmark_scores
from kb_lens.intervals import warn_of_few
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, fingerprint, model_name
from kb_lens.statistics import DEFAULT_RESAMPLES, Formulas, Metric, bootstrap, check_resampling
from kb_lens.store import Store


@as_the_checkpoint
def evaluate(
    model: HookedModel,
    benchmark: Benchmark,
    *,
    store: Store | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
    seed: int = 0,
    n_bootstrap: int = DEFAULT_RESAMPLES,
) -> EvaluationResult:
    """Score a benchmark's items with a model and compute its metrics.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``, with whatever hooks are attached.
        benchmark: A result of `load_benchmark`.
        store: Store of the scores of finished slices of items, so that the same call continues
            after an interruption. It does not know about hooks: use another store for each
            intervention.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show a progress bar.
        seed: Of the bootstrap.
        n_bootstrap: Resamples for the confidence intervals.

    Returns:
        Metrics with intervals, and the item table.

    Raises:
        ValueError: If an argument is not allowed, an item does not fit the model's context, or a
            score is not finite.
    """
    if not isinstance(benchmark, Benchmark):
        raise ValueError(f"benchmark is {benchmark!r}: give a result of load_benchmark.")
    check_resampling(n_bootstrap, seed)  # now, not after hours of scoring
    if batch_tokens is not None:
        check_count("batch_tokens", batch_tokens)
    scores, seconds = benchmark_scores(
        model, benchmark, store, batch_tokens=batch_tokens, progress=progress
    )
    chat_format = benchmark.chat_format
    # Metrics come only from the table, so that they can be recomputed from saved items.
    table = benchmark.tabulate(benchmark.items, scores)
    metrics = _metrics(benchmark.formulas, table, n_bootstrap, seed)
    _warn_of_few(benchmark, metrics)
    return EvaluationResult(
        benchmark=benchmark.name,
        protocol=benchmark.protocol,
        source=benchmark.source,
        model=model_name(model),
        fingerprint=fingerprint(model),
        metrics=metrics,
        items=table,
        n_bootstrap=n_bootstrap,
        seed=seed,
        seconds=seconds,
        digest=benchmark.digest,
        chat_format=chat_format and chat_format.to_json(),
        dataset=benchmark.dataset,
    )


def _warn_of_few(benchmark: Benchmark, metrics: Mapping[str, Metric]) -> None:
    """Warn if a headline metric's interval rests on few clusters."""
    definition = benchmark.formulas
    shown = [metric for metric in definition.headline if metric in metrics]
    warn_of_few({m: metrics[m].clusters for m in shown}, benchmark.key, definition.cluster)


def recompute(result: EvaluationResult) -> dict[str, Metric]:
    """The metrics from the item table alone; equal to ``result.metrics``."""
    definition = formulas(result.benchmark, result.protocol)
    return _metrics(definition, result.items, result.n_bootstrap, result.seed)


def _metrics(
    definition: Formulas, table: pd.DataFrame, n_bootstrap: int, seed: int
) -> dict[str, Metric]:
    statistics = definition.summarize(table)  # once: the bootstrap resamples sums, not rows
    return bootstrap(statistics, definition.metrics, n_bootstrap=n_bootstrap, seed=seed)
