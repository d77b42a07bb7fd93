"""What is read back from a folder of results is what was measured, or an error names the place."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_benchmarks import folder  # noqa: F401

import kb_lens as kb
from kb_lens.evaluation.results import load_results

ITEMS = "items/stereoset.parquet"


@pytest.fixture
def saved(llama, folder, tmp_path):  # noqa: F811
    """A folder of results."""
    benchmark = kb.load_benchmark("stereoset", data_dir=folder)
    kb.evaluate(llama, benchmark, progress=False, n_bootstrap=20).save(tmp_path / "saved")
    return tmp_path / "saved"


def edited(saved, *keys, value):
    """Change a value of results.json; a key may be new."""
    path = saved / "results.json"
    content = json.loads(path.read_text())
    target = content
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    path.write_text(json.dumps(content))


SS = ("benchmarks", "stereoset", "ss")
EDITS = [
    ((*SS, "value"), 50.0, r"differ in stereoset, metrics\.ss\.value: 50\.0 and"),
    ((*SS, "low"), 1.0, r"metrics\.ss\.low"),
    ((*SS, "n"), 7, r"metrics\.ss\.n: 7 and"),
    ((*SS, "value"), "50", "ss.value: it should be a valid number, got '50'"),
    ((*SS, "n"), 1.5, "ss.n: it should be a valid integer, got 1.5"),
    ((*SS, "value"), float("inf"), "is not complete JSON"),
    (("benchmarks", "stereoset", "mine"), {"value": 1, "low": 1, "high": 1, "n": 1}, "mine"),
    (("benchmarks", "made_up"), {}, "benchmarks without details"),
    (("details", "stereoset", "protocol"), "release", "it is of stereoset, protocol release"),
    (("details", "stereoset", "seed"), 3, r"details\.seed: 3 and 0"),
    (("details", "stereoset", "seconds"), None, "seconds: it should be a valid number, got None"),
    (("model",), "gpt2", r"differ in stereoset, model: 'gpt2' and 'tiny-random-llama'"),
    (("fingerprint",), "00000000-00000000", "fingerprint"),
    (("intervention",), {"lam": 2}, "intervention"),
    (("condition", "role"), "hero", "'base', 'method' or 'control', got 'hero'"),
    (("colour",), "red", "colour"),
]


@pytest.mark.parametrize(("keys", "value", "message"), EDITS, ids=range(len(EDITS)))
def test_a_value_edited_in_results_json_is_found(saved, keys, value, message):
    load_results(saved)
    edited(saved, *keys, value=value)
    with pytest.raises(ValueError, match=message) as caught:
        load_results(saved)
    assert str(saved / "results.json") in str(caught.value)


def without_metadata(path, table):
    """Items as older versions wrote them, and as pandas writes them."""
    table.to_parquet(path, index=False)


TABLES = {
    "more rows": lambda table: pd.concat([table, table.head(9)]),
    "fewer rows": lambda table: table.head(20),
    "a number changed": lambda table: table.assign(logprob_stereotype=-1.0),
    "texts for numbers": lambda table: table.assign(logprob_stereotype="low"),
    "no column": lambda table: table.drop(columns="logprob_stereotype"),
    "no rows": lambda table: table.head(0),
    "another table": lambda table: pd.DataFrame({"a": [1]}),
}


@pytest.mark.parametrize("change", TABLES.values(), ids=TABLES)
def test_items_that_do_not_give_the_metrics_are_found(saved, change):
    path = saved / ITEMS
    without_metadata(path, change(pd.read_parquet(path)))
    with pytest.raises(ValueError, match="stereoset"):
        load_results(saved)


def test_items_of_an_older_version_are_read(saved):
    path = saved / ITEMS
    without_metadata(path, pd.read_parquet(path))
    for key in ("fingerprint", "condition"):
        content = json.loads((saved / "results.json").read_text())
        del content[key]
        (saved / "results.json").write_text(json.dumps(content))
    assert load_results(saved)["stereoset"].fingerprint == ""


def test_items_of_another_condition_are_found(saved, llama, folder, tmp_path):  # noqa: F811
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: -3 * value)]):
        benchmark = kb.load_benchmark("stereoset", data_dir=folder)
        other = kb.evaluate(llama, benchmark, progress=False, n_bootstrap=20)
    other.save(tmp_path / "other", intervention={"lam": -3})
    shutil.copy(tmp_path / "other" / ITEMS, saved / ITEMS)
    with pytest.raises(ValueError, match="differ in stereoset, intervention"):
        load_results(saved)


def loaded(folder):  # noqa: F811
    """The items, or what is wrong with them."""
    try:
        return load_results(folder)["stereoset"].items
    except ValueError as error:
        return str(error)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_items_are_an_error_or_the_same(saved, data):
    path = saved / ITEMS
    if not (whole := saved / "whole.parquet").exists():
        shutil.copy(path, whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path.write_bytes(content[:cut])
    outcome = loaded(saved)
    if isinstance(outcome, str):
        assert "stereoset.parquet" in outcome or "results.json" in outcome
    else:
        assert len(outcome) == len(pq.read_table(whole))


def test_a_result_shows_what_it_is_and_its_metrics_as_a_table(saved):
    result = kb.EvaluationResult.load(saved)
    assert len(repr(result)) < 100
    table = result.table()
    assert list(table.columns) == ["value", "low", "high", "n", "clusters"]
    assert table.loc["ss", "value"] == result.metrics["ss"].value
    assert list(table.index) == list(result.metrics)
