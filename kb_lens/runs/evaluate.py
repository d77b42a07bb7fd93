"""Measure a model, with or without scaled neurons, into one folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling, check_factor
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import check_neurons, neurons_of
from kb_lens.runs.benchmark_names import load_named, own_sources
from kb_lens.runs.cost import Workload
from kb_lens.runs.execution import EvaluateExecution
from kb_lens.runs.given_neurons import GivenNeurons, given_neurons
from kb_lens.runs.measure import check_asked, measure
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import Measuring, ModelChoice, Seeded
from kb_lens.store import Store


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Seeded, Measuring, ModelChoice):
    """What the results of ``evaluate`` depend on."""

    neurons: Path | None = None
    """A neurons.json to scale, or names: L26.N1371,L28.N1095."""
    lam: float | None = None
    """The factor; needs --neurons."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.neurons is None) != (self.lam is None):
            raise ValueError("--neurons and --lam belong together: give both or neither.")
        if self.lam is not None:
            check_factor(self.lam, self.dtype)

    def given_neurons(self) -> GivenNeurons | None:
        """The neurons to scale, if any. Whether they fit the model is not known yet.

        Raises:
            ValueError: If the file has no set of neurons or a name is not a neuron's.
        """
        if self.neurons is None:
            return None
        neurons = given_neurons(self.neurons)
        check_neurons(neurons)
        return neurons

    def condition(self, model: HookedModel, neurons: GivenNeurons | None) -> Condition:
        """The unchanged model, or the model with the neurons scaled."""
        if neurons is None or self.lam is None:
            return Condition("base")
        return Condition(f"lambda {self.lam:g}", Scaling(neurons_of(model, neurons), self.lam))


def evaluate_work(settings: EvaluateSettings) -> Workload:
    """The work of `evaluate_model`."""
    benchmarks = load_named(settings.benchmarks, settings, settings.seed)
    settings.given_neurons()  # raises if they are wrong
    return Workload(measured=[(benchmark, 1) for benchmark in benchmarks])


def evaluate_model(
    out: str | os.PathLike[str], settings: EvaluateSettings, execution: EvaluateExecution
) -> list[EvaluationResult]:
    """Measure one condition of a model; existing results are kept.

    Args:
        out: The folder.
        settings: Model, condition, benchmarks.
        execution: Device, batch size, workers.

    Raises:
        ValueError: As `measure`, or if the folder holds another run.
    """
    log = RunLog(Path(out), "evaluate", settings, execution)
    log.check()
    # All benchmarks must have data, the default ones too: the results will be compared later.
    benchmarks = load_named(settings.benchmarks, settings, settings.seed)
    log.items = own_sources(benchmarks)
    neurons = settings.given_neurons()
    if hands_out(execution):
        return by_workers(partial(evaluate_model, out, settings, execution), execution)
    with log.claimed():
        model = log.load_model(neurons=neurons)
        condition = settings.condition(model, neurons)
        check_asked(model, condition, benchmarks)
        with log.stage("evaluate"):
            results = measure(
                model,
                condition,
                benchmarks,
                out,
                store=Store(log.folder / "store", SUFFIX),
                seed=settings.seed,
                batch_tokens=execution.batch_tokens,
                progress=execution.progress,
            )
        log.write()
        return results
