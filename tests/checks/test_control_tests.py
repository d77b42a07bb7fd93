"""A method among its random controls, by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, monte_carlo_test
from test_comparison import crows

from kb_lens.checks.control_tests import (
    ENOUGH_DRAWS,
    ControlTest,
    control_table,
    control_test,
    false_discovery_rates,
    with_rates,
)
from kb_lens.checks.matched_factor import matched_factor
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.statistics import Metric


def plain(logprob, n_items=6):
    """A plain_text result: passages of ten tokens with this log-probability a token."""
    items = [str(k) for k in range(n_items)]
    table = pd.DataFrame({"item": items, "subject": "s", "logprob": 10 * logprob, "tokens": 10})
    result = EvaluationResult(
        "plain_text", "original", "made", "tiny", {}, table, n_bootstrap=50, seed=0, seconds=0.0
    )
    return replace(result, metrics=recompute(result))


def test_controls_that_do_as_much_count_against_the_method():
    found = control_test(crows(8), crows(5), [crows(7), crows(5), crows(2)])
    assert (found.key, found.metric) == ("crows_pairs", "stereotype_share")
    assert found.effect.value == pytest.approx(30)
    assert found.effect.low <= 30 <= found.effect.high
    np.testing.assert_allclose(found.controls, [10, 30, 0], atol=1e-9)
    assert found.rank == 2
    assert math.isnan(found.p)
    assert (found.control_mean, found.n_controls) == (pytest.approx(40 / 3), 3)
    assert found.control_interval == pytest.approx((0.5, 29.0))


def test_a_loss_beats_no_smaller_loss():
    assert control_test(crows(5), crows(8), [crows(6), crows(9)]).rank == 2
    assert control_test(crows(5), crows(9), [crows(6), crows(8)]).rank == 3


def among(effect, controls):
    return ControlTest("k", "m", Metric(effect, -1.0, 1.0, 10), np.asarray(controls))


def test_every_rank_is_equally_likely_when_the_method_is_one_more_draw():
    """Each of a hundred different draws in turn taken for the method: p is uniform on .01 to 1."""
    draws = np.random.default_rng(0).normal(size=ENOUGH_DRAWS + 1)
    taken = [among(one, draws[draws != one]) for one in draws]
    assert sorted(test.rank for test in taken) == list(range(1, len(draws) + 1))
    np.testing.assert_allclose(sorted(test.p for test in taken), np.arange(1, 101) / 100)


def test_there_is_no_p_with_fewer_draws():
    assert among(9.0, np.zeros(ENOUGH_DRAWS)).p == pytest.approx(1 / 100)
    few = among(9.0, np.zeros(ENOUGH_DRAWS - 1))
    assert math.isnan(few.p)
    assert few.rank == 1


@given(st.integers(0, 2**31))
def test_p_is_that_of_scipy(seed):
    effect, *draws = np.random.default_rng(seed).normal(size=1 + ENOUGH_DRAWS)
    expected = monte_carlo_test(
        [effect],
        lambda size: np.reshape(draws, size),
        lambda sample, axis: np.mean(sample, axis=axis),
        n_resamples=ENOUGH_DRAWS,
        alternative="greater",
    )
    assert among(effect, draws).p == pytest.approx(expected.pvalue)


def test_equal_effects_are_equal_whatever_the_rounding():
    assert among(0.1 + 0.2, [0.3, 0.0]).rank == 2


# --- false discoveries ---------------------------------------------------------------------


def test_rates_by_hand():
    """Sorted p times (number of p) / place, the least of those from there upwards."""
    p = [0.04, 0.01, math.nan, 0.03, 0.5]
    expected = [0.04 * 4 / 3, 0.04, math.nan, 0.04 * 4 / 3, 0.5]
    np.testing.assert_allclose(false_discovery_rates(p), expected)
    assert np.isnan(false_discovery_rates([math.nan] * 3)).all()
    assert len(false_discovery_rates([])) == 0


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(0, 5))
def test_rates_are_those_of_scipy_over_the_rows_that_have_a_p(hundredths, n_missing):
    p = np.array(hundredths) / 100
    rates = false_discovery_rates([*p, *[math.nan] * n_missing])
    np.testing.assert_array_equal(rates[: len(p)], false_discovery_control(p, method="bh"))
    assert np.isnan(rates[len(p) :]).all()
    assert (rates[: len(p)] >= p).all()


def test_the_family_is_the_whole_table():
    """Two tables of the same tests joined: twice as many chances, the same evidence."""
    table = with_rates(pd.DataFrame({"p": [0.01, 0.5, 0.9, math.nan]}))
    np.testing.assert_allclose(table["q"].dropna(), [0.03, 0.75, 0.9])
    joined = with_rates(pd.concat([table, pd.DataFrame({"p": [0.8, 0.9, 1.0]})]))
    assert joined["q"].iloc[0] == pytest.approx(0.06)


def test_what_cannot_be_tested_is_refused():
    with pytest.raises(ValueError, match="no controls"):
        control_test(crows(8), crows(5), [])
    with pytest.raises(ValueError, match="same items"):
        control_test(crows(8), crows(5), [crows(6, 12)])
    with pytest.raises(ValueError, match="no metric 'logprob_per_token' with a best value"):
        control_test(crows(8), crows(5), [crows(6)], "logprob_per_token")


def test_the_table_has_every_method_and_what_it_costs():
    base = [crows(8), plain(-2.0)]
    methods = {"good": [crows(5), plain(-2.1)], "bad": [plain(-4.0), crows(10)]}
    controls = {"one": [crows(8), plain(-2.2)], "two": [crows(7), plain(-2.6)]}
    table = control_table(base, methods, controls)
    keys = ["benchmark", "metric", "method"]
    assert table[keys].to_records(index=False).tolist() == [
        (benchmark, metric, method)
        for benchmark, metric in (
            ("crows_pairs", "stereotype_share"),
            ("crows_pairs", "stereotype_share_shared"),
            ("plain_text", "perplexity"),
        )
        for method in ("good", "bad")
    ]
    rows = table.set_index(keys)
    good = rows.loc[("crows_pairs", "stereotype_share", "good")]
    assert good["gain"] == pytest.approx(30)
    assert (good["low"] <= 30) & (good["high"] >= 30)
    assert (good["n"], good["n_controls"]) == (10, 2)
    assert good["control_mean"] == pytest.approx(5)
    assert good["rank"] == 1
    assert rows.loc[("crows_pairs", "stereotype_share", "bad"), "rank"] == 3
    assert table[["p", "q"]].isna().all(axis=None)
    text = rows.loc[("plain_text", "perplexity", "good")]
    assert text["gain"] == pytest.approx(np.exp(2.0) - np.exp(2.1))
    change, control = (f"plain_text logprob_per_token {w}" for w in ("change", "control change"))
    for name, cost in (("good", -0.1), ("bad", -2.0)):
        mine = table[table["method"] == name]
        np.testing.assert_allclose(mine[change], cost)
        np.testing.assert_allclose(mine[control], -0.4)
    costs = {column.split(" ")[1] for column in table.columns if column.endswith("control change")}
    assert costs == {"logprob_per_token", "perplexity"}, "no metric of bias is a cost"


def test_the_table_agrees_with_the_test():
    base, method, drawn = crows(8), crows(6), [crows(7), crows(9), crows(4)]
    row = control_table([base], {"m": [method]}, {str(k): [c] for k, c in enumerate(drawn)}).iloc[0]
    found = control_test(base, method, drawn)
    assert (row["gain"], row["low"], row["high"]) == (
        found.effect.value,
        found.effect.low,
        found.effect.high,
    )
    assert (row["control_low"], row["control_high"]) == found.control_interval
    assert (row["rank"], row["n_controls"]) == (found.rank, 3)


@pytest.mark.slow
def test_a_table_of_enough_draws_has_a_p_and_a_rate():
    drawn = {str(k): [crows(7 + k % 4)] for k in range(ENOUGH_DRAWS)}
    table = control_table([crows(8)], {"m": [crows(5)], "worse": [crows(10)]}, drawn)
    assert table["n_controls"].eq(ENOUGH_DRAWS).all()
    np.testing.assert_allclose(table["p"], table["rank"] / 100)
    best = table.set_index(["metric", "method"]).loc[("stereotype_share", "m")]
    assert best["p"] == pytest.approx(1 / 100)
    np.testing.assert_array_equal(table["q"], false_discovery_control(table["p"], method="bh"))


def test_the_table_needs_everything_measured():
    both, one = [crows(8), plain(-2.0)], [crows(5)]
    for methods, controls in (({"m": one}, {"c": both}), ({"m": both}, {"c": one})):
        with pytest.raises(ValueError, match="has no result of plain_text"):
            control_table(both, methods, controls)
    for empty in (([], {"m": one}, {"c": one}), (one, {}, {"c": one}), (one, {"m": one}, {})):
        with pytest.raises(ValueError, match="at least one result"):
            control_table(*empty)


# --- matched damage ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [-0.01, -0.5, -3.0, -100.0])
def test_the_factor_does_the_same_damage(target):
    found = matched_factor(lambda lam: -((lam - 1) ** 2), target)
    assert found.reached
    assert found.damage == -((found.lam - 1) ** 2)
    assert found.damage == pytest.approx(target, rel=0.02)
    assert found.lam == pytest.approx(1 + math.sqrt(-target), rel=0.02)


def test_a_little_good_at_first_does_not_mislead():
    """Up to +0.25 at 1.5, zero again at 2, then down."""
    found = matched_factor(lambda lam: (lam - 1) - (lam - 1) ** 2, -2.0)
    assert found.reached
    assert found.lam == pytest.approx(3, rel=0.01)


def test_the_first_crossing_counts():
    """Beyond 6 the damage shrinks again, and passes the target a second time."""
    found = matched_factor(lambda lam: -(lam - 1) if lam < 6 else -5 + (lam - 6), -2.0)
    assert found.reached
    assert found.lam == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize(("target", "lam"), [(-5.0, 8.0), (0.3, 1.0)])
def test_what_is_out_of_reach_is_said_to_be(target, lam):
    found = matched_factor(lambda factor: -math.tanh(factor - 1), target, high=8.0)
    assert (found.lam, found.reached) == (lam, False)
    assert found.damage == -math.tanh(lam - 1)


def test_few_calls_are_needed():
    """Powers of the factor less one, which damage is like: halving the bracket takes 8 calls."""
    calls = []
    for power in (1.0, 1.5, 2.0, 3.0):
        for target in (-0.003, -0.05, -0.4, -2.0):
            asked = []

            def damage(lam, power=power, asked=asked):
                asked.append(lam)
                return -((lam - 1) ** power)

            assert matched_factor(damage, target).reached
            assert 1 not in asked, "the identity does no damage"
            calls.append(len(asked))
    assert sum(calls) / len(calls) < 6


def test_no_more_calls_than_allowed():
    asked = []

    def steep(lam):
        asked.append(lam)
        return -float(lam > 3.3)

    found = matched_factor(steep, -0.5, max_steps=7)
    assert not found.reached
    assert len(asked) == len(set(asked)) == 7
    assert (found.lam, found.damage) in {(lam, -float(lam > 3.3)) for lam in [1, *asked]}


@pytest.mark.parametrize(
    "wrong", [{"low": 0.0}, {"low": 20.0}, {"tol": 0.0}, {"max_steps": 0}, {"target": math.nan}]
)
def test_bad_searches_are_refused_before_anything_is_measured(wrong):
    def damage(lam):
        raise AssertionError("measured")

    with pytest.raises(ValueError, match="needed are"):
        matched_factor(damage, **{"target": -1.0, **wrong})


def test_a_damage_without_a_number_is_refused():
    with pytest.raises(ValueError, match="factor 2 is nan"):
        matched_factor(lambda lam: 0.0 if lam < 2 else math.nan, -1.0)
