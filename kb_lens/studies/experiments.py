"""Run the paper's studies and turn them into tidy tables.

A study's plan becomes units of work (one condition on one benchmark). Several processes may share
them; results are kept by content, and no unit is done twice. The tables are computed only from the
kept results, so they do not depend on interruptions or on who did which unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.arguments import did_you_mean
from kb_lens.benchmarks.benchmark import Benchmark, result_key
from kb_lens.checks.control_tests import ENOUGH_DRAWS, control_table, with_rates
from kb_lens.evaluation.comparison import compare, rank_table
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.progress import progress_bar
from kb_lens.runs.units import Unit, check_units
from kb_lens.shared_work import work_off
from kb_lens.studies.cost import time_words, work_words
from kb_lens.studies.lab import Case, Lab, Plan
from kb_lens.studies.methods import NULL_BENCHMARKS, methods, without_neurons
from kb_lens.studies.plans import STUDIES
from kb_lens.studies.tables import Experiment
from kb_lens.user_warnings import each_once

EXPERIMENTS: dict[str, Callable[[Lab], Plan]] = {**STUDIES, "methods": methods}
"""Name -> the plan of a study."""

DEFAULT_STUDY_BENCHMARKS = {
    "all": ("stereoset", "crows_pairs", "openbookqa", "plain_text@24"),
    "right-answers": ("stereoset",),
    "methods": (
        *("stereoset", "crows_pairs", "bbq_religion@100", "bbq_age@100", "openbookqa@100"),
        *("arc_easy@100", "plain_text@24"),
    ),
}
"""The default benchmarks of a study, some with a number of items; ``all``: of all other studies."""
WHOLE = ("stereoset", "crows_pairs")
"""Benchmarks of which a study measures all items by default: a few hundred items are too few for
changes of bias of the expected size."""
OTHERS_LIMIT = 200
"""Default number of items of every other benchmark, balanced."""

BASE = Condition("base")
_COUNTS = ("n", "clusters")
"""Columns with the size of the sample."""


Job = tuple[str, str]
"""The name of a condition, and the key of a benchmark."""
Results = Mapping[Job, EvaluationResult]


def n_controls(name: str) -> int:
    """The default number of random sets of each kind in a study."""
    # The other studies need no p: they show a spread, or have no random sets.
    return ENOUGH_DRAWS if name in ("methods", "right-answers") else 3


def check_name(name: str) -> None:
    """Raise `ValueError` if there is no such study."""
    if name not in EXPERIMENTS:
        raise ValueError(
            f"no study {name!r}: allowed are {', '.join(EXPERIMENTS)}."
            f"{did_you_mean(name, EXPERIMENTS)}"
        )


@each_once()
def experiment(
    name: str,
    lab: Lab,
    benchmarks: Sequence[Benchmark],
    *,
    tell: Callable[[str], object] = lambda text: None,
) -> Experiment:
    """Run a study; with ``lab.store`` it resumes where it was interrupted.

    Args:
        name: One of `EXPERIMENTS`.
        lab: Model and settings.
        benchmarks: The benchmarks of every case.
        tell: Called with the work to do and its estimated time.

    Raises:
        ValueError: If the study is unknown, there is no benchmark, two have one key, or a benchmark
            cannot be measured under a condition.
    """
    by_key = _by_key(name, benchmarks)
    if name == "methods":  # checked first: finding everything else may take hours
        check_units(lab.model, dict(_jobs(Plan(without_neurons(lab)), by_key, lab)).values())
    tell(f"{name}: finding the neurons, planning the conditions.")
    plan = EXPERIMENTS[name](lab)
    jobs = dict(_jobs(plan, by_key, lab))
    check_units(lab.model, jobs.values())
    keys = {job: unit.key(lab.model) for job, unit in jobs.items()}
    units: dict[str, Unit] = {}
    for job, key in keys.items():  # different thresholds can select the same neurons
        units.setdefault(key, jobs[job])
    tell(work_words(name, units, _left(units, lab)))
    entries = _done(units, lab, tell)
    # A result is kept by content, so the name and role of its condition come from the job.
    results = {
        job: replace(entries[keys[job]], condition=unit.condition.info())
        for job, unit in jobs.items()
    }
    tables = {"results": _results_table(plan, results, lab), **plan.tables}
    if tests := list(_tests(plan, by_key, results, lab.seed)):
        tables["control_tests"] = with_rates(pd.concat(tests, ignore_index=True))
    ranked = _ranked(plan, by_key, results) if name == "methods" else {}
    if ranked:
        tables["ranks"] = rank_table(ranked, seed=lab.seed)
    return Experiment(name, _settings(lab, plan, by_key), tables, ranked)


def _by_key(name: str, benchmarks: Sequence[Benchmark]) -> dict[str, Benchmark]:
    """The benchmarks by key; refused if the study cannot use them."""
    check_name(name)
    by_key = {benchmark.key: benchmark for benchmark in benchmarks}
    if not benchmarks or len(by_key) < len(benchmarks):
        keys = ", ".join(benchmark.key for benchmark in benchmarks)
        raise ValueError(f"give a study one or more benchmarks, each once; got: {keys or 'none'}.")
    names = {benchmark.name for benchmark in benchmarks}
    if name == "methods" and names.isdisjoint(NULL_BENCHMARKS):
        raise ValueError(
            f"the random controls of 'methods' are measured on {', '.join(NULL_BENCHMARKS)}: give "
            "one of these."
        )
    return by_key


def _jobs(plan: Plan, benchmarks: Mapping[str, Benchmark], lab: Lab) -> Iterator[tuple[Job, Unit]]:
    """Every condition on each of its benchmarks, the base model first."""
    for key, benchmark in benchmarks.items():
        yield (BASE.name, key), lab.unit(BASE, benchmark)
        for case in plan.cases:
            if case.benchmarks is None or _names(benchmark) & {*case.benchmarks}:
                yield (case.condition.name, key), lab.unit(case.condition, benchmark)


def _names(benchmark: Benchmark) -> set[str]:
    """The names that a case may use for a benchmark; the user's own items go by the same names."""
    return {benchmark.name, result_key(benchmark.name, benchmark.protocol), benchmark.key}


def _done(
    units: Mapping[str, Unit], lab: Lab, tell: Callable[[str], object]
) -> dict[str, EvaluationResult]:
    """Every unit's result by key. The base model's come first, to estimate the time."""
    base = {key: unit for key, unit in units.items() if unit.condition.change is None}
    entries = _measured(base, lab)
    seconds = {result.key: result.seconds for result in entries.values()}
    left = [units[key] for key in _left(units, lab) if key not in base]
    tell(time_words(left, seconds))
    rest = {key: unit for key, unit in units.items() if key not in entries}
    return entries | _measured(rest, lab)


def _left(units: Mapping[str, Unit], lab: Lab) -> list[str]:
    """The keys of the units without a result."""
    return [key for key in units if lab.store is None or key not in lab.store]


def _measured(units: Mapping[str, Unit], lab: Lab) -> dict[str, EvaluationResult]:
    """The results of units by key."""
    if lab.store is None:
        bar = progress_bar(
            units.items(), desc="measurements", unit="measurement", shown=lab.progress
        )
        return {key: unit.work(lab.model) for key, unit in bar}
    model, store = lab.model, lab.store
    work_off(
        units,
        store,
        lambda unit: unit.entry(model, store),
        assist=lambda unit: unit.assist(model, store),
        progress=lab.progress,
    )
    return {key: unit.kept(key, lab.model, lab.store) for key, unit in units.items()}


def _results_table(plan: Plan, results: Results, lab: Lab) -> pd.DataFrame:
    """The table ``results``, see `Experiment`: a row per condition, benchmark and metric."""
    cases = {case.condition.name: case for case in plan.cases}
    rows: list[dict[str, Any]] = []
    for (name, key), result in progress_bar(
        results.items(), desc="tables", unit="result", shown=lab.progress
    ):
        if name == BASE.name:
            rows += _metric_rows({}, result)
        else:
            base = results[BASE.name, key]
            changes = compare(base, result, seed=lab.seed).set_index("metric")
            rows += _metric_rows(cases[name].row(), result, changes)
    # The columns are named explicitly, since the base model's rows come first and have no labels.
    labels = dict.fromkeys(label for case in plan.cases for label in case.row())
    columns = dict.fromkeys([*labels, *(name for row in rows for name in row)])
    return pd.DataFrame(rows, columns=list(columns))


def _metric_rows(
    labels: Mapping[str, Any], result: EvaluationResult, changes: pd.DataFrame | None = None
) -> Iterator[dict[str, Any]]:
    """A row per metric; for how items moved there is only a difference."""
    condition = result.condition
    head = {
        **labels,
        "role": condition.role,
        "control_of": condition.control_of,
        "draw": condition.draw,
        "benchmark": result.key,
    }
    names = list(result.metrics) if changes is None else list(changes.index)
    for name in names:
        row = {**head, "metric": name}
        if (metric := result.metrics.get(name)) is not None:
            row |= {name: getattr(metric, name) for name in ("value", "low", "high", *_COUNTS)}
        if changes is not None:
            change = changes.loc[name]
            row |= {count: int(change[count]) for count in _COUNTS}
            row |= {"difference": change["difference"]}
            row |= {"difference_low": change["low"], "difference_high": change["high"]}
        yield row


def _tests(
    plan: Plan, benchmarks: Mapping[str, Benchmark], results: Results, seed: int
) -> Iterator[pd.DataFrame]:
    """Every method's tests against its random draws, on the benchmarks of the draws."""
    for test, draws in plan.tests().items():
        first = draws[0].condition
        keys = [key for key in benchmarks if (first.name, key) in results]

        def measured(name: str, keys: Sequence[str] = keys) -> list[EvaluationResult]:
            return [results[name, key] for key in keys]

        methods = {name: measured(name) for name in (str(first.control_of),)}
        controls = {case.condition.name: measured(case.condition.name) for case in draws}
        table = control_table(measured(BASE.name), methods, controls, seed=seed)
        yield table.assign(role="method", control=test)


def _ranked(
    plan: Plan, benchmarks: Mapping[str, Benchmark], results: Results
) -> dict[str, list[EvaluationResult]]:
    """The cases that were measured on all benchmarks; of a test's random draws only the first."""
    later = {case.condition.name for draws in plan.tests().values() for case in draws[1:]}
    names = [
        case.condition.name
        for case in plan.cases
        if _measured_on_all(case, benchmarks) and case.condition.name not in later
    ]
    return {name: [results[name, key] for key in benchmarks] for name in (BASE.name, *names)}


def _measured_on_all(case: Case, benchmarks: Mapping[str, Benchmark]) -> bool:
    """Whether a case was measured on every benchmark; a control only if its plan says so."""
    if case.benchmarks is None:
        return True
    names = {*case.benchmarks}
    on_all = all(_names(benchmark) & names for benchmark in benchmarks.values())
    return on_all and case.condition.role != "control"


def _settings(lab: Lab, plan: Plan, benchmarks: Mapping[str, Benchmark]) -> dict[str, Any]:
    names = ("n_questions", "tau", "beta", "lam", "n_controls", "seed")
    return {
        "model": model_name(lab.model),
        "fingerprint": fingerprint(lab.model),
        "dtype": str(lab.model.cfg.dtype).removeprefix("torch."),
        **{name: getattr(lab, name) for name in names},
        "template": asdict(lab.template),
        **plan.settings,
        # The number of rows per pass does not change the results.
        "attribution": {name: lab.options[name] for name in lab.options if name != "batch_size"},
        "benchmarks": {key: _facts(benchmark) for key, benchmark in benchmarks.items()},
        **({"also": also} if (also := _also(lab, plan)) else {}),
    }


def _also(lab: Lab, plan: Plan) -> dict[str, Any]:
    """The further methods of the study."""
    measured = {case.condition.name for case in plan.cases}
    return {name: change.describe() for name, change in lab.also.items() if name in measured}


def _facts(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "items": len(benchmark.items),
        "source": Path(benchmark.source).name,
        "digest": benchmark.digest,
    }
