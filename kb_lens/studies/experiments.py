"""The paper's studies, run to the end and turned into tidy tables.

A study's plan becomes units of work (one condition on one benchmark), which are done wherever there
are hands, kept by content, and never done twice; the tables are computed from the kept results
alone, so they do not depend on how often the study was interrupted or who did which unit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.checks.control_tests import control_table
from kb_lens.evaluation.comparison import compare, rank_table
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import moved_whole, write_text
from kb_lens.interventions.conditions import Condition
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.runs.engines import run_serial
from kb_lens.runs.unit_store import UnitStore
from kb_lens.runs.units import Unit
from kb_lens.studies.methods import NULL_BENCHMARKS, methods
from kb_lens.studies.plans import STUDIES, Case, Lab, Plan

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
"""What a study is measured on unless told otherwise, some with a number of items of their own;
``all`` stands for the other studies."""

_FORMAT = "kb_lens study 1"
BASE = Condition("base")

Engine = Callable[[Mapping[str, Unit], UnitStore], None]
"""Does every unit that has no result yet: see `kb_lens.runs.engines`."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a study found."""

    name: str
    """The study."""
    settings: Mapping[str, Any]
    """Model, weights, thresholds, lambda, seeds, benchmarks with their number of items."""
    tables: Mapping[str, pd.DataFrame]
    """``results``: a row a case, benchmark and metric, with the labels of the case, n_neurons,
    value, low, high, n, and the paired difference from the base model (difference,
    difference_low, difference_high; missing for the base model itself, whose labels are missing).
    ``control_tests``, where the study has random controls: `control_table`, and which ``control``.
    ``ranks``, of the methods: `rank_table`. Beside them what can be said without evaluating."""

    ranked: Mapping[str, tuple[Any, Sequence[EvaluationResult]]] = field(default_factory=dict)
    """Of the methods that are ranked: name -> what was done, and the results. Not saved with the
    tables: `save_results` writes them."""

    def headline(self, table: str = "results", n: int | None = None) -> pd.DataFrame:
        """The rows of a table on the headline metrics of each benchmark, the first `n` of them."""
        whole = self.tables[table]
        wanted = {key: _headline(key)[:n] for key in whole["benchmark"].unique()}
        rows = [
            row for row in whole.to_dict("records") if row["metric"] in wanted[row["benchmark"]]
        ]
        return pd.DataFrame(rows, columns=whole.columns)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``<table>.parquet`` for every table, and ``study.json``."""
        folder = Path(folder)
        for name, table in self.tables.items():
            with moved_whole(folder / f"{name}.parquet") as part:
                table.to_parquet(part, index=False)
        content = {
            "format": _FORMAT,
            "study": self.name,
            "settings": self.settings,
            "tables": list(self.tables),
        }
        write_text(folder / "study.json", json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Experiment:
        """Read what `save` wrote.

        Raises:
            ValueError: If the folder has no study, or a table is missing.
        """
        path = Path(folder) / "study.json"
        if not path.is_file():
            raise ValueError(f"'{folder}' has no study.json: is it a folder of `experiment`?")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {name: path.parent / f"{name}.parquet" for name in content["tables"]}
            tables = {name: pd.read_parquet(file) for name, file in files.items()}
            return cls(content["study"], content["settings"], tables)
        except (json.JSONDecodeError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"'{path}' is not what kb_lens writes: {error!r}.") from error


def n_controls(name: str) -> int:
    """How many random sets of each kind a study draws unless told otherwise."""
    return 20 if name in ("methods", "right-answers") else 3


def check_name(name: str) -> None:
    """Raise `ValueError` unless there is such a study."""
    if name not in EXPERIMENTS:
        raise ValueError(f"no study {name!r}: allowed are {', '.join(EXPERIMENTS)}.")


def experiment(
    name: str, lab: Lab, benchmarks: Sequence[Benchmark], *, engine: Engine | None = None
) -> Experiment:
    """Run a study; with ``lab.store`` it goes on where it was interrupted.

    Args:
        name: One of `EXPERIMENTS`.
        lab: Model and settings.
        benchmarks: What every case is measured on.
        engine: Who does the units; default this process, one after another.

    Raises:
        ValueError: For an unknown study, no benchmark, or two benchmarks of one key.
    """
    check_name(name)
    by_key = {one.key: one for one in benchmarks}
    if not benchmarks or len(by_key) < len(benchmarks):
        keys = ", ".join(one.key for one in benchmarks)
        raise ValueError(f"a study needs benchmarks, each once; got: {keys or 'none'}.")
    names = {one.name for one in benchmarks}
    if name == "methods" and not names & set(NULL_BENCHMARKS):
        raise ValueError(
            f"the random controls of 'methods' are measured on {', '.join(NULL_BENCHMARKS)}: give "
            "one of these."
        )
    plan = EXPERIMENTS[name](lab)
    jobs = dict(_jobs(plan, by_key, lab))
    results = _done(jobs, lab, engine)
    rows = list(_rows(plan, jobs, results, lab))
    labels = dict.fromkeys(name for case in plan.cases for name in _labels(case))
    columns = dict.fromkeys([*labels, *(name for row in rows for name in row)])
    tables = {"results": pd.DataFrame(rows, columns=list(columns)), **plan.tables}
    if plan.tests:
        tests = _tests(plan, by_key, results, lab.seed)
        tables["control_tests"] = pd.concat(tests, ignore_index=True)
    ranked = _ranked(plan, by_key, results) if name == "methods" else {}
    if ranked:
        several = {condition: found for condition, (_, found) in ranked.items()}
        tables["ranks"] = rank_table(several, seed=lab.seed)
    return Experiment(name, _settings(lab, plan, by_key), tables, ranked)


def _jobs(
    plan: Plan, benchmarks: Mapping[str, Benchmark], lab: Lab
) -> Iterator[tuple[tuple[int | None, str], Unit]]:
    """(case, benchmark key) -> its unit; the base model's case is None."""
    for key, benchmark in benchmarks.items():
        yield (None, key), lab.unit(BASE, benchmark)
        for number, case in enumerate(plan.cases):
            if case.benchmarks is None or benchmark.name in case.benchmarks:
                yield (number, key), lab.unit(case.condition, benchmark)


def _done(
    jobs: Mapping[tuple[int | None, str], Unit], lab: Lab, engine: Engine | None
) -> dict[tuple[int | None, str], EvaluationResult]:
    """Every job's result; jobs of one content are done once."""
    keys = {job: unit.key(lab.model) for job, unit in jobs.items()}
    units = {key: jobs[job] for job, key in keys.items()}
    if lab.store is None:
        found = {key: unit.work(lab.model) for key, unit in _bar(units.items(), lab.progress)}
    else:
        run = engine or partial(_serial, model=lab.model, progress=lab.progress)
        run(units, lab.store)
        found = {key: unit.kept(key, lab.model, lab.store) for key, unit in units.items()}
    return {job: found[key] for job, key in keys.items()}


def _serial(units: Mapping[str, Unit], store: UnitStore, *, model: Any, progress: bool) -> None:
    run_serial(units, store, lambda unit: unit.work(model), progress=progress)


def _bar(items: Any, progress: bool) -> Any:
    return tqdm(list(items), desc="units", unit="unit", disable=not progress)


def _rows(
    plan: Plan,
    jobs: Mapping[tuple[int | None, str], Unit],
    results: Mapping[tuple[int | None, str], EvaluationResult],
    lab: Lab,
) -> Iterator[dict[str, Any]]:
    for number, key in tqdm(jobs, desc="tables", unit="result", disable=not lab.progress):
        result = results[number, key]
        if number is None:
            yield from _metric_rows({}, result)
        else:
            case = plan.cases[number]
            changes = compare(results[None, key], result, seed=lab.seed).set_index("metric")
            yield from _metric_rows(_labels(case), result, changes)


def _tests(
    plan: Plan,
    benchmarks: Mapping[str, Benchmark],
    results: Mapping[tuple[int | None, str], EvaluationResult],
    seed: int,
) -> Iterator[pd.DataFrame]:
    """Every case among its random draws, on the benchmarks that the draws were measured on."""
    number = {id(case): k for k, case in enumerate(plan.cases)}
    for kind, (cases, draws) in plan.tests.items():
        keys = [key for key in benchmarks if (number[id(draws[0])], key) in results]

        def of(some: Sequence[Case], keys: Sequence[str] = keys) -> dict[str, Any]:
            return {
                case.condition.name: [results[number[id(case)], key] for key in keys]
                for case in some
            }

        base = [results[None, key] for key in keys]
        yield control_table(base, of(cases), of(draws), seed=seed).assign(control=kind)


def _ranked(
    plan: Plan,
    benchmarks: Mapping[str, Benchmark],
    results: Mapping[tuple[int | None, str], EvaluationResult],
) -> dict[str, tuple[Any, list[EvaluationResult]]]:
    """What was measured on all benchmarks; of random draws the first."""
    drawn = {id(case) for _, several in plan.tests.values() for case in several[1:]}
    conditions: dict[int | None, Condition] = {None: BASE} | {
        k: case.condition
        for k, case in enumerate(plan.cases)
        if case.benchmarks is None and id(case) not in drawn
    }
    return {
        one.name: (one.describe(), [results[k, key] for key in benchmarks])
        for k, one in conditions.items()
    }


def _headline(key: str) -> tuple[str, ...]:
    """The metrics of a result to look at first, by the result's key."""
    named = named_by(key)
    if named is None:
        raise ValueError(f"no benchmark gives results called {key!r}.")
    return tuple(formulas(*named).headline)


def _labels(case: Case) -> dict[str, Any]:
    size = {} if case.neurons is None else {"n_neurons": len(case.neurons)}
    return {**case.labels, **size}


def _metric_rows(
    labels: Mapping[str, Any], result: EvaluationResult, changes: pd.DataFrame | None = None
) -> Iterator[dict[str, Any]]:
    """A row a metric; how items moved has a difference alone."""
    names = list(result.metrics) if changes is None else list(changes.index)
    for name in names:
        row: dict[str, Any] = {**labels, "benchmark": result.key, "metric": name}
        metric = result.metrics.get(name)
        if metric is not None:
            row |= {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}
        if changes is not None:
            change = changes.loc[name]
            row |= {"difference": change["difference"], "n": int(change["n"])}
            row |= {"difference_low": change["low"], "difference_high": change["high"]}
        yield row


def _settings(lab: Lab, plan: Plan, benchmarks: Mapping[str, Benchmark]) -> dict[str, Any]:
    names = ("n_questions", "tau", "beta", "lam", "n_controls", "seed")
    return {
        "model": model_name(lab.model),
        "fingerprint": fingerprint(lab.model),
        "dtype": str(lab.model.cfg.dtype).removeprefix("torch."),
        **{name: getattr(lab, name) for name in names},
        **plan.settings,
        "attribution": dict(lab.options),
        "benchmarks": {
            key: {"items": len(one.items), "source": Path(one.source).name, "digest": one.digest}
            for key, one in benchmarks.items()
        },
    }
