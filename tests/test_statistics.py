"""The bootstrap: intervals cover, seeds decide, pairs cancel, empty groups do no harm."""

import numpy as np
import pandas as pd
import pytest

from kb_lens.statistics import (
    Formulas,
    Measure,
    Statistics,
    bootstrap,
    flips,
    interval,
    interval_text,
    paired_bootstrap,
    point,
    ratio,
)


def mean_formula(sums):
    return {group: Measure(ratio(s["x"], s["n"]), s["n"]) for group, s in sums.items()}


def make(values, **groups):
    values = np.asarray(values, dtype=float)
    every = {"all": np.ones(len(values), dtype=bool)}
    quantities = pd.DataFrame({"n": np.ones(len(values)), "x": values})
    return Statistics(quantities, pd.DataFrame({**every, **groups}))


def test_point_sums_each_group():
    statistics = make(
        [1, 2, 3, 10], odd=[True, False, True, False], even=[False, True, False, True]
    )
    found = point(statistics, mean_formula)
    assert {name: measure.value.item() for name, measure in found.items()} == {
        "all": 4,
        "odd": 2,
        "even": 6,
    }
    assert found["odd"].n.item() == 2


def test_interval_agrees_with_a_plain_loop():
    values = np.random.default_rng(1).normal(size=40)
    loop = np.random.default_rng(2)
    means = [loop.choice(values, size=40).mean() for _ in range(5000)]
    metric = bootstrap(make(values), mean_formula, n_bootstrap=5000, seed=3)["all"]
    assert metric.value == pytest.approx(values.mean())
    assert (metric.low, metric.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        metric = bootstrap(make(generator.normal(size=60)), mean_formula, n_bootstrap=400)["all"]
        covered += metric.low <= 0 <= metric.high
    assert 180 <= covered <= 199


def test_the_seed_decides_and_nothing_else_does():
    statistics = make(np.random.default_rng(0).random(50))
    np.random.seed(1)  # noqa: NPY002
    first = bootstrap(statistics, mean_formula, n_bootstrap=300, seed=5)
    np.random.seed(2)  # noqa: NPY002
    assert bootstrap(statistics, mean_formula, n_bootstrap=300, seed=5) == first
    assert bootstrap(statistics, mean_formula, n_bootstrap=300, seed=6) != first


def test_memory_chunks_do_not_change_the_result(monkeypatch):
    statistics = make(np.random.default_rng(0).random(50))
    whole = bootstrap(statistics, mean_formula, n_bootstrap=300)
    monkeypatch.setattr("kb_lens.resampling._CHUNK_NUMBERS", 7 * 50)
    assert bootstrap(statistics, mean_formula, n_bootstrap=300) == whole


def test_resamples_without_a_group_are_left_out():
    small = [True, True] + [False] * 8
    metric = bootstrap(make(range(10), small=small), mean_formula, n_bootstrap=500)["small"]
    assert (metric.value, metric.low, metric.high, metric.n) == (0.5, 0, 1, 2)


def test_one_cluster_has_no_interval():
    """Its resamples are all alike, so an interval from them would have no width."""
    alone = [True] + [False] * 9
    metric = bootstrap(make(range(10), alone=alone), mean_formula, n_bootstrap=500)["alone"]
    assert (metric.value, metric.n, metric.clusters) == (0, 1, 1)
    assert np.isnan([metric.low, metric.high]).all()
    assert interval_text(metric.value, metric.low, metric.high) == "0.00 [no interval]"


def test_difference_with_itself_is_exactly_zero():
    statistics = make(np.random.default_rng(0).random(30))
    row = paired_bootstrap(statistics, statistics, mean_formula, n_bootstrap=200).iloc[0]
    assert (row["difference"], row["low"], row["high"]) == (0, 0, 0)
    assert row["n"] == 30


def test_pairing_takes_out_what_items_have_in_common():
    generator = np.random.default_rng(0)
    items, noise = generator.normal(scale=10, size=200), generator.normal(scale=0.1, size=200)
    row = paired_bootstrap(make(items), make(items + 1 + noise), mean_formula).iloc[0]
    assert row["low"] < row["difference"] < row["high"]
    assert row["high"] - row["low"] < 0.1
    assert row["difference"] == pytest.approx(1, abs=0.05)


def test_paired_needs_the_same_groups():
    with pytest.raises(ValueError, match="same items in the same groups"):
        paired_bootstrap(make([1, 2]), make([1, 2, 3]), mean_formula)


def test_flips_count_each_way_and_add_up():
    formulas = Formulas(lambda table: make(table), mean_formula, ("x", "up", "down"), (), {})
    before, after = make([0, 0, 1, 1, 0.5]), make([1, 1, 0, 1, 1])
    table = flips(before, after, formulas, n_bootstrap=100).set_index("metric")
    assert table["difference"].to_dict() == {"up": 50, "down": 20}
    assert (table["base"] == 0).all()
    change = after.quantities["x"].mean() - before.quantities["x"].mean()
    assert table["difference"]["up"] - table["difference"]["down"] == pytest.approx(100 * change)


def test_interval_ignores_nan_and_ratio_makes_it():
    assert interval(np.array([1.0, np.nan, 1.0])) == (1, 1)
    np.testing.assert_equal(ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])), [0.5, np.nan])


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="n_bootstrap must be at least 1, got 0"):
        bootstrap(make([1]), mean_formula, n_bootstrap=0)
    with pytest.raises(ValueError, match="at least one item"):
        make([])
    with pytest.raises(ValueError, match="has 1 items and groups 2"):
        Statistics(pd.DataFrame({"n": [1]}), pd.DataFrame({"all": [True, True]}))
    with pytest.raises(ValueError, match="metric 'none' is nan"):
        bootstrap(make([1, 2], none=[False, False]), mean_formula, n_bootstrap=1)
