"""The job of ``kb-lens tune``: choose and test a model's lambda, in one folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.neurons.sets import check_neurons, neurons_of
from kb_lens.runs.benchmark_names import load_named, own_sources
from kb_lens.runs.cost import Workload
from kb_lens.runs.execution import EvaluateExecution
from kb_lens.runs.given_neurons import given_neurons
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import Items, ModelChoice, Seeded
from kb_lens.studies.tuned import Tuning
from kb_lens.studies.tuning import LAMS, check_choice, tune_lambda


@dataclass(frozen=True, kw_only=True)
class TuneSettings(Seeded, Items, ModelChoice):
    """What the choice of lambda depends on."""

    neurons: Path
    """A neurons.json, or names: L26.N1371,L28.N1095."""
    bias: str = "stereoset"
    """The benchmark to improve."""
    capability: str = "openbookqa"
    """The benchmark that may not get worse."""
    lam: tuple[float, ...] = LAMS
    """Factor; several with commas or repeated."""
    bound: float = 5.0
    """Loss of capability, in points, that is not accepted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.lam, self.bound, self.dtype)
        if "," in self.bias + self.capability:
            raise ValueError("--bias and --capability name one benchmark each.")


def choose_lambda(
    out: str | os.PathLike[str], settings: TuneSettings, execution: EvaluateExecution
) -> Tuning:
    """Choose lambda on one half of the items and test it on the other; see `tune_lambda`.

    Args:
        out: The folder.
        settings: Model, neurons, benchmarks, factors.
        execution: Device, batch size, workers.

    Raises:
        ValueError: As `tune_lambda`, or if the folder holds another run.
    """
    log = RunLog(Path(out), "tune", settings, execution)
    log.check()
    given = given_neurons(settings.neurons)
    benchmarks = _benchmarks(settings)
    log.items = own_sources(benchmarks)
    for benchmark in benchmarks:
        benchmark.split(seed=settings.seed)  # raises for too few items before the model is loaded
    if hands_out(execution):
        return by_workers(partial(choose_lambda, out, settings, execution), execution)
    with log.claimed():
        model = log.load_model(neurons=given)
        neurons = neurons_of(model, given)
        with log.stage("tune"):
            tuning = tune_lambda(
                model,
                neurons,
                benchmarks[0],
                benchmarks[-1],
                lams=settings.lam,
                bound=settings.bound,
                seed=settings.seed,
                folder=out,
                batch_tokens=execution.batch_tokens,
                progress=execution.progress,
            )
        tuning.save(out)
        log.write()
        return tuning


def tune_work(settings: TuneSettings) -> Workload:
    """The work of `choose_lambda`: base and all factors on one half, the choice on the other."""
    check_neurons(given_neurons(settings.neurons))  # raises if they are wrong
    halves = [benchmark.split(seed=settings.seed) for benchmark in _benchmarks(settings)]
    n = len(settings.lam) + 1
    measured = [
        (half, n_times) for pair in halves for half, n_times in zip(pair, (n, 2), strict=True)
    ]
    return Workload(measured=measured)


def _benchmarks(settings: TuneSettings) -> list[Benchmark]:
    """The benchmarks for bias and capability; if they are the same it is loaded once."""
    options = {settings.capability: "--capability", settings.bias: "--bias"}
    names = dict.fromkeys((settings.bias, settings.capability))
    return [load_named([name], settings, settings.seed, options[name])[0] for name in names]
