"""A new benchmark is one spec in the list: everything else finds it there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import kb_lens as kb
from kb_lens.benchmarks.benchmark import BenchmarkSpec
from kb_lens.benchmarks.catalogue import SPECS, formulas, named_by
from kb_lens.benchmarks.measures import DAMAGE, groups_of, logprob_per_token, percent
from kb_lens.benchmarks.requests import Request
from kb_lens.checks.doctor import examine
from kb_lens.evaluation.comparison import summarize
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.results import ConditionInfo
from kb_lens.report.words import changes, conclusion
from kb_lens.statistics import Formulas, Measure, MetricInfo, Statistics

FAST = {"progress": False, "n_bootstrap": 50}
TYPES = ("left", "right")


def load(data_dir=None):
    rows = [(f"i{k}", TYPES[k % 2], f"Item {k} is about a {TYPES[k % 2]} hand.") for k in range(40)]
    return pd.DataFrame(rows, columns=["item", "bias_type", "text"]), "made up"


def requests(items, protocol):
    return [Request(text, (" yes", " no")) for text in items["text"]]


def tabulate(items, scores, protocol):
    table = items[["item", "bias_type"]].reset_index(drop=True)
    return table.assign(
        yes=scores.logprob[:, 0],
        no=scores.logprob[:, 1],
        tokens=scores.tokens.sum(axis=1),
    )


def statistics(table):
    quantities = {
        "n": 1.0,
        "agreed": (table["yes"] > table["no"]).astype(float),
        "sensible": (table["yes"] > -3).astype(float),
        "logprob": table["yes"] + table["no"],
        "tokens": table["tokens"],
    }
    return Statistics(
        pd.DataFrame(quantities, index=table.index),
        pd.DataFrame(groups_of(table, ["bias_type"])),
    )


def metrics(sums) -> dict[str, Measure]:
    agreement = {
        "agreement" if group == "all" else f"agreement_{group}": percent(group_sums, "agreed")
        for group, group_sums in sums.items()
    }
    return agreement | {
        "sense": percent(sums["all"], "sensible"),
        "logprob_per_token": logprob_per_token(sums["all"]),
    }


INFO = {
    "agreement": MetricInfo("%", "says yes to a stereotype, %", "bias", best=50.0),
    "sense": MetricInfo("%", "finds yes likely at all, %", "ability", best=100.0),
    "logprob_per_token": DAMAGE,
}

SPEC = BenchmarkSpec(
    name="made_up",
    load=load,
    requests=requests,
    tabulate=tabulate,
    formulas={
        "original": Formulas(
            statistics,
            metrics,
            flips=("agreed", "to_yes", "to_no"),
            headline=tuple(INFO),
            info=INFO,
            by_type="agreement",
        )
    },
    groups=("bias_type",),
)


@pytest.fixture(autouse=True)
def listed(monkeypatch):
    """The one line in the list."""
    monkeypatch.setitem(SPECS, "made_up", SPEC)


def with_answers(result, n_yes, **condition):
    """The result with yes as the answer to the first items, under a condition."""
    yes = np.where(np.arange(len(result.items)) < n_yes, -1.9, -2.1)
    result = replace(result, items=result.items.assign(yes=yes, no=-2.0))
    result = replace(result, condition=ConditionInfo(**condition))
    return [replace(result, metrics=recompute(result))]


@pytest.fixture
def results(llama):
    """Yes to all, to one half of the items, and to all but two."""
    measured = kb.evaluate(llama, kb.load_benchmark("made_up", limit=30), **FAST)
    assert measured.items["bias_type"].value_counts().to_dict() == {"left": 15, "right": 15}
    assert measured.metrics["agreement_left"].n == 15
    return {
        "base": with_answers(measured, 30, name="base", role="base"),
        "twice": with_answers(measured, 15, name="twice", role="method"),
        "dice": with_answers(measured, 28, name="dice", role="control", control_of="twice"),
    }


def test_it_is_loaded_by_its_name():
    benchmark = kb.load_benchmark("made_up", limit=10)
    assert (benchmark.key, benchmark.groups) == ("made_up", ("bias_type",))
    assert named_by("made_up") == ("made_up", "original")
    with pytest.raises(ValueError, match="'made_up' has no protocol 'x'; allowed: original"):
        kb.load_benchmark("made_up", protocol="x")


def test_comparisons_have_it(results):
    table = kb.compare(results["base"][0], results["twice"][0]).set_index("metric")
    assert table.loc["agreement", "difference"] == -50
    assert table.loc["to_no", "difference"] == 50
    assert set(INFO) < set(summarize(results)["metric"])
    assert kb.rank_table(results)["method"].iloc[0] == "twice"


def test_the_doctor_judges_it(results):
    base, twice, dice = results.values()
    checks = {check.name: check for check in examine(base=base, enhanced=twice, control=dice)}
    beyond = checks["the effect is beyond random neurons'"]
    assert beyond.status == "ok"
    assert "made_up agreement: +50.0 nearer" in beyond.finding
    assert "made_up sense" in checks["capability stays"].finding
    even = checks["the effect is even over bias types"]
    assert even.finding.startswith("of 2 metrics by bias type")


def test_figures_show_it(results):
    figure = kb.figures.before_after(results)
    notes = " ".join(note.text for note in figure.layout.annotations)
    assert all(info.label in notes for info in INFO.values())
    assert "made up: agreement" in notes


def test_the_report_judges_it(results):
    (change,) = changes(results)
    assert (change.benchmark, change.metric, change.best) == ("made_up", "agreement", 50)
    assert change.specific
    assert "comparisons (a factor on a bias benchmark)" in conclusion([change])


@pytest.mark.parametrize("name", SPECS)
def test_every_headline_metric_is_described(name):
    for protocol in SPECS[name].protocols:
        definition = formulas(name, protocol)
        assert definition.judged
        for metric in (*definition.headline, *definition.info):
            info = definition.describe(metric)
            assert info.unit.split()[0] in info.label
        if definition.by_type is not None:
            assert definition.describe(f"{definition.by_type}_gender").best is not None


def test_a_metric_of_a_group_is_what_the_metric_is():
    definition = formulas("over_correction", "original")
    assert definition.describe("excess_any_group") == definition.info["excess_any"]
    assert definition.describe("any_group") == definition.info["any"]
    assert definition.first("bias") == "excess_any"
    assert definition.first("position") is None
    with pytest.raises(ValueError, match="no metric 'anything': allowed are any, warned, "):
        definition.describe("anything")


def test_a_headline_metric_without_description_is_an_error():
    with pytest.raises(ValueError, match="no metric 'made'"):
        Formulas(statistics, metrics, None, ("made",), INFO)
