"""The taught models' studies side by side: numbers by hand, and a figure of all of them."""

import importlib
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
from test_comparison import crows

from kb_lens.evaluation.results import save_results
from kb_lens.interventions.conditions import Condition
from kb_lens.studies.tables import Experiment

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
taught_studies = importlib.import_module("taught_studies")


@dataclass(frozen=True)
class Factor:
    """A change of which only the record matters here."""

    lam: float

    def applied(self, model):
        return nullcontext(model)

    def asked(self, benchmark):
        return benchmark

    def describe(self):
        return {"lam": self.lam}


VALUES = {None: 60.0, "know-bias": 45.0, "random 0": 58.0, "random 1": 61.0}
ROLES = {None: "base", "know-bias": "method", "random 0": "control", "random 1": "control"}
RUN = {
    Condition("base"): 60.0,
    Condition("lambda 2", Factor(2.0)): 45.0,
    Condition("random lambda 2", Factor(2.0), "control", "lambda 2", 0): 99.0,
    Condition("random, damage of lambda 2", Factor(2.7), "control", "lambda 2", 0): 57.0,
}


def made(folder):
    """A study and a run in which every metric has the same values."""
    rows, summary = [], []
    for benchmark, metric in taught_studies.PANELS:
        about = {"benchmark": benchmark, "metric": metric, "n": 200, "low": 0.0, "high": 99.0}
        for name, value in VALUES.items():
            for lam in [None] if name is None else [1.0, 2.0] if name == "know-bias" else [2.0]:
                at = {"set": name, "lam": lam, "value": 60.0 if lam == 1 else value}
                role = {"role": ROLES[name], "control_of": None, "draw": None}
                rows.append(about | at | role | _difference(at["value"]))
        for condition, value in RUN.items():
            row = {"condition": condition.name, "role": condition.role, "value": value}
            summary.append(about | row | _difference(value))
    settings = {"model": "made"}
    Experiment("lambda", settings, {"results": pd.DataFrame(rows)}).save(folder / "lambda")
    for condition in RUN:
        result = replace(crows(5), condition=condition.info())
        save_results(folder / "run/evaluations" / condition.name, [result])
    pd.DataFrame(summary).to_csv(folder / "run/summary.csv", index=False)


def _difference(value):
    ends = {"difference": 0, "difference_low": -1, "difference_high": 1}
    return {name: value - 60 + end for name, end in ends.items()}


@pytest.fixture
def folder(tmp_path):
    for seed in ("0", "1"):
        (tmp_path / seed).mkdir()
        made(tmp_path / seed)
    return tmp_path


def test_gains_by_hand(folder):
    table = taught_studies.gathered(folder / "0").assign(seed="0")
    gains = taught_studies.at(table, 2.0).set_index("metric")
    assert len(gains) == len(taught_studies.PANELS)
    share = gains.loc["stereotype_share"]  # from 60 to 45, best 50: from 10 away to 5
    assert share["gain"] == 5
    assert (share["base"], share["value"], share["difference"]) == (60, 45, -15)
    assert share["random_size"] == 3
    assert (share["random_min"], share["random_max"]) == (-1, 3)
    assert share["random_mean"] == pytest.approx((2 - 1 + 3) / 3)
    assert gains.loc["icat", "gain"] == gains.loc["logprob_per_token", "gain"] == -15
    assert gains["gain"].loc["s_AMB"].tolist() == [15, 15]


def test_the_command_writes_tables_and_a_figure_of_every_seed(folder, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr(taught_studies, "write_figures", lambda f, *_: drawn.update(f))
    arguments = ["--studies", str(folder), "--out", str(folder), "--seeds", "0", "1"]
    assert taught_studies.main(arguments) == 0
    assert "stereotype_share" in capsys.readouterr().out
    assert set(pd.read_parquet(folder / "taught.parquet")["seed"]) == {"0", "1"}
    assert len(pd.read_parquet(folder / "at_lambda_2.parquet")) == 12
    names = [trace.name for trace in drawn["taught_lambda"].data]
    panels = len(taught_studies.PANELS)
    assert names.count(taught_studies.KNOW) == 2 * panels
    assert names.count(taught_studies.INFLUENCE) == 4 * panels
    assert names.count(taught_studies.DAMAGE) == 2 * panels
    lines = [t for t in drawn["taught_lambda"].data if t.name]
    assert all(tuple(line.x) == (1, 2) and line.y[0] == 60 for line in lines)


def test_a_missing_run_is_named(folder):
    (folder / "1/run/summary.csv").unlink()
    with pytest.raises(ValueError, match=r"1/run/summary\.csv' does not exist"):
        taught_studies.gathered(folder / "1")
