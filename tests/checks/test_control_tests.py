"""A method among its random controls, by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_comparison import crows

from kb_lens.checks.control_tests import ControlTest, control_table, control_test
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
    assert found.p == pytest.approx(2 / 4)
    assert found.least_p == pytest.approx(1 / 4)
    assert (found.control_mean, found.n_controls) == (pytest.approx(40 / 3), 3)
    assert found.control_interval == pytest.approx((0.5, 29.0))


def test_a_loss_beats_no_smaller_loss():
    assert control_test(crows(5), crows(8), [crows(6), crows(9)]).p == pytest.approx(2 / 3)
    assert control_test(crows(5), crows(9), [crows(6), crows(8)]).p == 1


def test_every_rank_is_equally_likely_when_the_method_is_one_more_draw():
    """Each of ten different draws in turn taken for the method: p is uniform on 0.1 to 1."""
    draws = [crows(n, 40) for n in range(20, 30)]
    several = [
        control_test(crows(36, 40), one, [d for d in draws if d is not one]).p for one in draws
    ]
    np.testing.assert_allclose(sorted(several), np.arange(1, 11) / 10)


def test_equal_effects_are_equal_whatever_the_rounding():
    effect = Metric(0.1 + 0.2, 0.0, 1.0, 10)
    assert ControlTest("k", "m", effect, np.array([0.3, 0.0])).p == pytest.approx(2 / 3)


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
    assert good["p"] == pytest.approx(1 / 3)
    assert rows.loc[("crows_pairs", "stereotype_share", "bad"), "p"] == 1
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
    assert (row["p"], row["n_controls"]) == (found.p, 3)


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


def test_no_more_calls_than_allowed():
    asked = []

    def steep(lam):
        asked.append(lam)
        return -float(lam > 3.3)

    found = matched_factor(steep, -0.5, max_steps=7)
    assert not found.reached
    assert len(asked) == len(set(asked)) == 7
    assert (found.lam, found.damage) in {(lam, -float(lam > 3.3)) for lam in asked}


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
