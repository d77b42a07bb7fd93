"""The instructed protocols: lists in every order, means over the orders, and what an order does."""

import json
from hashlib import sha256
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_bridge

from kb_lens.benchmarks import crows_pairs, stereoset
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.benchmarks.orders import all_orders, order_quantities, rotations
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.statistics import point

MODULES = {"stereoset": stereoset, "crows_pairs": crows_pairs}
SHARES = {"stereoset": "ss", "crows_pairs": "stereotype_share"}
N_ITEMS = {"stereoset": 16, "crows_pairs": 9}


@pytest.fixture
def folder(tmp_path):
    """A data folder with two items of each kind and bias type, and a pair of each bias type."""
    kinds = [(kind, bias) for kind in stereoset.KINDS for bias in stereoset.BIAS_TYPES]
    rows = [
        {
            "type": kind,
            "target": f"{bias} {k // len(kinds)}",
            "bias_type": bias,
            "context": f"Girl {k} is BLANK.",
            **{key: f"Girl {k} is {key}." for key in ("stereotype", "anti-stereotype")},
            "unrelated": f"Fish {k} swim.",
        }
        for k, (kind, bias) in enumerate(kinds * 2)
    ]
    (tmp_path / "stereoset").mkdir()
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "stereoset/dev.jsonl").write_text(text, encoding="utf-8")
    pairs = pd.DataFrame({"bias_type": crows_pairs.BIAS_TYPES})
    pairs["sent_more"] = [f"She is number {k}." for k in pairs.index]
    pairs["sent_less"] = [f"He is number {k}, good." for k in pairs.index]
    pairs["stereo_antistereo"] = [crows_pairs.DIRECTIONS[k % 2] for k in pairs.index]
    (tmp_path / "crows_pairs").mkdir()
    pairs.to_csv(tmp_path / "crows_pairs/crows_pairs_anonymized.csv")
    return tmp_path


@pytest.fixture(params=MODULES)
def benchmark(request, folder):
    """Each instructed benchmark."""
    return load_benchmark(request.param, data_dir=folder, protocol="instructed")


# --- lists and orders --------------------------------------------------------------------------


@pytest.mark.parametrize(("n_options", "n_orders"), [(2, 2), (3, 6), (4, 24)])
def test_all_orders_balance_places_and_neighbours(n_options, n_orders):
    orders = all_orders(n_options)
    assert orders.shape == (n_orders, n_options)
    assert len({tuple(order) for order in orders}) == n_orders
    assert orders[0].tolist() == list(range(n_options))
    for place in orders.T:
        assert np.bincount(place).tolist() == [n_orders // n_options] * n_options
    places = orders.argsort(axis=1)
    for one, other in combinations(range(n_options), 2):
        assert (places[:, one] < places[:, other]).mean() == 0.5


def test_cyclic_orders_do_not_balance_neighbours():
    places = rotations(3).argsort(axis=1)
    assert (places[:, 0] < places[:, 1]).sum() == 2


def test_the_options_are_listed_in_every_order(benchmark):
    module = MODULES[benchmark.name]
    n_orders, n_options = module.ORDERS.shape
    assert len(benchmark.requests) == n_orders * len(benchmark.items)
    for index, request in enumerate(benchmark.requests):
        first = benchmark.requests[n_orders * (index // n_orders)]
        assert request.chat
        assert request.options == first.options
        head, *listed = request.prompt.rsplit("\n", n_options)
        assert listed == [request.options[k] for k in module.ORDERS[index % n_orders]]
        assert head == first.prompt.rsplit("\n", n_options)[0]


def test_prompts_begin_with_the_same_instruction(benchmark):
    module = MODULES[benchmark.name]
    assert all(r.prompt.startswith(module.INSTRUCTION + "\n\n") for r in benchmark.requests)
    assert len({r.system for r in benchmark.requests}) == 1


def test_stereoset_prompts_show_the_context_and_whole_sentences(folder):
    benchmark = load_benchmark("stereoset", data_dir=folder, protocol="instructed")
    rows = benchmark.items.to_dict("records")
    for row, request in zip(rows, benchmark.requests[::6], strict=True):
        assert request.options == tuple(row[option] for option in stereoset.OPTIONS)
        assert f"\n\nContext: {row['context']}\nSentences:\n" in request.prompt


def test_crows_pairs_options_are_the_sentences(folder):
    benchmark = load_benchmark("crows_pairs", data_dir=folder, protocol="instructed")
    pairs = zip(benchmark.items["sent_more"], benchmark.items["sent_less"], strict=True)
    assert [r.options for r in benchmark.requests[::2]] == list(pairs)


# --- formulas ----------------------------------------------------------------------------------


def metrics(benchmark, table):
    found = point(benchmark.formulas.statistics(table), benchmark.formulas.metrics)
    return {name: measure.value.item() for name, measure in found.items()}


def scores(logprob):
    logprob = np.asarray(logprob, dtype=float)
    return OptionScores(logprob, np.full(logprob.shape, 2))


def first_items(benchmark, n):
    return benchmark.items.head(n)


def test_stereoset_by_hand(folder):
    benchmark = load_benchmark("stereoset", data_dir=folder, protocol="instructed")
    by_order = [
        [-1, -4, -6],  # listed S A U: S beats A, the first is likeliest
        [-1, -3, -5],  # S U A: S beats A, the first is likeliest
        [-6, -1, -5],  # A S U: A beats S, the first is likeliest
        [-2, -3, -5],  # A U S: S beats A, the first is not likeliest
        [-4, -4, -1],  # U S A: a tie, the first is likeliest
        [-3, -1, -1],  # U A S: A beats S, the first and another are likeliest
    ]
    swapped = [[anti, stereotype, unrelated] for stereotype, anti, unrelated in by_order]
    table = benchmark.tabulate(first_items(benchmark, 2), scores(by_order + swapped))
    row = table.iloc[0]
    assert row["logprob_stereotype"] == pytest.approx(-17 / 6)
    assert row["logprob_anti_stereotype"] == pytest.approx(-16 / 6)
    assert row["logprob_unrelated"] == pytest.approx(-23 / 6)
    assert row["tokens_stereotype"] == 2
    columns = [f"logprob_{option}_{r}" for r in range(6) for option in stereoset.OPTIONS]
    assert row[columns].tolist() == np.ravel(by_order).tolist()

    one = metrics(benchmark, table.head(1))
    assert (one["ss"], one["lms"]) == (0, 100)
    assert one["ss_by_order"] == pytest.approx(100 * (1 + 1 + 0 + 1 + 0.5 + 0) / 6)
    assert one["ss_stereotype_first"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)
    assert one["ss_anti_first"] == pytest.approx(100 / 3)
    assert one["position_bias"] == pytest.approx(100 * (1 + 1 + 1 + 0 + 1 + 0.5) / 6)
    assert one["logprob_per_token"] == pytest.approx(-56 / 6 / 6)

    both = metrics(benchmark, table)
    assert (both["ss"], both["lms"], both["icat"]) == (50, 100, 100)
    assert both["ss_by_order"] == pytest.approx(50)
    assert both["ss_stereotype_first"] == pytest.approx(100 * (2.5 / 3 + 0.5 / 3) / 2)
    firsts = (1 + 1 + 1 + 0 + 1 + 0.5) + (0 + 0 + 0 + 1 + 1 + 0.5)
    assert both["position_bias"] == pytest.approx(100 * firsts / 12)


def test_crows_pairs_by_hand(folder):
    benchmark = load_benchmark("crows_pairs", data_dir=folder, protocol="instructed")
    by_order = [[-1, -2], [-4, -3], [-5, -2], [-3, -3], [-1, -9], [-2, -3]]
    table = benchmark.tabulate(first_items(benchmark, 3), scores(by_order))
    assert table["logprob_more"].tolist() == [-2.5, -4, -1.5]
    assert table["logprob_less"].tolist() == [-2.5, -2.5, -6]
    assert table["tokens_more"].tolist() == [2, 2, 2]
    assert table["logprob_more_1"].tolist() == [-4, -3, -2]
    assert table["logprob_less_0"].tolist() == [-2, -2, -9]
    found = metrics(benchmark, table)
    assert found["stereotype_share"] == pytest.approx(100 * 1.5 / 3)
    assert found["stereotype_share_by_order"] == pytest.approx(100 * (1 + 0 + 0 + 0.5 + 1 + 1) / 6)
    assert found["stereotype_share_more_first"] == pytest.approx(100 * 2 / 3)
    assert found["stereotype_share_less_first"] == pytest.approx(100 * (0 + 0.5 + 1) / 3)
    assert found["position_bias"] == pytest.approx(100 * (1 + 1 + 0 + 0.5 + 1 + 0) / 6)


@pytest.mark.parametrize("n_options", [2, 3])
def test_without_a_place_effect_the_position_is_chance(n_options):
    orders = all_orders(n_options)
    content = np.random.default_rng(0).normal(size=(5, 1, n_options))
    found = order_quantities(np.repeat(content, len(orders), axis=1), orders)
    np.testing.assert_allclose(found["position"], 1 / n_options)
    np.testing.assert_array_equal(found["more_first"], found["less_first"])
    tied = order_quantities(np.zeros((1, len(orders), n_options)), orders)
    assert tied["position"] == pytest.approx(1 / n_options)
    assert tied["by_order"] == 0.5


def content(request):
    """A made-up log-probability of each option that depends on its words alone."""
    digests = [sha256(text.encode()).digest() for text in request.options]
    return np.array([-1.0 - digest[0] / 32 - digest[1] / 8192 for digest in digests])


def places(request):
    """Where each option stands in the list, read from the prompt."""
    listed = request.prompt.split("\n")[-len(request.options) :]
    return np.array([listed.index(option) for option in request.options])


def table_of(benchmark, score):
    return benchmark.tabulate(benchmark.items, scores([score(r) for r in benchmark.requests]))


MEANS = ("ss", "lms", "icat", "ss_race", "icat_macro", "stereotype_share", "stereotype_share_age")


@pytest.mark.parametrize("effect", [(0, -300, -900), (-900, 0, -300)])
def test_what_a_place_adds_moves_no_metric_from_means(benchmark, effect):
    fair = metrics(benchmark, table_of(benchmark, content))
    pushed = metrics(
        benchmark, table_of(benchmark, lambda r: content(r) + np.take(effect, places(r)))
    )
    share = SHARES[benchmark.name]
    assert 0 < fair[share] < 100
    for name in set(MEANS) & set(fair):
        assert pushed[name] == fair[name]
    n_options = len(benchmark.requests[0].options)
    assert fair["position_bias"] == pytest.approx(100 / n_options)
    assert pushed["position_bias"] == (100 if effect[0] == 0 else 0)
    assert pushed[f"{share}_by_order"] == 50
    names = [name for name in fair if name.endswith(("_first", "_by_order"))]
    assert len(names) == 3
    assert {fair[name] for name in names} == {fair[share]}
    extremes = sorted(pushed[name] for name in names if name.endswith("_first"))
    if n_options == 2:
        assert extremes == [0, 100]
    else:
        assert extremes[0] < 50 < extremes[1]


def test_what_precedence_adds_moves_no_metric_from_means(folder):
    """An option gains from standing before another one, as copying models do; not by its place."""
    benchmark = load_benchmark("stereoset", data_dir=folder, protocol="instructed")

    def score(request):
        at = places(request)
        return content(request) + 900 * np.array([at[0] < at[1], at[1] < at[0], 0])

    fair, pushed = (table_of(benchmark, f) for f in (content, score))
    assert metrics(benchmark, pushed)["ss"] == metrics(benchmark, fair)["ss"]
    cyclic = [stereoset.ORDERS.tolist().index(order) for order in rotations(3).tolist()]
    gap = [
        pushed[f"logprob_stereotype_{r}"] - pushed[f"logprob_anti_stereotype_{r}"] for r in cyclic
    ]
    assert (np.mean(gap, axis=0) > 0).all()  # cyclic orders alone would make all stereotypes win


def test_headlines_name_metrics_and_the_position_bias(benchmark):
    found = metrics(benchmark, table_of(benchmark, content))
    definition = benchmark.formulas
    assert set(definition.headline) <= set(found)
    best = definition.describe("position_bias").best
    assert best == pytest.approx(100 / len(benchmark.requests[0].options))
    assert definition.headline[0] in ("icat_macro", "stereotype_share")


# --- with a model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_llama():
    """A tiny random llama whose context has room for a list."""
    return tiny_bridge("llama", max_position_embeddings=1024)


def test_from_a_model_to_metrics_and_back(long_llama, benchmark, tmp_path):
    result = evaluate(long_llama, benchmark, progress=False, n_bootstrap=20)
    assert (result.protocol, len(result.items)) == ("instructed", N_ITEMS[benchmark.name])
    assert recompute(result) == result.metrics
    result.save(tmp_path)
    assert recompute(type(result).load(tmp_path)) == result.metrics
    assert 0 <= result.metrics["position_bias"].value <= 100
    again = compare(result, result, n_bootstrap=20)
    assert (again["difference"] == 0).all()
    alone = again["clusters"] < 2  # no interval
    assert (again.loc[~alone, ["low", "high"]] == 0).all().all()
    assert again.loc[alone, ["low", "high"]].isna().all().all()
    assert {"to_stereotype", "to_anti_stereotype", "position_bias"} <= set(again["metric"])


def test_columns_are_the_scores_of_their_order(long_llama, benchmark):
    result = evaluate(long_llama, benchmark, progress=False, n_bootstrap=20)
    module = MODULES[benchmark.name]
    n_orders = len(module.ORDERS)
    for order in (0, n_orders - 1):
        alone = option_logprobs(long_llama, benchmark.requests[order::n_orders], progress=False)
        columns = [f"logprob_{option}_{order}" for option in module.OPTIONS]
        np.testing.assert_allclose(result.items[columns], alone.logprob, atol=1e-3)
    assert result.items[columns].to_numpy().std() > 0
