"""The job of ``kb-lens experiment``: a study of a model in one folder, by one or many workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kb_lens.arguments import check_count
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import save_results
from kb_lens.interventions.scaling import check_factor
from kb_lens.models.hooked import HookedModel
from kb_lens.questions import Question
from kb_lens.runs.asking import Asking, ControlBank
from kb_lens.runs.benchmark_names import load_available, own_sources
from kb_lens.runs.cost import Workload
from kb_lens.runs.execution import RunExecution
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import Items, ModelChoice, Seeded, Thresholds, values_of
from kb_lens.store import Store
from kb_lens.studies.also import check_checkpoints, load_also, read_also, weights_of
from kb_lens.studies.experiments import (
    DEFAULT_STUDY_BENCHMARKS,
    EXPERIMENTS,
    OTHERS_LIMIT,
    WHOLE,
    check_name,
    experiment,
    n_controls,
)
from kb_lens.studies.lab import Lab
from kb_lens.studies.tables import Experiment


@dataclass(frozen=True, kw_only=True)
class StudyName:
    """The study."""

    name: Annotated[str, Parameter(help=f"One of {', '.join(EXPERIMENTS)}.")] = field(kw_only=False)
    """One of `EXPERIMENTS`."""


# The last base comes first on the command line: NAME, then MODEL.
@dataclass(frozen=True, kw_only=True)
class ExperimentSettings(Seeded, Thresholds, Items, ControlBank, Asking, ModelChoice, StudyName):
    """What the tables of a study depend on."""

    benchmarks: tuple[str, ...] | None = None
    """Comma-separated: NAME[=FILE][:PROTOCOL][@ITEMS]; default the study's own."""
    limit: int | None = None
    """Items per benchmark, balanced; default all of stereoset and crows_pairs, 200 of others."""
    lam: float = 2.0
    """The factor, where the study does not vary it."""
    controls: int | None = None
    """Random sets of each kind; a p needs 99. Default 99 in methods and right-answers, else 3."""
    also: tuple[str, ...] = ()
    """Comma-separated: NAME=CHECKPOINT, further trained baselines for methods."""

    def __post_init__(self) -> None:
        check_name(self.name)
        super().__post_init__()
        check_factor(self.lam, self.dtype)
        if self.controls is not None:
            check_count("--controls", self.controls)
        self.checkpoints()

    def limit_of(self, benchmark: str) -> int | None:
        """The limit of the settings; by default all items of a bias benchmark."""
        if self.limit is None and benchmark not in WHOLE:
            return OTHERS_LIMIT
        return self.limit

    def checkpoints(self) -> dict[str, str]:
        """Name -> checkpoint of the trained baselines."""
        return read_also(self.also, self.name)

    def load_benchmarks(self, left_out: Callable[[str], object]) -> list[Benchmark]:
        """The named benchmarks, or the study's default ones."""
        default = DEFAULT_STUDY_BENCHMARKS.get(self.name, DEFAULT_STUDY_BENCHMARKS["all"])
        names = default if self.benchmarks is None else self.benchmarks
        return load_available(names, self, self.seed, default, left_out)


def run_study(
    out: str | os.PathLike[str],
    settings: ExperimentSettings,
    execution: RunExecution,
    left_out: Callable[[str], object],
    tell: Callable[[str], object] = lambda text: None,
) -> Experiment:
    """Run a study to its end; after an interruption the same call resumes.

    Args:
        out: The folder of all studies: this study's is ``out/<name>``; attributions and finished
            units are shared.
        settings: Study, model, benchmarks.
        execution: Device, batch sizes, workers.
        left_out: Called with the reason for each default benchmark without data.
        tell: Called with the work to do and its estimated time.

    Raises:
        ValueError: As `experiment`, or if the folder holds another run.
    """
    folder = Path(out) / settings.name
    log = RunLog(folder, "experiment", settings, execution)
    log.check()
    if hands_out(execution):
        job = partial(run_study, out, settings, execution)
        return by_workers(job, execution, left_out=left_out, tell=tell)
    benchmarks = settings.load_benchmarks(left_out)
    log.items = own_sources(benchmarks)
    # these raise before the model is loaded
    settings.load_questions()
    settings.template()
    control = settings.load_control()
    checkpoints = settings.checkpoints()
    check_checkpoints(checkpoints)
    with log.claimed():
        with log.stage("load the model"):
            model = settings.load(execution)
            trust = settings.trust_remote_code
            also = load_also(model, checkpoints, trust_remote_code=trust)
        log.also = weights_of(also)
        log.begin(model)
        lab = _lab(model, control, benchmarks, Path(out), settings, execution)
        lab = replace(lab, also=also)
        with log.stage(settings.name):
            study = experiment(settings.name, lab, benchmarks, tell=tell)
        study.save(folder)
        for condition, results in study.ranked.items():
            save_results(folder / "evaluations" / condition, results)
        log.write()
        return study


def study_work(
    settings: ExperimentSettings, execution: RunExecution, left_out: Callable[[str], object]
) -> Workload:
    """The work of `run_study` for the base model; it decides the number of conditions."""
    further = (
        "Each further condition takes about as long as the base on each benchmark. Their number is "
        "known when the neurons are found."
    )
    return Workload(
        settings.load_questions(),
        settings.template(),
        {"batch_size": execution.batch_size},
        [(benchmark, 1) for benchmark in settings.load_benchmarks(left_out)],
        further=further,
    )


def _lab(
    model: HookedModel,
    control: Sequence[Question] | None,
    benchmarks: Sequence[Benchmark],
    out: Path,
    settings: ExperimentSettings,
    execution: RunExecution,
) -> Lab:
    rows = execution.batch_size
    # If plain text is among the benchmarks, the passages for matching damage are measured too.
    passages = [benchmark for benchmark in benchmarks if benchmark.key == "plain_text"]
    return Lab(
        model,
        asking=Asking(**values_of(Asking, settings)),
        control=control,
        tau=settings.tau,
        beta=settings.beta,
        lam=settings.lam,
        n_controls=settings.controls or n_controls(settings.name),
        seed=settings.seed,
        cache_dir=out / "store",
        plain_text=passages[0] if passages else None,
        options={} if rows is None else {"batch_size": rows},
        batch_tokens=execution.batch_tokens,
        store=Store(out / "store", SUFFIX),
        progress=execution.progress,
    )
