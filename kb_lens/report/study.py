"""The parts of a report on a study, a folder of ``kb-lens experiment``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.benchmarks.titles import benchmark_title, metric_title
from kb_lens.checks.control_tests import ENOUGH_DRAWS, NO_P
from kb_lens.intervals import interval_text
from kb_lens.report.page import Section, Table, is_number, setting_text
from kb_lens.report.words import CHANGE, Point, first_few
from kb_lens.statistics import Metric, MetricInfo
from kb_lens.studies.tables import Experiment

_HEADLINES = (
    "The headline metrics of the base model and of each case; results.parquet has all metrics and "
    "the random draws. Difference: from the base model, on the same items, with its 95 % paired "
    "bootstrap interval."
)
_NOT_LABELS = ("n_neurons", "control", "influence_ratio", "role", "control_of", "draw")
"""Columns before the results that do not say which case a row is of."""
_RATE = 0.05
"""The usual level, for p and for q; the tables have the exact numbers."""
_TESTS = (
    "Rank and p: the effect among those of the random draws, one-sided; p is not corrected for the "
    "number of rows. q: the false discovery rate (Benjamini and Hochberg) over all rows with a p."
)


def study_sections(study: Experiment, figures: Mapping[str, go.Figure]) -> list[Section]:
    """The parts of a report on a study."""
    settings = dict(study.settings)
    for key, benchmark in settings.pop("benchmarks", {}).items():
        settings[f"benchmark {key}"] = benchmark
    facts = {
        name.replace("_", " "): "varies" if value is None else setting_text(value)
        for name, value in settings.items()
    }
    tables = [
        Table(name.replace("_", " ").capitalize(), table, _note(name, table))
        for name, table in _tables(study).items()
    ]
    subjects = [_Subject.read(study, key) for key in _keys(study)]
    points = [_point(subject) for subject in subjects]
    return [
        Section("Summary", [conclusion(study)], points=[*points, *_control_points(study)]),
        Section("Method settings", facts=facts),
        Section("Figures", figures=figures),
        Section("Tables", tables=tables),
    ]


def _note(name: str, table: pd.DataFrame) -> str:
    """The note below a table."""
    if name == "results":
        return _HEADLINES
    if name != "control_tests":
        return ""
    # the table lacks the column if all tests have few draws
    all_have_p = "p" in table and not table["p"].hasnans
    return _TESTS if all_have_p else f"{_TESTS} {NO_P}"


def _tables(study: Experiment) -> dict[str, pd.DataFrame]:
    """The tables to show; of the results the headline metrics without the random draws."""
    results = study.headline().query("role != 'control'")
    label = label_columns(results)[0]
    if not is_number(results[label]):
        base = results["role"] == "base"
        results = results.assign(**{label: results[label].where(~base, "base model")})
    tables = {**study.tables, "results": results.dropna(axis="columns", how="all")}
    if "control_tests" in tables:
        tables["control_tests"] = _tests_of(study)
    if "ranks" in tables:
        tables["ranks"] = _brief_ranks(tables["ranks"])
    return {name: _words_first(table) for name, table in tables.items()}


def _brief_ranks(ranks: pd.DataFrame) -> pd.DataFrame:
    """A column per benchmark: the rank, and the metric behind it."""
    keys = [name.removesuffix(" rank") for name in ranks if name.endswith(" rank")]
    brief = pd.DataFrame(ranks[["method", "average_rank", "rank_low", "rank_high"]])
    for key in keys:
        metric = next(name for name in ranks if name.startswith(f"{key} ") and " rank" not in name)
        title = metric_title(metric.removeprefix(f"{key} "))
        pairs = zip(ranks[f"{key} rank"], ranks[metric], strict=True)
        column = f"{benchmark_title(key)}: rank ({title})"
        brief = brief.assign(**{column: [f"{rank:g} ({value:.1f})" for rank, value in pairs]})
    return brief


def _words_first(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of words first; empty columns and the costs in the tests are left out."""
    table = table.drop(columns="role", errors="ignore").dropna(axis="columns", how="all")
    columns = [column for column in table if not str(column).endswith(" change")]
    return table.reindex(columns=sorted(columns, key=lambda name: is_number(table[name])))


def label_columns(results: pd.DataFrame) -> list[str]:
    """The columns that say which case a row is of."""
    columns = [str(column) for column in results]
    before_results = columns[: columns.index("benchmark")]
    labels = [column for column in before_results if column not in _NOT_LABELS]
    # A method's label is enough; the other columns are about the controls.
    return ["method"] if "method" in labels else labels


# -- what the cases changed --------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """What a case changed on a benchmark's first metric."""

    name: str
    change: Metric
    nearer: bool | None
    """Whether it came nearer to the best value; None if there is no best value."""

    @property
    def clear(self) -> bool:
        """Whether the interval is clear of 0."""
        return self.change.low > 0 or self.change.high < 0

    def __str__(self) -> str:
        direction = {
            True: ", nearer to the best value",
            False: ", away from the best value",
            None: "",
        }
        change = interval_text(self.change.value, self.change.low, self.change.high, CHANGE)
        return f"{self.name}: {change}{direction[self.nearer]}"


class _Subject(NamedTuple):
    """A benchmark's first metric, and its change in every case."""

    key: str
    metric: str
    info: MetricInfo | None
    base: Mapping[Any, Any]
    cases: Sequence[_Case]

    @classmethod
    def read(cls, study: Experiment, key: str) -> _Subject:
        """The rows of a benchmark in a study's results."""
        results = study.tables["results"]
        metric, info = _first(key, results)
        rows = results.query("benchmark == @key and metric == @metric").to_dict("records")
        base = next(row for row in rows if row["role"] == "base")
        best = None if info is None else info.best
        labels = label_columns(results)
        cases = [_case(row, labels, base["value"], best) for row in rows if row["role"] == "method"]
        return cls(key, metric, info, base, cases)


def _case(row: Mapping[Any, Any], labels: Sequence[str], base: float, best: float | None) -> _Case:
    change = Metric(
        row["difference"], row["difference_low"], row["difference_high"], n=int(row["n"])
    )
    nearer = None if best is None else abs(row["value"] - best) < abs(base - best)
    return _Case(", ".join(_label_words(row, labels)), change, nearer)


def _label_words(row: Mapping[Any, Any], labels: Sequence[str]) -> Iterator[str]:
    for name in labels:
        value = row[name]
        if isinstance(value, str):
            yield value
        elif not pd.isna(value):
            yield f"{name.replace('_', ' ')} {value:g}"


def _keys(study: Experiment) -> list[str]:
    return list(dict.fromkeys(study.tables["results"]["benchmark"]))


def _first(key: str, table: pd.DataFrame) -> tuple[str, MetricInfo | None]:
    """A benchmark's first metric and what it is, None for a benchmark that is not listed."""
    benchmark = named_by(key)
    if benchmark is None:
        return str(table.loc[table["benchmark"].eq(key), "metric"].iloc[0]), None
    definition = formulas(*benchmark)
    metric = definition.headline[0]
    return metric, definition.describe(metric)


def conclusion(study: Experiment) -> str:
    """Whether a study's cases change the bias benchmarks, in a sentence or two."""
    subjects = [_Subject.read(study, key) for key in _keys(study)]
    cases = [
        case
        for subject in subjects
        if subject.info is None or subject.info.role == "bias"
        for case in subject.cases
    ]
    if not cases:
        return "No bias benchmark was measured, so nothing can be said about debiasing."
    clear = [case for case in cases if case.clear]
    total = f"of {len(cases)} differences from the base model (a case on a bias benchmark's metric)"
    if not clear:
        return f"No effect on bias is shown: none {total} has a 95 % interval clear of 0."
    nearer = sum(case.nearer is True for case in clear)
    by_chance = 0.05 * len(cases)  # of 95 % intervals
    return (
        f"95 % interval clear of 0: {len(clear)} {total}, {nearer} nearer to the best value and "
        f"{len(clear) - nearer} not. Expected by chance: {by_chance:.1f}. The tests against random "
        "draws, if there are any, say whether random neurons do the same."
    )


def _point(subject: _Subject) -> Point:
    """What a study's cases changed, by a benchmark's first metric."""
    base = subject.base
    clear = [str(case) for case in subject.cases if case.clear]
    best = (
        "" if subject.info is None or subject.info.best is None else f", best {subject.info.best:g}"
    )
    differ = "differ" if len(clear) > 1 else "differs"
    value = interval_text(base["value"], base["low"], base["high"])
    sentence = (
        f"{benchmark_title(subject.key)}: {metric_title(subject.metric)} (base model "
        f"{value}{best}, n = {base['n']:.0f}): "
        f"{len(clear) or 'none'} of {len(subject.cases)} cases {differ} from the base model"
    )
    return sentence + (":" if clear else "."), first_few(clear)


def _tests_of(study: Experiment) -> pd.DataFrame:
    """The tests against random draws, without the p of few draws that older tables have."""
    tests = study.tables["control_tests"]
    p = tests["p"].where(tests["n_controls"] >= ENOUGH_DRAWS)
    return tests.assign(p=p, q=tests["q"].where(p.notna()) if "q" in tests else math.nan)


def _control_points(study: Experiment) -> list[Point]:
    """How many cases do more than random draws."""
    if "control_tests" not in study.tables:
        return []
    tests = _tests_of(study)
    rows = [
        row
        for row in tests.to_dict("records")
        if row["metric"] == _first(row["benchmark"], tests)[0]
    ]
    tested = [row for row in rows if not pd.isna(row["p"])]
    points: list[Point] = []
    if tested:
        points.append(_tested_point(tested))
    if len(tested) < len(rows):
        points.append((NO_P, first_few([_placed(row) for row in rows if row not in tested])))
    return points


def _tested_point(rows: Sequence[Mapping[Any, Any]]) -> Point:
    """The tests with a p: how many gains are beyond random draws."""
    beyond = [row for row in rows if row["p"] <= _RATE and row["low"] > 0]
    discovered = [row for row in beyond if row["q"] <= _RATE]
    sentence = (
        f"In {len(beyond)} of {len(rows)} tests against random draws the gain is clear of 0 and "
        f"p is at most {_RATE}. In {len(discovered)} of them q, which is corrected for the number "
        f"of tests, is at most {_RATE} too."
    )
    lines = [
        f"{_against(row)}: p = {row['p']:.2g}, q = {row['q']:.2g}, gain {_gain(row)}"
        for row in beyond
    ]
    return sentence, first_few(lines)


def _placed(row: Mapping[Any, Any]) -> str:
    """An effect among few draws."""
    # older tables have no ranks
    rank = f"rank {row['rank']:.0f} of {row['n_controls'] + 1:.0f}, " if "rank" in row else ""
    return f"{_against(row)}: {rank}gain {_gain(row)}"


def _against(row: Mapping[Any, Any]) -> str:
    return f"{row['method']} on {benchmark_title(row['benchmark'])}, against {row['control']}"


def _gain(row: Mapping[Any, Any]) -> str:
    return interval_text(row["gain"], row["low"], row["high"], CHANGE)
