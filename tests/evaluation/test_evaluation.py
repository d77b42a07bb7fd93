"""From a model and a benchmark to metrics, a folder, and a paired comparison."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from test_benchmarks import folder  # noqa: F401

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS as BENCHMARKS
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.evaluation.results import EvaluationResult, load_results, results_json, save_results

FAST = {"progress": False, "n_bootstrap": 50}


@pytest.fixture
def results(llama, folder):  # noqa: F811
    """A result of every benchmark."""
    return [evaluate(llama, load_benchmark(n, data_dir=folder), **FAST) for n in BENCHMARKS]


@pytest.fixture
def scaled(llama, folder):  # noqa: F811
    """The same from a model whose neurons are scaled."""
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: -3 * value)]):
        return [evaluate(llama, load_benchmark(n, data_dir=folder), **FAST) for n in BENCHMARKS]


def test_a_result_knows_where_it_comes_from(results, folder):  # noqa: F811
    for result, name in zip(results, BENCHMARKS, strict=True):
        assert (result.benchmark, result.protocol) == (name, "original")
        assert result.model == "tiny-random-llama"
        assert str(folder) not in result.source
        assert result.seconds > 0
        for metric in result.metrics.values():
            assert (metric.low <= metric.high) == (metric.clusters > 1)
            assert 1 <= metric.n <= len(result.items)


def test_metrics_can_be_computed_again_from_the_saved_table(results, tmp_path):
    for result in results:
        assert recompute(result) == result.metrics
        result.save(tmp_path)
    for result in load_results(tmp_path).values():
        assert recompute(result) == result.metrics


def test_save_and_load_round_trip(results, tmp_path):
    save_results(tmp_path, results)
    assert sorted(path.name for path in (tmp_path / "items").iterdir()) == sorted(
        f"{name}.parquet" for name in BENCHMARKS
    )
    for result in results:
        back = EvaluationResult.load(tmp_path, result.benchmark)
        pd.testing.assert_frame_equal(back.items, result.items)
        for field in set(EvaluationResult.__dataclass_fields__) - {"items"}:
            assert getattr(back, field) == getattr(result, field)


def test_who_saves_all_results_says_their_order(results, tmp_path):
    """Of processes that share the work any may be the first to save one."""
    keys = [result.key for result in results]
    save_results(tmp_path, results[1:2])
    save_results(tmp_path, results[:1])
    assert list(load_results(tmp_path)) == [keys[1], keys[0]]
    save_results(tmp_path, results)
    assert list(load_results(tmp_path)) == keys
    save_results(tmp_path, results[1:])
    assert list(load_results(tmp_path)) == keys


def test_results_json_has_the_promised_layout(results, tmp_path):
    intervention = {"lam": 2.0, "neurons": 3}
    path = save_results(tmp_path, results, intervention=intervention)
    content = json.loads(path.read_text())
    assert path.name == "results.json"
    assert content == results_json(results, intervention=intervention)
    assert content["model"] == "tiny-random-llama"
    assert content["intervention"] == intervention
    assert set(content["benchmarks"]) == set(BENCHMARKS)
    assert set(content["benchmarks"]["openbookqa"]["acc"]) == {
        "value",
        "low",
        "high",
        "n",
        "clusters",
    }


def test_one_result_needs_no_name(results, tmp_path):
    results[0].save(tmp_path)
    assert EvaluationResult.load(tmp_path).benchmark == "stereoset"
    results[1].save(tmp_path)
    assert EvaluationResult.load(tmp_path, "crows_pairs").metrics == results[1].metrics
    with pytest.raises(ValueError, match=r"benchmark None is not one of .*stereoset, crows_pairs"):
        EvaluationResult.load(tmp_path)


def test_a_folder_is_of_one_model_and_intervention(results, tmp_path):
    results[0].save(tmp_path)
    with pytest.raises(ValueError, match="is of another intervention"):
        results[1].save(tmp_path, intervention={"lam": 2})
    with pytest.raises(ValueError, match='is of another model: it has "tiny-random-llama"'):
        replace(results[1], model="other").save(tmp_path)
    with pytest.raises(ValueError, match="is of another model"):
        replace(results[1], fingerprint="00000000-00000000").save(tmp_path)
    with pytest.raises(ValueError, match="got results of weights"):
        results_json([results[0], replace(results[1], fingerprint="00000000-00000000")])
    with pytest.raises(ValueError, match="results of 2"):
        results_json([results[0], replace(results[1], model="other")])


def test_a_folder_without_results_is_an_error(results, tmp_path):
    with pytest.raises(ValueError, match=r"no results\.json"):
        load_results(tmp_path)
    results[0].save(tmp_path)
    (tmp_path / "items/stereoset.parquet").unlink()
    with pytest.raises(ValueError, match=r"stereoset\.parquet' is missing"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results\.json', model: Field required"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not complete JSON"):
        load_results(tmp_path)


def test_a_result_compared_with_itself_does_not_differ(results):
    for result in results:
        table = compare(result, result, n_bootstrap=50)
        assert (table["difference"] == 0).all()
        several = table["clusters"] > 1
        assert (table.loc[several, ["low", "high"]] == 0).all().all()
        assert set(result.metrics) < set(table["metric"])


def test_comparing_shows_differences_and_flips(results, scaled):
    moved = {}
    shares = {"stereoset": "ss", "crows_pairs": "stereotype_share", "openbookqa": "acc"}
    for base, other in zip(results, scaled, strict=True):
        table = compare(base, other, n_bootstrap=50).set_index("metric")
        for name, metric in base.metrics.items():
            assert table.loc[name, "base"] == metric.value
            assert table.loc[name, "other"] == other.metrics[name].value
            assert table.loc[name, "n"] == metric.n
        ways = ("to_stereotype", "to_anti_stereotype")
        if base.benchmark == "openbookqa":
            ways = ("gained", "lost")
        up, down = (table.loc[name, "difference"] for name in ways)
        moved[base.benchmark] = up + down
        assert up - down == pytest.approx(table.loc[shares[base.benchmark], "difference"])
        assert table.loc["logprob_per_token", "difference"] != 0
    assert max(moved.values()) > 0


def test_comparing_joins_on_the_item(results, scaled):
    shuffled = replace(scaled[0], items=scaled[0].items.sample(frac=1, random_state=0))
    expected = compare(results[0], scaled[0], n_bootstrap=20)
    pd.testing.assert_frame_equal(compare(results[0], shuffled, n_bootstrap=20), expected)


def test_only_like_can_be_compared(results):
    fewer = replace(results[0], items=results[0].items.iloc[1:])
    with pytest.raises(ValueError, match="1 of 40 items are only in the first, 0 of 39"):
        compare(results[0], fewer)
    with pytest.raises(ValueError, match="the same benchmark can be compared; got 'stereoset'"):
        compare(results[0], results[1])
    with pytest.raises(ValueError, match="the same protocol"):
        compare(results[0], replace(results[0], protocol="other"))


def test_an_empty_benchmark_is_an_error(folder):  # noqa: F811
    benchmark = load_benchmark("stereoset", data_dir=folder)
    fields = {name: getattr(benchmark, name) for name in benchmark.__dataclass_fields__}
    with pytest.raises(ValueError, match="no items"):
        Benchmark(**{**fields, "items": benchmark.items.head(0), "requests": ()})


def test_scores_that_are_not_finite_are_an_error(llama, folder):  # noqa: F811
    hooks = [("blocks.1.mlp.hook_post", lambda value, hook: value * float("inf"))]
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    with llama.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="not finite"):
        evaluate(llama, benchmark, **FAST)


def test_the_seed_decides_the_intervals(llama, folder):  # noqa: F811
    benchmark = load_benchmark("stereoset", data_dir=folder)
    first, again, other = (evaluate(llama, benchmark, seed=s, **FAST).metrics for s in (1, 1, 2))
    assert first == again != other
