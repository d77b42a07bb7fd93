"""The parts of a report on a study, what ``kb-lens experiment`` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.report.page import Section, Table, is_number, said
from kb_lens.report.words import ABILITY, Point, interval
from kb_lens.statistics import Metric
from kb_lens.studies.experiments import Experiment

_HEADLINES = (
    "The headline metrics of the base model and of each case; results.parquet has the others and "
    "the random draws. Difference: from the base model, on the same items, with its 95 % paired "
    "bootstrap interval."
)
_ABOUT_SETS = ("n_neurons", "control", "influence_ratio")
"""Columns before the results that do not name a case."""
_NAMED = 6
"""At most so many cases are named in the summary."""


def study_sections(study: Experiment, figures: Mapping[str, go.Figure]) -> list[Section]:
    """The parts of a report on a study."""
    settings = dict(study.settings)
    benchmarks = settings.pop("benchmarks", {})
    settings |= {f"benchmark {key}": one for key, one in benchmarks.items()}
    facts = {
        name.replace("_", " "): "varies" if value is None else said(value)
        for name, value in settings.items()
    }
    tables = [Table(name.replace("_", " ").capitalize(), t) for name, t in _tables(study).items()]
    return [
        Section("Summary", words=[_conclusion(study)], points=_points(study)),
        Section("Method settings", facts=facts),
        Section("Figures", figures=figures),
        Section("Tables", tables=[replace(tables[0], note=_HEADLINES), *tables[1:]]),
    ]


def _tables(study: Experiment) -> dict[str, pd.DataFrame]:
    """The headline metrics without the random draws, which are in the tests; the other tables."""
    results: Any = study.headline()
    base = results["difference"].isna().to_numpy()
    label = _label_columns(results)[0]
    if not is_number(results[label]):
        results.loc[base, label] = "base model"
    kept = results.iloc[sorted([*base.nonzero()[0], *_own_cases(results)])]
    tables = {**study.tables, "results": kept.dropna(axis="columns", how="all")}
    return {name: _words_first(table) for name, table in tables.items()}


def _words_first(table: Any) -> pd.DataFrame:
    """Without the costs of the tests, which are a row of the results each."""
    kept = [column for column in table if not str(column).endswith(" change")]
    return table[sorted(kept, key=lambda column: is_number(table[column]))]


def _own_cases(results: pd.DataFrame) -> list[int]:
    """Where in a study's results its cases are, without the base model and the random draws."""
    rows = results.to_dict("records")
    return [
        i for i, row in enumerate(rows) if not bool(pd.isna(row["difference"])) and not _drawn(row)
    ]


def _drawn(row: Mapping[Any, Any]) -> bool:
    control = row.get("control")
    return not bool(pd.isna(control)) or str(row.get("set", "")).startswith("random ")


@dataclass(frozen=True)
class _Case:
    """What a case changed on a benchmark's first metric."""

    name: str
    change: Metric
    nearer: bool | None
    """Whether it came nearer to the best value; None without one."""

    @property
    def clear(self) -> bool:
        """Whether the interval is clear of 0."""
        return self.change.low > 0 or self.change.high < 0

    def __str__(self) -> str:
        way = {True: ", nearer to", False: ", away from", None: ""}[self.nearer]
        best = way and f"{way} the best value"
        return (
            f"{self.name}: {interval(self.change.value, self.change.low, self.change.high)}{best}"
        )


def _conclusion(study: Experiment) -> str:
    """Whether the cases change the bias benchmarks at all."""
    results = study.tables["results"]
    keys = [key for key in _keys(study) if not _first(key, results)[0].startswith(ABILITY)]
    cases = [case for key in keys for case in _cases(study, key)]
    clear = [case for case in cases if case.clear]
    if not cases:
        return "No bias benchmark was measured: nothing is said of debiasing."
    of = f"of {len(cases)} differences from the base model (a case on a bias benchmark's metric)"
    if not clear:
        return f"No effect on bias is shown: none {of} has a 95 % interval clear of 0."
    nearer = sum(case.nearer is True for case in clear)
    return (
        f"By its 95 % interval {len(clear)} {of} is clear of 0, {nearer} nearer to the best value "
        f"and {len(clear) - nearer} not; {0.05 * len(cases):.1f} would be so by chance. Whether "
        "random neurons do the same is for the tests against random draws to say, if there are any."
    )


def _points(study: Experiment) -> list[Point]:
    """What a study's cases changed, by each benchmark's first metric, and against the controls."""
    points = [_point(study, key) for key in _keys(study)]
    return [*points, *_control_points(study)]


def _keys(study: Experiment) -> list[str]:
    return list(dict.fromkeys(study.tables["results"]["benchmark"]))


def _first(key: str, table: pd.DataFrame) -> tuple[str, float | None]:
    """A benchmark's first metric and its best value."""
    named = named_by(key)
    if named is not None:
        return next(iter(formulas(*named).headline.items()))
    return next(
        str(m) for k, m in zip(table["benchmark"], table["metric"], strict=True) if k == key
    ), None


def _rows(study: Experiment, key: str, metric: str) -> tuple[dict[Any, Any], list[dict[Any, Any]]]:
    """The base model's row of a metric, and those of the cases."""
    results = study.tables["results"]
    own = set(_own_cases(results))
    rows = [
        (i, row)
        for i, row in enumerate(results.to_dict("records"))
        if (row["benchmark"], row["metric"]) == (key, metric)
    ]
    base = next(row for _, row in rows if bool(pd.isna(row["difference"])))
    return base, [row for i, row in rows if i in own]


def _cases(study: Experiment, key: str) -> list[_Case]:
    results = study.tables["results"]
    metric, best = _first(key, results)
    base, rows = _rows(study, key, metric)
    labels = _label_columns(results)
    found = []
    for row in rows:
        ends = (row[f"difference{end}"] for end in ("", "_low", "_high"))
        nearer = None if best is None else abs(row["value"] - best) < abs(base["value"] - best)
        found.append(_Case(_name(row, labels), Metric(*ends, n=int(row["n"])), nearer))
    return found


def _point(study: Experiment, key: str) -> Point:
    metric, best = _first(key, study.tables["results"])
    base, _ = _rows(study, key, metric)
    cases = _cases(study, key)
    clear = [str(case) for case in cases if case.clear]
    aim = "" if best is None else f", best {best:g}"
    return (
        f"{key} {metric} (base model {base['value']:.2f} [{base['low']:.2f}, {base['high']:.2f}]"
        f"{aim}, n = {base['n']:.0f}): {len(clear) or 'none'} of {len(cases)} cases "
        f"{'differ' if len(clear) > 1 else 'differs'} from the base model{':' if clear else '.'}",
        _first_few(clear),
    )


def _first_few(names: Sequence[str]) -> list[str]:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return [*names[:_NAMED], *more]


def _label_columns(results: pd.DataFrame) -> list[str]:
    """The columns that say which case a row is of."""
    columns = [str(column) for column in results]
    own = [c for c in columns[: columns.index("benchmark")] if c not in _ABOUT_SETS]
    return ["method"] if "method" in own else own


def _name(row: Mapping[Any, Any], labels: Sequence[str]) -> str:
    said = [(name, row[name]) for name in labels if not pd.isna(row[name])]
    words = [v if isinstance(v, str) else f"{name.replace('_', ' ')} {v:g}" for name, v in said]
    return ", ".join(words)


def _control_points(study: Experiment) -> list[Point]:
    """How many cases do more than random draws, and whether so few draws could show it."""
    if "control_tests" not in study.tables:
        return []
    tests = study.tables["control_tests"]
    rows = [
        row
        for row in tests.to_dict("records")
        if row["metric"] == _first(row["benchmark"], tests)[0]
    ]
    beyond = [row for row in rows if row["p"] <= 0.05 and row["low"] > 0]
    least = 1 / (1 + max(row["n_controls"] for row in rows))
    said = (
        f"In {len(beyond)} of {len(rows)} tests against random draws the gain is clear of 0 and "
        "p is at most 0.05."
    )
    if least > 0.05:
        said += f" So few draws cannot show more: p cannot be below {least:.2g}."
    names = [
        f"{row['method']} on {row['benchmark']}, against {row['control']}: p = {row['p']:.2g}, "
        f"gain {interval(row['gain'], row['low'], row['high'])}"
        for row in beyond
    ]
    return [(said, _first_few(names))]
