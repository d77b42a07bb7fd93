"""What a study found: tidy tables, saved and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import moved_whole, write_text

_FORMAT = "kb_lens study 1"
_ROLE = ("role", "control_of", "draw")
"""The columns that say a case's part in a comparison."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a study found."""

    name: str
    """The study."""
    settings: Mapping[str, Any]
    """Model, weights, thresholds, lambda, seeds, benchmarks with their number of items."""
    tables: Mapping[str, pd.DataFrame]
    """``results``: a row a case, benchmark and metric, with the labels of the case, n_neurons, its
    role (``base``, ``method``, ``control``), control_of and draw (of a random control), value, low,
    high, n, and the paired difference from the base model (difference, difference_low,
    difference_high; missing for the base model itself, whose labels are missing).
    ``control_tests``, where the study has random controls: `control_table`, and which ``control``.
    ``ranks``, of the methods: `rank_table`. Beside them what can be said without evaluating."""

    ranked: Mapping[str, Sequence[EvaluationResult]] = field(default_factory=dict)
    """Of the methods that are ranked: name -> the results. Not saved with the tables:
    `save_results` writes them."""

    def headline(self, table: str = "results", n: int | None = None) -> pd.DataFrame:
        """The rows of a table on the headline metrics of each benchmark, the first `n` of them."""
        rows = self.tables[table]
        wanted = {key: _headline(key)[:n] for key in rows["benchmark"].unique()}
        records = [
            row for row in rows.to_dict("records") if row["metric"] in wanted[row["benchmark"]]
        ]
        return pd.DataFrame(records, columns=rows.columns)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``<table>.parquet`` for every table, and ``study.json``."""
        folder = Path(folder)
        # The tables first: a study.json says that they are all there.
        for name, table in self.tables.items():
            with moved_whole(folder / f"{name}.parquet") as unfinished:
                table.to_parquet(unfinished, index=False)
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
            study = cls(content["study"], content["settings"], tables)
        except (json.JSONDecodeError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"'{path}' is not what kb_lens writes: {error!r}.") from error
        if missing := [name for name in _ROLE if name not in study.tables.get("results", _ROLE)]:
            raise ValueError(
                f"'{folder}' has a study without the column {missing[0]!r}: an earlier kb_lens "
                "wrote it. Run the study again."
            )
        return study


def _headline(key: str) -> tuple[str, ...]:
    """The metrics of a result to look at first, by the result's key."""
    benchmark = named_by(key)
    if benchmark is None:
        raise ValueError(f"no benchmark gives results called {key!r}.")
    return formulas(*benchmark).headline
