"""The result of a study: tidy tables, saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import check_file_name
from kb_lens.records.objects import read_json, short, write_json
from kb_lens.records.tables import read_parquet, write_parquet

_FORMAT = "kb_lens study 1"
_WHOSE = ("model", "fingerprint")
_ROLE = ("role", "control_of", "draw")
"""The columns that give a case's role in a comparison."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """The result of a study."""

    name: str
    """The study."""
    settings: Mapping[str, Any]
    """Model, weights, thresholds, lambda, seeds, benchmarks with their number of items."""
    tables: Mapping[str, pd.DataFrame]
    """``results``: a row per case, benchmark and metric. Columns: the labels of the case,
    n_neurons, its role (``base``, ``method``, ``control``), control_of and draw (of a random
    control), value, low, high, n, clusters, and the paired difference from the base model
    (difference, difference_low, difference_high). The base model has no labels and no difference.
    ``control_tests``, if the study has random controls: the rows of `control_table` for every kind
    (``control``); q is over all rows.
    ``ranks``: the `rank_table` of the methods. Other tables need no evaluation."""

    ranked: Mapping[str, Sequence[EvaluationResult]] = field(default_factory=dict)
    """Name of a ranked method -> its results. Not saved with the tables: `save_results` writes
    them."""

    def headline(self, table: str = "results", n: int | None = None) -> pd.DataFrame:
        """The rows of a table with each benchmark's first `n` headline metrics."""
        rows = self.tables[table]
        wanted = {key: _headline(key)[:n] for key in rows["benchmark"].unique()}
        records = [
            row for row in rows.to_dict("records") if row["metric"] in wanted[row["benchmark"]]
        ]
        return pd.DataFrame(records, columns=rows.columns)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``<table>.parquet`` for every table, and ``study.json``."""
        folder = Path(folder)
        # The tables first: study.json means that they are complete.
        for name, table in self.tables.items():
            write_parquet(folder / f"{name}.parquet", table, self._about(table))
        content = _File(self.name, dict(self.settings), tuple(self.tables))
        write_json(folder / "study.json", {"format": _FORMAT, **asdict(content)}, indent=1)

    def _about(self, table: pd.DataFrame) -> dict[str, Any]:
        """The note about itself in a table's file."""
        whose = {name: self.settings.get(name) for name in _WHOSE}
        return {**whose, "study": self.name, "rows": len(table), "columns": list(table.columns)}

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Experiment:
        """Read what `save` wrote.

        Raises:
            ValueError: If the folder has no study, or a table is missing, damaged, changed, or of
                another study.
        """
        path = Path(folder) / "study.json"
        if not path.is_file():
            raise ValueError(f"'{folder}' has no study.json: is it a folder of `experiment`?")
        content = read_json(path, _File, file_format=_FORMAT, finite=False)
        study = cls(content.study, content.settings, {})
        files = {name: path.parent / f"{name}.parquet" for name in content.tables}
        if missing := [file for file in files.values() if not file.is_file()]:
            raise ValueError(f"'{path}' lists the table '{missing[0]}', which is missing.")
        tables = {name: study._table(file) for name, file in files.items()}
        study = replace(study, tables=tables)
        if missing := [name for name in _ROLE if name not in study.tables.get("results", _ROLE)]:
            raise ValueError(
                f"'{folder}' has a study without the column {missing[0]!r}: an earlier kb_lens "
                "wrote it. Run the study again."
            )
        return study

    def _table(self, path: Path) -> pd.DataFrame:
        """A table of this study."""
        table, about = read_parquet(path)
        # older tables do not name their study
        if about is not None and about != (expected := self._about(table)):
            raise ValueError(
                f"'{path}' is not the table that was written for {path.with_name('study.json')}: "
                f"it is of {short(about)}, expected {short(expected)}. Run the study again."
            )
        return table


@dataclass(frozen=True)
class _File:
    """The content of ``study.json``."""

    study: str
    settings: dict[str, Any]
    tables: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.tables:
            check_file_name(name, "a table")


def _headline(key: str) -> tuple[str, ...]:
    """The headline metrics of a result, by its key."""
    benchmark = named_by(key)
    if benchmark is None:
        raise ValueError(f"no benchmark gives results called {key!r}.")
    return formulas(*benchmark).headline
