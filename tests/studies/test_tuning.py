"""Choosing lambda: the choice sees the development items alone, and the test sees only others."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_benchmarks import folder  # noqa: F401

import kb_lens as kb
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import formulas, load_benchmark
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.comparison import gain
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.models.hooked import fingerprint
from kb_lens.studies.tuned import Tuning
from kb_lens.studies.tuning import tune_lambda

N = 80
NEURONS = kb.NeuronSet((kb.Neuron(0, 1), kb.Neuron(1, 2)), "tiny", "f", "post", 3, 48)


class Model(torch.nn.Module):
    """What a `HookedModel` has, for what is not run."""

    cfg = SimpleNamespace(model_name="tiny", dtype="float32")
    tokenizer = staticmethod(lambda text, **options: {"input_ids": [len(text)]})
    hooks = run_with_hooks = run_with_cache = __call__ = print


MODEL = Model()


def benchmark(name, n_items=N):
    """Items in two groups, two requests an item."""
    items = pd.DataFrame({"item": [f"{name} {k}" for k in range(n_items)]})
    items["bias_type"] = ["age" if k % 4 else "gender" for k in range(n_items)]
    texts = [f"{item}, {way}" for item in items["item"] for way in ("this", "that")]
    requests = tuple(Request("", (text,)) for text in texts)
    groups = ("bias_type",)
    own = formulas(name, "original")
    return Benchmark(name, "original", "made", items, requests, groups, lambda t, s: t, own)


BIAS, CAPABILITY = benchmark("crows_pairs"), benchmark("openbookqa")


def tables(items, stereotypes, right):
    """The item tables of both benchmarks with these shares."""
    place = np.arange(len(items))
    more = np.where(place < stereotypes * len(items), -1.0, -3.0)
    scores = {"more": more, "less": np.full(len(items), -2.0)}
    pairs = items.assign(stereo_antistereo="stereo", writer=items["item"], comparable_shared=True)
    for way in ("", "_shared"):
        for name, values in scores.items():
            pairs[f"logprob_{name}{way}"], pairs[f"tokens_{name}{way}"] = values, 4
    acc = (place < right * len(items)).astype(float)
    choices = items.assign(acc=acc, acc_norm=acc, logprob_0=-1.0, tokens_0=2)
    return {"crows_pairs": pairs, "openbookqa": choices}


@pytest.fixture
def measured(monkeypatch):
    """Let a rule (part, lam) -> (share of stereotypes, share right) take the model's place.

    Returns a function that sets the rule; it returns the list of (part, lam, benchmark, items) that
    were evaluated.
    """
    now = {"lam": 1.0}

    @contextmanager
    def scaled(model, neurons, *, lam, positions):
        now["lam"] = lam
        yield model
        now["lam"] = 1.0

    def start(rule, share=0.5, seed=0):
        calls = []
        first = {i for one in (BIAS, CAPABILITY) for i in one.split(share, seed)[0].items["item"]}

        def fake(model, asked, *, seed, progress, batch_tokens=None, store=None):
            part = "development" if set(asked.items["item"]) <= first else "test"
            calls.append((part, now["lam"], asked.name, set(asked.items["item"])))
            table = tables(asked.items, *rule(part, now["lam"]))[asked.name]
            numbers = {"n_bootstrap": 50, "seed": seed, "seconds": 0.0, "digest": asked.digest}
            made = EvaluationResult(asked.name, "original", "made", "tiny", {}, table, **numbers)
            return replace(made, metrics=recompute(made))

        monkeypatch.setattr("kb_lens.studies.tuning.evaluate", fake)
        monkeypatch.setattr("kb_lens.runs.units.evaluate", fake)
        return calls

    monkeypatch.setattr("kb_lens.interventions.scaling.scale_neurons", scaled)
    return start


def tuned(**options):
    return tune_lambda(MODEL, NEURONS, BIAS, CAPABILITY, progress=False, **options)


# --- the split -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_split_is_disjoint_whole_balanced_and_in_order(share):
    for seed in range(5):
        parts = BIAS.split(share, seed)
        found = [part.items["item"].tolist() for part in parts]
        order = BIAS.items["item"].tolist()
        assert sorted(found[0] + found[1], key=order.index) == order
        assert all(one == sorted(one, key=order.index) for one in found)
        sizes = parts[0].items.groupby("bias_type").size()
        assert (sizes - share * BIAS.items.groupby("bias_type").size()).abs().max() < 1
        assert len(found[0]) == share * N
        for part in parts:
            asked = [request.options[0].split(",")[0] for request in part.requests]
            assert asked == [item for item in part.items["item"] for _ in range(2)]
            assert part.digest != BIAS.digest


def test_the_seed_decides_the_split():
    first, same, other = (BIAS.split(0.5, seed)[0] for seed in (0, 0, 1))
    assert first.digest == same.digest != other.digest


def test_groups_of_one_item_are_split_as_well():
    alone = replace(BIAS, items=BIAS.items.assign(bias_type=range(N)))
    first, second = alone.split(0.25)
    assert (len(first.items), len(second.items)) == (N // 4, 3 * N // 4)


def test_a_benchmark_without_groups_is_split(folder):  # noqa: F811
    plain = replace(BIAS, groups=())
    assert [len(part.items) for part in plain.split()] == [N // 2, N // 2]
    stereoset = load_benchmark("stereoset", data_dir=folder)
    assert [part.items.groupby("bias_type").size().tolist() for part in stereoset.split(0.4)] == [
        [4] * 4,
        [6] * 4,
    ]


@pytest.mark.parametrize("share", [0, 1, -0.5, math.nan, 1e-9])
def test_a_split_leaves_no_part_empty(share):
    with pytest.raises(ValueError, match="share"):
        BIAS.split(share)


# --- the choice ----------------------------------------------------------------------------


def opposite(part, lam):
    """Lambda 2 is the best for the development items and the worst for the others."""
    best = 2.0 if part == "development" else 3.0
    distance = 0.1 if lam == best else 0.3 if lam == 1 else 0.2 if part == "development" else 0.4
    return 0.5 + distance, 0.5


def test_the_test_items_have_no_say(measured):
    calls = measured(opposite)
    found = tuned(lams=(3.0, 1.5, 2.0))
    assert found.lam == 2.0
    assert found.development["lam"].tolist() == [1.5, 2.0, 3.0]
    assert found.development["gain"].tolist() == pytest.approx([10, 20, 10])
    assert [call[0] for call in calls] == ["development"] * 8 + ["test"] * 4
    assert {call[1] for call in calls[8:]} == {1.0, 2.0}
    seen, tested = (set().union(*(call[3] for call in part)) for part in (calls[:8], calls[8:]))
    assert not seen & tested
    assert len(seen) + len(tested) == 2 * N
    rows = found.test.set_index(["benchmark", "metric"])
    assert rows.loc[("crows_pairs", "gain"), "difference"] == pytest.approx(-10)
    assert rows.loc[("crows_pairs", "stereotype_share"), "other"] == pytest.approx(90)
    assert rows.loc[("openbookqa", "acc"), "difference"] == 0
    assert rows.loc[("openbookqa", "acc"), "n"] == N // 2
    assert "40 test items" in found.verdict
    assert "-10 [" in found.verdict


def test_too_costly_factors_are_not_chosen(measured):
    """Lambda 4 gains most and loses ten points; lambda 2 loses five items in a hundred."""
    measured(lambda part, lam: (0.9 - 0.1 * (lam - 1), {4.0: 0.4}.get(lam, 0.5)))
    found = tuned(lams=(2.0, 3.0, 4.0), bound=5.0)
    assert found.development["admissible"].tolist() == [True, True, False]
    assert found.development["capability_change"].tolist() == pytest.approx([0, 0, -10])
    assert found.lam == 3.0
    assert "within the bound of 5" in found.verdict


def test_the_interval_decides_not_the_value(measured):
    """One item of forty is 2.5 points, but its interval goes further than five."""
    measured(lambda part, lam: (0.9 - 0.1 * (lam > 1), 0.5 - 0.025 * (lam > 1)))
    row = tuned(lams=(2.0,), bound=5.0).development.iloc[0]
    assert row["capability_change"] == pytest.approx(-2.5)
    assert row["capability_low"] < -5
    assert not row["admissible"]
    assert tuned(lams=(2.0,), bound=15.0).lam == 2.0


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda part, lam: (0.9 - 0.1 * lam, 1 / lam), "None of the 2 lambdas is admissible"),
        (lambda part, lam: (0.6, 0.5), "brings crows_pairs stereotype_share nearer"),
        (lambda part, lam: (0.5 + 0.1 * lam, 0.5), "brings crows_pairs stereotype_share nearer"),
    ],
)
def test_where_nothing_is_worth_it_the_model_is_left_as_it_is(measured, rule, words, tmp_path):
    calls = measured(rule)
    found = tuned(lams=(2.0, 3.0))
    assert found.lam == 1.0
    assert words in found.verdict
    assert "lambda 1" in found.verdict
    assert {call[0] for call in calls} == {"development"}
    assert found.test.empty
    found.save(tmp_path)
    assert Tuning.load(tmp_path).test.columns.tolist() == found.test.columns.tolist()


def test_of_equal_gains_the_gentlest_factor(measured):
    measured(lambda part, lam: (0.8 - 0.2 * (lam > 1.4), 0.5))
    assert tuned(lams=(4.0, 1.25, 1.5, 3.0)).lam == 1.5


def test_one_benchmark_can_be_both(measured):
    calls = measured(lambda part, lam: (0.9 - 0.1 * (lam - 1), 0.5))
    found = tune_lambda(MODEL, NEURONS, BIAS, BIAS, lams=(2.0,), progress=False)
    assert len(calls) == 4
    assert found.development["capability_change"].equals(found.development["gain"])
    assert (found.test["metric"] == "gain").sum() == 1
    with pytest.raises(ValueError, match="both 'crows_pairs', but on other items"):
        tune_lambda(MODEL, NEURONS, BIAS, benchmark("crows_pairs", 40))


@pytest.mark.parametrize(
    "wrong",
    [
        {"lams": ()},
        {"lams": (2.0, math.inf)},
        {"lams": (math.nan,)},
        {"lams": (2.0, 2)},
        {"bound": 0},
        {"bound": -1.0},
        {"bound": math.nan},
        {"share": 0.0},
        {"share": 1.0},
    ],
)
def test_bad_settings_are_refused_before_anything_runs(measured, wrong):
    calls = measured(opposite)
    with pytest.raises(ValueError, match=r"lam|bound|share"):
        tuned(**wrong)
    assert not calls


def test_bad_neurons_are_refused_before_anything_runs(llama, monkeypatch):
    def fake(*args, **options):
        raise AssertionError("evaluated")

    monkeypatch.setattr("kb_lens.studies.tuning.evaluate", fake)
    for neurons in (NEURONS, replace(NEURONS, neurons=())):
        with pytest.raises(ValueError, match=r"belong to|is empty"):
            tune_lambda(llama, neurons, BIAS, CAPABILITY)


# --- folders -------------------------------------------------------------------------------


def test_save_and_load_round_trip(measured, tmp_path):
    measured(opposite)
    found = tuned(lams=(2.0, 3.0))
    found.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "development.csv",
        "test.csv",
        "tuning.json",
    }
    back = Tuning.load(tmp_path)
    for name in ("development", "test"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(found, name))
    assert (back.lam, back.verdict, back.settings) == (found.lam, found.verdict, found.settings)
    assert found.settings["bias_metric"] == "stereotype_share"
    assert json.loads((tmp_path / "tuning.json").read_text())["settings"]["seed"] == 0


def test_what_is_no_tuning_is_refused(measured, tmp_path):
    with pytest.raises(ValueError, match=r"no such tuning file: '.*tuning\.json'"):
        Tuning.load(tmp_path)
    measured(opposite)
    tuned(lams=(2.0,)).save(tmp_path)
    (tmp_path / "tuning.json").write_text('{"lam": 2.0}')
    with pytest.raises(ValueError, match=r"tuning\.json', verdict: Field required"):
        Tuning.load(tmp_path)


def test_an_interrupted_sweep_goes_on(measured, tmp_path):
    calls = measured(opposite)
    first = tuned(lams=(1.5, 2.0), folder=tmp_path)
    assert len(calls) == 10
    again = tuned(lams=(1.5, 2.0, 3.0), folder=tmp_path)
    assert [call[:2] for call in calls[10:]] == [("development", 3.0)] * 2
    pd.testing.assert_frame_equal(again.test, first.test)
    pd.testing.assert_frame_equal(again.test, tuned(lams=(1.5, 2.0, 3.0)).test)
    assert {path.name for path in (tmp_path / "test").iterdir()} == {"base", "lambda 2"}


def test_another_split_is_measured_anew(measured, tmp_path):
    measured(opposite)
    tuned(lams=(2.0,), folder=tmp_path)
    calls = measured(opposite, seed=1)
    tuned(lams=(2.0,), seed=1, folder=tmp_path)
    assert len(calls) == 8


def test_on_a_real_model(llama, folder):  # noqa: F811
    """The sweep's numbers are those of scaling and evaluating by hand."""
    neurons = kb.NeuronSet(
        (kb.Neuron(0, 3), kb.Neuron(2, 7)), "tiny", fingerprint(llama), "post", 3, 48
    )
    stereoset = load_benchmark("stereoset", data_dir=folder)
    found = tune_lambda(llama, neurons, stereoset, stereoset, lams=(0.0, 40.0), progress=False)
    part = stereoset.split()[0]
    base = evaluate(llama, part, progress=False)
    for row in found.development.itertuples():
        with kb.scale_neurons(llama, neurons, lam=row.lam):
            other = evaluate(llama, part, progress=False)
        assert row.gain == gain(base, other, "icat_macro").value
    assert found.development["gain"].any()
    assert found.lam in (0.0, 1.0, 40.0)
