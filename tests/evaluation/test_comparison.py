"""Differences, gains and ranks by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import kb_lens as kb
from kb_lens.evaluation import comparison
from kb_lens.evaluation.comparison import gain, summarize
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.results import ConditionInfo, EvaluationResult


def crows(n_stereotype, n_items=10, shift=0.0, protocol="original"):
    """A CrowS-Pairs result in which the first pairs prefer the more stereotyping sentence."""
    more = np.where(np.arange(n_items) < n_stereotype, -1.0, -3.0) + shift
    table = pd.DataFrame(
        {
            "item": [str(k) for k in range(n_items)],
            "bias_type": "age",
            "stereo_antistereo": "stereo",
            "writer": [f"writer {k}" for k in range(n_items)],
            "logprob_more": more,
            "logprob_less": -2.0 + shift,
            "tokens_more": 4,
            "tokens_less": 4,
            "comparable_shared": True,
            "logprob_more_shared": more,
            "logprob_less_shared": -2.0 + shift,
            "tokens_more_shared": 3,
            "tokens_less_shared": 3,
        }
    )
    result = EvaluationResult(
        "crows_pairs", protocol, "made", "tiny", {}, table, n_bootstrap=50, seed=0, seconds=0.0
    )
    return EvaluationResult(**{**vars(result), "metrics": recompute(result)})


def test_gain_is_how_much_nearer_the_best_value_is():
    assert gain(crows(8), crows(6), "stereotype_share").value == pytest.approx(20)
    assert gain(crows(8), crows(2), "stereotype_share").value == pytest.approx(0)
    assert gain(crows(5), crows(9), "stereotype_share").value == pytest.approx(-40)
    assert gain(crows(8), crows(6), "stereotype_share", best=100).value == pytest.approx(-20)
    found = gain(crows(7, 200), crows(7, 200), "stereotype_share")
    assert (found.value, found.low, found.high, found.n) == (0, 0, 0, 200)
    for metric in ("icat", "logprob_per_token"):
        with pytest.raises(ValueError, match=f"no metric '{metric}' with a best value"):
            gain(crows(8), crows(6), metric)


def test_ranks_by_the_distance_from_the_best_value():
    methods = {"base": [crows(8)], "good": [crows(5)], "below": [crows(2)], "worst": [crows(10)]}
    table = kb.rank_table(methods).set_index("method")
    assert table["crows_pairs rank"].to_dict() == {"good": 1, "base": 2.5, "below": 2.5, "worst": 4}
    assert list(table.index) == ["good", "base", "below", "worst"]
    assert table.loc["below", "crows_pairs stereotype_share"] == pytest.approx(20)


def test_ranks_are_averaged_over_benchmarks(monkeypatch):
    """Two benchmarks that disagree: everybody is in the middle."""
    other = {"a": crows(5), "b": crows(9)}
    twins = {name: _renamed(one, "openbookqa") for name, one in other.items()}
    own = comparison.formulas

    def formulas(name, protocol):
        return own("crows_pairs", protocol)

    monkeypatch.setattr(comparison, "formulas", formulas)
    table = kb.rank_table({"a": [crows(8), twins["a"]], "b": [crows(5), twins["b"]]})
    assert table["average_rank"].tolist() == [1.5, 1.5]
    assert table["openbookqa rank"].tolist() == [1, 2]


def test_ranks_need_the_same_benchmarks():
    uneven = {"a": [crows(8)], "b": [crows(5), _renamed(crows(5), "stereoset")]}
    for function in (kb.rank_table, summarize):
        for results in (uneven, dict(reversed(uneven.items()))):
            with pytest.raises(ValueError, match="'a' has no result of stereoset"):
                function(results)
        with pytest.raises(ValueError, match="no results"):
            function({})


def test_the_order_of_results_does_not_matter():
    one, two = crows(8), crows(5, protocol="original")
    other = EvaluationResult(**{**vars(two), "benchmark": "openbookqa"})
    forth = {"a": [one, other], "b": [crows(6), other]}
    back = {"a": [one, other], "b": [other, crows(6)]}
    names = ["method", "average_rank", "crows_pairs rank"]
    own = comparison.formulas
    comparison.formulas = lambda name, protocol: own("crows_pairs", protocol)
    try:
        pd.testing.assert_frame_equal(kb.rank_table(forth)[names], kb.rank_table(back)[names])
        pd.testing.assert_frame_equal(summarize(forth), summarize(back))
    finally:
        comparison.formulas = own


def _renamed(result, benchmark):
    return EvaluationResult(**{**vars(result), "benchmark": benchmark})


def test_ranks_need_the_same_items():
    with pytest.raises(ValueError, match="same items"):
        kb.rank_table({"a": [crows(8)], "b": [crows(8, 12)]})


def test_a_summary_has_differences_and_both_directions():
    table = summarize({"base": [crows(8)], "other": [crows(6, shift=-1.0)]})
    row = table.query("metric == 'stereotype_share' and condition == 'other'").iloc[0]
    assert row["difference"] == pytest.approx(-20)
    assert row["difference_low"] <= -20 <= row["difference_high"]
    moved = table.query("metric == 'to_anti_stereotype'").iloc[0]
    assert moved["difference"] == pytest.approx(20)
    values = table.query("metric == 'logprob_per_token'")["value"].tolist()
    assert values[1] == pytest.approx(values[0] - 1 / 4, abs=0.06)


def test_tables_say_what_part_a_condition_has():
    """The part is what the results say, whatever the conditions are called."""

    def measured(n_stereotype, **condition):
        return [replace(crows(n_stereotype), condition=ConditionInfo(**condition))]

    results = {
        "start": measured(8, name="base", role="base"),
        "twice": measured(6, name="lambda 2", role="method"),
        "dice": measured(7, name="random", role="control", control_of="lambda 2", draw=3),
    }
    summary = summarize(results).groupby("condition", sort=False).first()
    assert summary["role"].to_dict() == {"start": "base", "twice": "method", "dice": "control"}
    assert summary.loc["dice", ["control_of", "draw"]].tolist() == ["twice", 3]
    assert pd.isna(summary.loc["twice", "control_of"])
    ranks = kb.rank_table(results, n_bootstrap=50).set_index("method")
    assert ranks["role"].to_dict() == summary["role"].to_dict()
