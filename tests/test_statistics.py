"""The bootstrap: intervals cover, seeds decide, pairs cancel, empty groups do no harm."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter
from pydantic_core import to_json

from kb_lens.intervals import (
    FewClustersWarning,
    count_text,
    difference_interval,
    interval,
    interval_text,
    measure_interval,
    nearness,
    warn_of_few,
)
from kb_lens.statistics import (
    Formulas,
    Measure,
    Metric,
    Statistics,
    bootstrap,
    flips,
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


def clustered(n_clusters, size, spread, seed):
    """Items that share their cluster's mean."""
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(n_clusters), size)
    values = generator.normal(scale=spread, size=n_clusters)[clusters]
    values = values + generator.normal(size=len(clusters))
    return replace(make(values), clusters=clusters)


def test_whole_clusters_are_drawn_as_scipy_draws_them():
    statistics = clustered(30, 4, 1.0, seed=1)
    values = statistics.quantities["x"].to_numpy()
    clusters = [values[statistics.clusters == number] for number in range(30)]

    def mean(numbers):
        return np.concatenate([clusters[int(number)] for number in numbers]).mean()

    expected = scipy.stats.bootstrap(
        (np.arange(30),),
        mean,
        n_resamples=4000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    metric = bootstrap(statistics, mean_formula, n_bootstrap=4000)["all"]
    assert (metric.low, metric.high) == pytest.approx(tuple(expected), abs=0.04)
    assert (metric.n, metric.clusters) == (120, 30)


def test_items_of_a_cluster_are_one_draw():
    """A copy of every item in its own cluster says nothing new; copies as items would seem to."""
    statistics = make(np.random.default_rng(0).normal(size=40))
    twice = Statistics(
        pd.concat([statistics.quantities] * 2, ignore_index=True),
        pd.concat([statistics.groups] * 2, ignore_index=True),
        np.tile(np.arange(40), 2),
    )
    once = bootstrap(statistics, mean_formula, n_bootstrap=500)["all"]
    doubled = bootstrap(twice, mean_formula, n_bootstrap=500)["all"]
    ends = [doubled.value, doubled.low, doubled.high]
    assert ends == pytest.approx([once.value, once.low, once.high])
    assert (doubled.n, doubled.clusters) == (80, 40)


@given(st.integers(0, 2**31), st.integers(2, 12))
def test_the_order_of_items_and_the_numbers_of_clusters_do_not_matter(seed, n_clusters):
    statistics = clustered(n_clusters, 3, 1.0, seed=0)
    order = np.random.default_rng(seed).permutation(3 * n_clusters)
    shuffled = Statistics(
        statistics.quantities.iloc[order], statistics.groups.iloc[order], statistics.clusters[order]
    )
    first, second = (
        bootstrap(sample, mean_formula, n_bootstrap=50)["all"] for sample in (statistics, shuffled)
    )
    assert [second.low, second.high] == pytest.approx([first.low, first.high])


def test_a_group_counts_its_own_clusters():
    statistics = clustered(10, 2, 1.0, seed=0)
    groups = statistics.groups.assign(few=statistics.clusters < 3)
    metrics = bootstrap(replace(statistics, groups=groups), mean_formula, n_bootstrap=50)
    assert (metrics["all"].clusters, metrics["few"].clusters, metrics["few"].n) == (10, 3, 6)


def test_paired_needs_the_same_clusters():
    statistics = clustered(4, 2, 1.0, seed=0)
    other = replace(statistics, clusters=statistics.clusters[::-1].copy())
    with pytest.raises(ValueError, match="same items in the same clusters"):
        paired_bootstrap(statistics, other, mean_formula)
    with pytest.raises(ValueError, match="has 8 items and clusters 3"):
        replace(statistics, clusters=np.arange(3))


def test_a_corner_is_the_minimum_of_its_pieces():
    """The interval contains that of the smaller piece's lower end and the point itself."""
    rising, falling = np.arange(100.0), np.arange(100.0)[::-1]
    corner = Measure(np.minimum(rising, falling), np.full(100, 7.0), (rising, falling))
    low, high = measure_interval(corner, 7)
    assert (low, high) == interval(rising)
    # the plain percentiles end at the corner
    assert interval(corner.value)[1] < 50 < high
    assert np.isnan(measure_interval(corner, 1)).all()


@given(arrays(float, (4, 50), elements=st.floats(-10, 10) | st.integers(0, 1).map(float)))
@example(pieces=1.0 - (np.arange(50) == np.array([[17], [1], [0], [1]])))
def test_an_interval_of_a_difference_of_minima_is_one(pieces):
    before, after = (
        Measure(np.minimum(*pair), np.ones(50), tuple(pair)) for pair in (pieces[:2], pieces[2:])
    )
    low, high = difference_interval(before, after, 50)
    assert low <= high
    backward = difference_interval(after, before, 50)
    assert backward == pytest.approx((-high, -low))
    assert difference_interval(before, before, 50) == (0, 0)


@given(arrays(float, (2, 50), elements=st.floats(-10, 10)))
def test_a_value_without_a_corner_has_the_plain_interval(values):
    before, after = (Measure(value, np.ones(50)) for value in values)
    assert difference_interval(before, after, 50) == interval(values[1] - values[0])
    near = nearness(before, 3.0)
    np.testing.assert_array_equal(np.minimum(*near.pieces), near.value)


def test_a_missing_end_is_null_in_json_and_a_metric_equals_itself():
    metric = Metric(1.0, float("nan"), float("nan"), 1, 1)
    assert metric == Metric(1.0, float("nan"), float("nan"), 1, 1)
    text = to_json(metric, inf_nan_mode="null")
    assert json.loads(text)["low"] is None
    assert TypeAdapter(Metric).validate_json(text, strict=True) == metric


def test_a_table_without_its_clusters_says_so():
    formulas = Formulas(lambda table: make(table["x"]), mean_formula, None, (), {}, cluster="kind")
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0], "kind": ["a", "a", None]})
    np.testing.assert_array_equal(formulas.summarize(table).clusters, [0, 0, 1])
    with pytest.warns(UserWarning, match="no column 'kind'.*too narrow"):
        assert formulas.summarize(table[["x"]]).clusters is None


def test_few_clusters_are_a_warning():
    with pytest.warns(FewClustersWarning, match=r"bbq: few clusters \(template\): s_AMB 19"):
        warn_of_few({"acc": 25, "s_AMB": 19, "old": None}, "bbq", "template")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_few({"acc": 20}, "bbq", "template")
    assert count_text(4229, 79) == "4229 in 79 clusters"
    assert count_text(4229, None) == count_text(4229, 4229) == "4229"
