"""The estimated cost of a job on this machine, from a short measurement of its own work.

The model is loaded as the job would load it. It attributes a question, tries neurons on one, and
scores a few items of each benchmark. The time of these, times the amount of work, estimates the
time of the job. Nothing is downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from kb_lens.attribution.attribute import attribute
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.evaluation.encoding import encode
from kb_lens.evaluation.scoring import different_texts
from kb_lens.evaluation.slices import benchmark_scores
from kb_lens.models.hooked import HookedModel
from kb_lens.models.prompts import PromptTemplate
from kb_lens.models.sources import is_downloaded
from kb_lens.progress import duration
from kb_lens.questions import Question
from kb_lens.runs.execution import Execution
from kb_lens.runs.given_neurons import GivenNeurons
from kb_lens.runs.settings import ModelChoice

# Enough to average over short and long items, and few enough to be done in seconds.
_SAMPLE_ITEMS = 16


@dataclass(frozen=True)
class Workload:
    """The work of a job."""

    questions: Sequence[Question] = ()
    """The questions to attribute."""
    template: PromptTemplate | None = None
    """The words around the questions."""
    attributing: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of `attribute`."""
    measured: Sequence[tuple[Benchmark, int]] = ()
    """Benchmarks, each with its number of conditions."""
    trials: GivenNeurons | None = None
    """Neurons to try one by one on each question; the questions are not attributed then."""
    lams: Sequence[float] = ()
    """The factors that they are tried with."""
    further: str = ""
    """A line about work that cannot be counted beforehand."""


def say_cost(
    settings: ModelChoice,
    execution: Execution,
    work: Workload,
    tell: Callable[[str], object],
    *,
    batch_tokens: int | None = None,
) -> None:
    """Tell what a job would do, and its estimated time and memory; write and download nothing.

    Args:
        settings: The model.
        execution: Its devices.
        work: The work of the job.
        tell: Called with each line.
        batch_tokens: Most tokens per pass when scoring.
    """
    if not is_downloaded(settings.model, settings.revision):
        tell(
            f"{settings.model} is not on this machine, and a dry run downloads nothing: time and "
            "memory cannot be measured."
        )
        return
    start = time.perf_counter()
    model = settings.load(execution)
    tell(f"Loading the model: {duration(time.perf_counter() - start)}")
    total = 0.0
    for words, seconds in _parts(model, work, batch_tokens):
        total += seconds
        tell(f"{words}: about {duration(seconds)}")
    if work.further:
        tell(work.further)
    tell(f"In all about {duration(total)} by one process. {_memory(model)}")


def _parts(
    model: HookedModel, work: Workload, batch_tokens: int | None
) -> Iterator[tuple[str, float]]:
    """Each part of the work in words, and its seconds."""
    if work.questions:
        yield _trials(model, work) if work.trials is not None else _attribution(model, work)
    for benchmark, n_conditions in work.measured:
        yield _scoring(model, benchmark, n_conditions, batch_tokens)


def _attribution(model: HookedModel, work: Workload) -> tuple[str, float]:
    options: dict[str, Any] = {"template": work.template, "progress": False, **work.attributing}
    attribute(model, work.questions[:1], **options)  # warm up: the first pass takes longer
    start = time.perf_counter()
    scores = attribute(model, work.questions[:1], **options)
    each = time.perf_counter() - start
    n = len(work.questions)
    words = f"{n} questions to attribute, {int(scores.nodes.sum())} nodes and {each:.2g} s each"
    return words, each * n


def _trials(model: HookedModel, work: Workload) -> tuple[str, float]:
    assert work.trials is not None
    options: dict[str, Any] = {"lams": work.lams, "template": work.template, "progress": False}
    start = time.perf_counter()
    neuron_effects(model, work.trials, work.questions[:1], **options)
    each = time.perf_counter() - start
    n, rows = len(work.questions), len(work.trials) * len(work.lams)
    return f"{n} questions with {rows} scaled neurons each, {each:.2g} s a question", each * n


def _scoring(
    model: HookedModel, benchmark: Benchmark, n_conditions: int, batch_tokens: int | None
) -> tuple[str, float]:
    n = len(benchmark.items)
    sample = benchmark.slices(_SAMPLE_ITEMS)[0]
    _, seconds = benchmark_scores(model, sample, batch_tokens=batch_tokens, progress=False)
    each = seconds / len(sample.items)
    texts = different_texts(encode(model, [request.last_turn() for request in benchmark.requests]))
    n_tokens = sum(len(text.ids) for text in texts)
    words = f"{benchmark.key}, {n:,} items"
    if texts:
        words += f", {len(texts):,} texts of {n_tokens:,} tokens in all"
    if written := sum(bool(request.write) for request in benchmark.requests):
        words += f", {written:,} answers to write"
    conditions = f"{n_conditions} condition{'s' if n_conditions > 1 else ''}"
    return f"{words}, {conditions} x {each * n:.3g} s", each * n * n_conditions


def _memory(model: HookedModel) -> str:
    """The largest memory in use on each GPU, and the memory of the process."""
    most = {
        f"cuda:{number}": torch.cuda.max_memory_allocated(number)
        for number in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    }
    most["this process"] = psutil.Process().memory_info().rss
    used = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in most.items() if size)
    return f"Memory: {used}; the model is on {model.cfg.device}."
