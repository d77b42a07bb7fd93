"""The chosen lambda and its effects, saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.records.objects import read_json, write_json
from kb_lens.records.tables import Belongs, Kind, read_table_of, write_csv

TABLES = ("development", "test")
"""The two parts of the items; each has a table."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """The chosen lambda, the reasons, and its effects on items not used for the choice."""

    lam: float
    """The chosen factor; 1, the unchanged model, if no factor is better."""
    verdict: str
    """The choice and its test in words."""
    development: pd.DataFrame
    """One row per factor: lam; gain, low, high (of the bias metric towards its best value, paired
    95 % interval) and n; capability_change, capability_low, capability_high and capability_n;
    admissible. All on the development items."""
    test: pd.DataFrame
    """One row per benchmark and metric, on the test items: benchmark, metric, base, other,
    difference, low, high, n. The metric ``gain`` is how much nearer the first headline metric came
    to its best value; its base is 0. No rows where no factor was chosen."""
    settings: Mapping[str, Any]
    """The model, neurons, benchmarks, metrics and rules behind it, as JSON data."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``development.csv``, ``test.csv`` and ``tuning.json``."""
        whose = Belongs.stated_in(self.settings)
        for name in TABLES:
            write_csv(Path(folder) / f"{name}.csv", getattr(self, name), whose)
        content = _File(self.lam, self.verdict, dict(self.settings))
        write_json(Path(folder) / "tuning.json", asdict(content), indent=1)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tuning:
        """Read what `save` wrote.

        Raises:
            ValueError: If a file is missing, damaged, something else or of another model.
        """
        folder = Path(folder)
        content = read_json(folder / "tuning.json", _File, what="tuning")
        whose = Belongs.stated_in(content.settings)
        tables = {
            name: read_table_of(folder / f"{name}.csv", columns, whose, "tuning.json")
            for name, columns in _COLUMNS.items()
        }
        tried = tables["development"]["lam"].tolist()
        if not tried or content.lam not in (1, *tried):
            raise ValueError(
                f"'{folder / 'development.csv'}' has no row of lambda {content.lam:g}, which "
                "'tuning.json' says was chosen. Rows are missing: tune again."
            )
        return cls(
            content.lam, content.verdict, tables["development"], tables["test"], content.settings
        )


@dataclass(frozen=True)
class _File:
    """The content of ``tuning.json``."""

    lam: float
    verdict: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        Belongs.stated_in(self.settings)


_COLUMNS: dict[str, dict[str, Kind]] = {
    "development": dict.fromkeys(("lam", "gain", "low", "high", "capability_change"), "number"),
    "test": {"benchmark": "any", "metric": "any", "difference": "number"},
}
"""Table -> its required columns."""
