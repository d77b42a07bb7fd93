"""A file a unit: the same result comes back, and no damage goes unnoticed."""

import random
from dataclasses import replace

import pandas as pd
import pytest
from test_benchmarks import folder  # noqa: F401

from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, load_benchmark
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.runs.unit_store import UnitStore, unit_key
from kb_lens.statistics import Metric

KEY = unit_key("a unit")


@pytest.fixture
def result(llama, folder):  # noqa: F811
    """What the tiny model scores on CrowS-Pairs."""
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    return evaluate(llama, benchmark, progress=False, n_bootstrap=50)


@pytest.fixture
def store(tmp_path):
    return UnitStore(tmp_path / "units")


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.items, other.items)
    for field in set(EvaluationResult.__dataclass_fields__) - {"items"}:
        assert getattr(one, field) == getattr(other, field)


def test_a_key_depends_on_the_content_alone():
    one = unit_key({"model": "gpt2", "lam": 2.0, "items": ["a", "b"]})
    assert one == "5d76ebf07ff57f09609b65190de31e49"
    assert one == unit_key({"items": ("a", "b"), "lam": 2.0, "model": "gpt2"})
    assert one != unit_key({"model": "gpt2", "lam": 2.0, "items": ["b", "a"]})
    assert one != unit_key({"model": "gpt2", "lam": 2.5, "items": ["a", "b"]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        unit_key({"lam": float("nan")})


@pytest.mark.parametrize("name", DEFAULT_BENCHMARKS)
def test_a_result_comes_back_as_it_was(llama, folder, store, name):  # noqa: F811
    benchmark = load_benchmark(name, data_dir=folder)
    result = evaluate(llama, benchmark, progress=False, n_bootstrap=50)
    assert store.read(KEY) is None
    assert KEY not in store
    path = store.write(KEY, result)
    assert KEY in store
    assert_same(store.read(KEY), result)
    pd.testing.assert_frame_equal(pd.read_parquet(path), result.items)


def test_numbers_come_back_to_the_bit(result, store):
    metrics = {
        "odd": Metric(1 / 3, -0.0, 5e-324, 7),
        "none": Metric(float("nan"), -1e308, 1e308, 1),
    }
    items = result.items.assign(
        number=range(2), flag=[True, False], word=["", "ß"], share=0.1 + 0.2
    )
    store.write(KEY, replace(result, metrics=metrics, items=items.iloc[::-1]))
    back = store.read(KEY)
    assert repr(back.metrics) == repr(metrics)
    pd.testing.assert_frame_equal(back.items, items.iloc[::-1])


def test_any_damage_is_noticed_and_moved_aside(result, store):
    path = store.write(KEY, result)
    whole, draw = path.read_bytes(), random.Random(0)
    damaged = [b"", whole[:-1], whole[1:], whole[: len(whole) // 2], whole + b"\0"]
    for place in draw.sample(range(len(whole)), 50):
        flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
        damaged.append(whole[:place] + flipped + whole[place + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match="is damaged"):
            assert store.read(KEY) is None
        assert not path.exists()
        assert path.with_name(f"{path.name}.damaged").read_bytes() == content
        assert KEY not in store  # and no second warning
    store.write(KEY, result)
    assert_same(store.read(KEY), result)


def test_a_whole_file_beside_a_damaged_one_is_found(result, store):
    paths = [store.write(KEY, replace(result, seconds=seconds)) for seconds in (1.0, 2.0)]
    first, second = sorted(paths)
    first.write_bytes(b"")
    with pytest.warns(UserWarning, match=first.name):
        assert KEY in store
    assert store.read(KEY).seconds == 1.0 + paths.index(second)


def test_a_claim_is_of_one_at_a_time(store):
    with store.claimed(KEY) as mine, store.claimed(KEY) as again, store.claimed("other") as other:
        assert (mine, again, other) == (True, False, True)
    with store.claimed(KEY) as mine:
        assert mine


def test_a_claim_is_given_back_after_an_exception(store):
    with pytest.raises(KeyError), store.claimed(KEY):
        raise KeyError
    with store.claimed(KEY) as mine:
        assert mine


def test_who_claims_a_unit_sweeps_up_what_was_half_written(result, store):
    part, other = (
        store.write(key, result).with_suffix(".parquet.123.part")
        for key in (KEY, unit_key("other"))
    )
    part.write_bytes(b"half")
    other.write_bytes(b"half")
    with store.claimed(KEY):
        assert not part.exists()
    assert other.exists()
    assert_same(store.read(KEY), result)
