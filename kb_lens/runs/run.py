"""The main job: neurons, conditions and results in one folder that can be resumed.

1. Ask the model the questions, and find the neurons behind the right answers.
2. Measure every benchmark on the unchanged model, with these neurons enhanced, and with random
   neurons of like influence (by the same factor, and by the factor that does the same damage).
3. Compare, and check whether the differences should be believed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, load_benchmark
from kb_lens.checks.doctor import examine
from kb_lens.checks.matched_factor import MAX_STEPS
from kb_lens.checks.neuron_cards import read_cards
from kb_lens.checks.neuron_meaning import promoted_tokens
from kb_lens.evaluation.comparison import summarize
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import HookedModel
from kb_lens.models.loading import EMBEDDED_MODEL
from kb_lens.questions import load_questions
from kb_lens.records.tables import write_csv
from kb_lens.runs.benchmark_names import load_available, own_sources
from kb_lens.runs.cost import Workload
from kb_lens.runs.diagnose import Compared, compared, save_checks
from kb_lens.runs.execution import JobExecution, RunExecution
from kb_lens.runs.folder import RunFolder
from kb_lens.runs.identify import Identified, identify, identify_work
from kb_lens.runs.measure import check_asked, measure_below
from kb_lens.runs.random_controls import run_conditions
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog, belongs_to
from kb_lens.runs.same_damage import damage_texts
from kb_lens.runs.settings import RunSettings, values_of, with_keywords
from kb_lens.user_warnings import warn_user

_USUAL_STEPS = 5
"""Trials that the search for the same damage usually takes."""


def run(
    model: str | os.PathLike[str] | HookedModel = EMBEDDED_MODEL,
    out: str | os.PathLike[str] = "out/run",
    settings: RunSettings | None = None,
    execution: RunExecution | None = None,
    *,
    tell: Callable[[str], object] = lambda text: None,
    left_out: Callable[[str], object] = warn_user,
    **keywords: Any,
) -> RunFolder:
    """Find neurons, enhance them, and measure before and after: all but the figures and the report.

    A folder that holds the same run, finished or not, is resumed. The command ``kb-lens run`` also
    draws the figures (`kb_lens.figures.make_all`) and writes the report
    (`kb_lens.report.write.write_report`).

    Args:
        model: A loaded model, or what `load_model` takes.
        out: The folder.
        settings: What the results depend on.
        execution: How they are computed.
        tell: Called with lines about the work and the findings; ``print`` shows them.
        left_out: Called with each part that cannot be done, and why; by default a warning.
        keywords: Fields of `settings` and `execution`: ``limit=50, lam=(2.0,), batch_tokens=256``.

    Returns:
        The folder, read back.

    Raises:
        ValueError: If a setting is not allowed, or the folder holds another run.
    """
    settings, execution = settings or RunSettings(), execution or JobExecution()
    settings, execution = with_keywords(settings, execution, keywords)
    log = RunLog(Path(out), "run", settings.of(model), execution)
    # Everything that can be refused is refused before the model is loaded, which is slow.
    log.check()
    questions = settings.load_questions()
    if hands_out(execution):
        if not isinstance(model, str | os.PathLike):
            raise ValueError("engine is 'ray', whose workers load the model: give its name.")
        job = partial(run, model, out, settings, execution)
        return by_workers(job, execution, tell=tell, left_out=left_out)
    options: dict[str, Any] = {"template": settings.template(), "progress": execution.progress}
    options["batch_size"] = execution.batch_size
    benchmarks = load_available(
        settings.benchmarks, settings, settings.seed, DEFAULT_BENCHMARKS, left_out
    )
    log.items = own_sources(benchmarks)
    with log.claimed():
        loaded = log.load_model(model)
        check_asked(loaded, Condition("base"), benchmarks)
        with log.stage("identify"):
            identified = identify(loaded, questions, out, settings, tell=tell, **options)
        with log.stage("random controls"):
            chosen = run_conditions(
                loaded, identified.neurons, settings, execution, log.folder / "store", left_out
            )
        tell(f"\nEvaluating: {', '.join(condition.name for condition in chosen)}")
        with log.stage("evaluate"):
            results = measure_below(
                log.folder,
                loaded,
                chosen,
                benchmarks,
                seed=settings.seed,
                batch_tokens=execution.batch_tokens,
                progress=execution.progress,
            )
        with log.stage("checks and tokens"):
            summary = summarize(results, seed=settings.seed)
            write_csv(log.folder / "summary.csv", summary, belongs_to(loaded))
            write_reading(loaded, identified, results, settings.lam[0], log.folder, left_out)
            write_cards(loaded, identified, log.folder, execution)
        log.write()
        return RunFolder.load(out)


def run_work(
    settings: RunSettings, execution: RunExecution, left_out: Callable[[str], object]
) -> Workload:
    """The work of `run`."""
    benchmarks = load_available(
        settings.benchmarks, settings, settings.seed, DEFAULT_BENCHMARKS, left_out
    )
    # the base; each factor; random neurons by the same factor, and at the same damage
    n = 1 + sum(1 + (lam != 1) + (lam > 1) for lam in settings.lam)
    measured = [(benchmark, n) for benchmark in benchmarks]
    # what `run_conditions` does: every neuron's influence, and the search for the same damage
    n_tried = 1 + (1 + _USUAL_STEPS) * sum(lam > 1 for lam in settings.lam)
    measured += [(load_benchmark("plain_text"), 1), (damage_texts(settings.seed), n_tried)]
    further = (
        "The passages of plain text choose the random neurons, and their factors of the same "
        f"damage in {_USUAL_STEPS} trials each, at most {MAX_STEPS}. Not counted: the neurons' "
        "cards, the figures and the report."
    )
    return replace(identify_work(settings, execution), measured=measured, further=further)


def write_cards(
    model: HookedModel, identified: Identified, folder: Path, execution: RunExecution
) -> None:
    """The cards of the neurons with the largest mean scores, in ``cards``."""
    count = getattr(execution, "cards", 0)
    if not count or not len(identified.neurons):
        return
    scores = identified.attributions.scores.mean(0)
    ranked = sorted(identified.neurons, key=lambda n: -float(scores[n.layer, n.index]))
    leading = replace(identified.neurons, neurons=tuple(ranked[:count]))
    texts = [question.text for question in load_questions(None)]  # passages would double the time
    cards = read_cards(model, leading, texts=texts, progress=execution.progress)
    cards.save(folder / "cards")


def write_reading(
    model: HookedModel,
    identified: Identified,
    results: Mapping[str, Sequence[EvaluationResult]],
    lam: float,
    folder: str | os.PathLike[str],
    left_out: Callable[[str], object] = warn_user,
) -> None:
    """Write what a report needs besides the results: ``checks.json`` and ``tokens.csv``.

    Args:
        model: The model.
        identified: Its neurons.
        results: Condition -> its results.
        lam: The factor that is examined.
        folder: The folder.
        left_out: Called with the reason if the neurons' tokens cannot be found.
    """
    checks = examine(
        knowledge=identified.knowledge,
        attributions=identified.attributions,
        sets=identified.sets,
        **values_of(Compared, compared(results, lam)),
    )
    save_checks(checks, folder, model)
    try:
        tokens = promoted_tokens(model, identified.neurons)
    except ValueError as error:  # packed weights cannot be read
        left_out(f"LEFT OUT: the tokens that the neurons promote. {error}")
    else:
        write_csv(Path(folder) / "tokens.csv", tokens, belongs_to(model))
