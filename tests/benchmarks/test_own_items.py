"""Files of the user's own items: any bias types, names of their own, mistakes in one line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from capability_rows import ROWS
from test_bbq import four_rows
from test_benchmarks import stereoset_row, write_jsonl

import kb_lens as kb
from kb_lens.benchmarks.benchmark import result_key
from kb_lens.benchmarks.catalogue import SPECS, is_own, named_by, protocols
from kb_lens.benchmarks.export_tasks import write_tasks
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.results import load_results, save_results

TYPES = ("age", "accent", "caste")
ITEMS = [
    stereoset_row(k, kind, bias_type)
    for k, (kind, bias_type) in enumerate(
        (kind, bias_type) for bias_type in TYPES for kind in ("intrasentence", "intersentence") * 2
    )
]
PAIRS = [
    {"sent_more": f"Old man {k}.", "sent_less": f"Young man {k}.", "bias_type": TYPES[k % 3]}
    for k in range(6)
]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.jsonl"
    write_jsonl(path, ITEMS)
    return path


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def nested(rows):
    """Flat rows as the authors' file has them."""
    data = {"intersentence": [], "intrasentence": []}
    for number, row in enumerate(rows):
        labels = ("unrelated", "stereotype", "anti-stereotype")
        sentences = [
            {"sentence": f"{row[label]} ", "id": label, "labels": [], "gold_label": label}
            for label in labels
        ]
        item = {name: row[name] for name in ("target", "bias_type", "context")}
        data[row["type"]].append({"id": str(number), **item, "sentences": sentences})
    return {"version": "1.0", "data": data}


def values(model, benchmark):
    """Its metrics under a model."""
    return kb.evaluate(model, benchmark, progress=False, n_bootstrap=5).metrics


# -- what is read ------------------------------------------------------------------------------


def test_bias_types_are_the_users_own(llama, mine):
    benchmark = kb.load_benchmark("stereoset", path=mine)
    assert (benchmark.name, benchmark.dataset, benchmark.key) == (
        *("stereoset", "mine"),
        "stereoset-mine",
    )
    assert benchmark.source.startswith("mine.jsonl, SHA-256 ")
    metrics = values(llama, benchmark)
    assert {f"{name}_{kind}" for name in ("ss", "lms", "icat") for kind in TYPES} <= set(metrics)
    sample = kb.load_benchmark("stereoset", path=str(mine), limit=6, protocol="instructed")
    assert sample.items["bias_type"].value_counts().to_dict() == dict.fromkeys(TYPES, 2)
    assert sample.key == "stereoset_instructed-mine"


def test_the_authors_nested_file_is_the_flat_one(tmp_path):
    rows = sorted(
        (stereoset_row(k, row["type"], "gender") for k, row in enumerate(ITEMS)),
        key=lambda row: row["type"],
    )
    write_jsonl(tmp_path / "flat/stereoset/dev.jsonl", rows)
    folder = tmp_path / "nested/stereoset"
    folder.mkdir(parents=True)
    (folder / "dev.json").write_text(json.dumps(nested(rows), indent=1), encoding="utf-8")
    flat, deep = (
        kb.load_benchmark("stereoset", data_dir=tmp_path / name) for name in ("flat", "nested")
    )
    assert deep.items.equals(flat.items)
    assert (deep.source, deep.key) == ("stereoset/dev.json", "stereoset")
    named = kb.load_benchmark("stereoset", path=folder / "dev.json")
    assert named.digest == flat.digest
    write_jsonl(folder / "dev.jsonl", rows[:4])
    both = kb.load_benchmark("stereoset", data_dir=tmp_path / "nested")
    assert (len(both.items), both.source) == (4, "stereoset/dev.jsonl")


def test_a_pair_needs_two_sentences_and_a_type(llama, tmp_path):
    benchmark = kb.load_benchmark("crows_pairs", path=write_csv(tmp_path / "pairs.csv", PAIRS))
    assert set(benchmark.items["stereo_antistereo"]) == {"stereo"}
    assert benchmark.items["writer"].is_unique
    assert {f"stereotype_share_{kind}" for kind in TYPES} <= set(values(llama, benchmark))
    full = [
        {"": str(k), **row, "stereo_antistereo": "antistereo", "anon_writer": f"a{k % 2}"}
        for k, row in enumerate(PAIRS)
    ]
    items = kb.load_benchmark("crows_pairs", path=write_csv(tmp_path / "full.csv", full)).items
    assert items["item"].tolist() == list("012345")
    assert items["writer"].nunique() == 2
    assert set(items["stereo_antistereo"]) == {"antistereo"}


def test_bbq_takes_a_category_of_any_name(llama, tmp_path):
    rows = [{**row, "category": "Caste"} for row in four_rows("Religion")]
    write_jsonl(tmp_path / "castes.jsonl", rows)
    benchmark = kb.load_benchmark("bbq", path=tmp_path / "castes.jsonl")
    assert benchmark.items["category"].unique().tolist() == ["Caste"]
    assert "s_DIS_Caste" in values(llama, benchmark)
    with pytest.raises(ValueError, match="line 1: column 'category' must be one of Religion"):
        kb.load_benchmark("bbq_religion", path=tmp_path / "castes.jsonl")


@pytest.mark.parametrize("name", ["openbookqa", "balanced_copa"])
def test_capability_reads_a_file_too(tmp_path, name):
    pytest.importorskip("lm_eval")
    rows = ROWS["copa"][:2] if name == "balanced_copa" else ROWS[name][:2]
    mirrored = [{**row, "mirrored": k == 1} for k, row in enumerate(rows)]
    write_jsonl(tmp_path / "own.jsonl", mirrored)
    benchmark = kb.load_benchmark(name, path=tmp_path / "own.jsonl")
    assert (len(benchmark.items), benchmark.key) == (2, f"{name}-own")


def test_the_files_of_the_page_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs/own_benchmark.md").read_text(encoding="utf-8")
    items, pairs = (block for block in page.split("```\n")[1::2] if block[0] in "{s")
    (tmp_path / "mine.jsonl").write_text(items, encoding="utf-8")
    (tmp_path / "pairs.csv").write_text(pairs, encoding="utf-8")
    loaded = [
        kb.load_benchmark("stereoset", path=tmp_path / "mine.jsonl"),
        kb.load_benchmark("crows_pairs", path=tmp_path / "pairs.csv"),
    ]
    assert [len(benchmark.items) for benchmark in loaded] == [12, 6]
    assert all(benchmark.source in page for benchmark in loaded)


# -- names -------------------------------------------------------------------------------------


def test_no_other_result_has_the_name():
    for name in SPECS:
        for protocol in protocols(name):
            assert "-" not in result_key(name, protocol)
            key = result_key(name, protocol, "instructed")
            assert named_by(key) == (name, protocol)
            assert is_own(key)
            assert not is_own(result_key(name, protocol))
    assert not is_own("x-mine")


@pytest.mark.parametrize("name", ["stereoset", "crows_pairs", "bbq"])
@pytest.mark.parametrize("protocol", ["original", "instructed"])
def test_no_type_takes_the_name_of_a_metric(llama, tmp_path, mine, name, protocol):
    if name == "crows_pairs":
        mine = write_csv(tmp_path / "pairs.csv", PAIRS)
    if name == "bbq":
        write_jsonl(mine, [{**row, "category": "age"} for row in four_rows("Religion")])
    benchmark = kb.load_benchmark(name, path=mine, protocol=protocol)
    definition = benchmark.formulas
    names = {"ss": "bias_type", "stereotype_share": "bias_type", "s_DIS": "category"}
    metric = definition.by_type or "s_DIS"
    measured = values(llama, benchmark)
    ends = {m.removeprefix(f"{metric}_") for m in measured if m.startswith(f"{metric}_")}
    # with each of its columns a variant has values by type too: per_token_age
    others = ends - set(benchmark.items[names[metric]])
    taken = definition.not_types or ("per_token",)
    assert others
    assert all(f"{end}_".startswith(tuple(f"{t}_" for t in taken)) for end in others)
    for kind in TYPES:
        assert definition.describe(f"{metric}_{kind}") == definition.info[metric]


@pytest.mark.parametrize("protocol", ["original", "instructed"])
def test_results_on_own_items_stand_beside_the_benchmarks(llama, mine, tmp_path, protocol):
    write_jsonl(tmp_path / "stereoset/dev.jsonl", [stereoset_row(k) for k in range(4)])
    benchmarks = [
        kb.load_benchmark("stereoset", data_dir=tmp_path, protocol=protocol),
        kb.load_benchmark("stereoset", path=mine, protocol=protocol),
    ]
    results = [kb.evaluate(llama, b, progress=False, n_bootstrap=20) for b in benchmarks]
    save_results(tmp_path / "out", results)
    kept = load_results(tmp_path / "out")
    assert list(kept) == [benchmark.key for benchmark in benchmarks]
    own = kept[benchmarks[1].key]
    assert (own.benchmark, own.dataset) == ("stereoset", "mine")
    assert recompute(own)["ss_caste"] == own.metrics["ss_caste"]
    assert kept[benchmarks[0].key].dataset is None


def test_tasks_of_the_harness_have_the_own_types(mine, tmp_path):
    benchmark = kb.load_benchmark("stereoset", path=mine)
    assert write_tasks(tmp_path / "tasks", [benchmark]) == ["kb_lens_stereoset-mine"]
    form = (tmp_path / "tasks/kb_lens_stereoset-mine.yaml").read_text()
    assert all(f'{{metric: "icat_{kind}", aggregation' in form for kind in TYPES)
    assert "gender" not in form
    assert "kb_lens_stereoset-mine.jsonl" in form
    lines = (tmp_path / "tasks/kb_lens_stereoset-mine.jsonl").read_text().splitlines()
    assert set(TYPES) < set(json.loads(lines[0])["groups"])


# -- mistakes ----------------------------------------------------------------------------------

ROW = stereoset_row(0, "intrasentence", "age")
LACKING = {key: value for key, value in ROW.items() if key != "unrelated"}
TWICE = {**ROW, "unrelated": ROW["stereotype"]}
DEEP = nested([ROW])
NO_LABEL = json.loads(json.dumps(DEEP).replace('"unrelated"', '"related"'))


def lines(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lines(ROW, LACKING),
            r"mine.jsonl, line 2: column 'unrelated' must .* no such .* Repair the row\.$",
        ),
        (lines({**ROW, "bias_type": " "}), "line 1: column 'bias_type' must be a text that is not"),
        (lines({**ROW, "bias_type": 3}), "line 1: column 'bias_type' must be a text that is not"),
        (lines({**ROW, "bias_type": "a<b>"}), "'bias_type' must be a name of at most 40 letters"),
        (lines({**ROW, "bias_type": "per_token"}), "must be a name that is not .* got 'per_token'"),
        (lines({**ROW, "bias_type": "macro_x"}), "must be a name that is not .* got 'macro_x'"),
        (lines({**ROW, "context": "No gap."}), "line 1: column 'context' must be .* with BLANK"),
        (lines({**ROW, "type": "x"}), "line 1: column 'type' must be one of intersentence, intra"),
        (lines(TWICE), "line 1: column 'unrelated' must be another sentence than the other two"),
        (lines(ROW, {**ROW, "target": "x"}, ROW), "line 3: the same item as .*mine.jsonl, line 1"),
        (json.dumps([ROW]).encode(), "mine.jsonl, line 1: a JSON array. Write one JSON object"),
        (b"type,context\nintrasentence,x\n", "line 1: not JSON, but 'type,context'. Write one"),
        (b"", "mine.jsonl has no items of stereoset: it is empty"),
        (b"\n\n", "mine.jsonl has no items of stereoset: it is empty"),
        (lines(ROW).replace(b"weak", b"na\xefve"), "mine.jsonl: cannot be read as UTF-8 .* line 1"),
        (lines(NO_LABEL), r"data.intrasentence\[0\]: column 'sentences' must be three with a gold"),
        (b'{"data": 3}', "mine.jsonl, data: must be an object whose intersentence is a list"),
        (b'{"data": {"intrasentence": [1]}}', r"data.intrasentence\[0\]: must be an item with its"),
        (b'{"data": {}}', "mine.jsonl has no items of stereoset: it is empty"),
    ],
)
def test_a_mistake_is_named(mine, content, said):
    mine.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        kb.load_benchmark("stereoset", path=mine)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sent_less": "Old man 0."}, "line 2: column 'sent_less' must be another sentence"),
        ({"bias_type": "stereo"}, "line 2: column 'bias_type' must be a name that is not"),
        ({"bias_type": ""}, "line 2: column 'bias_type' must be a text that is not empty"),
        ({"sent_more": "Old man 1.", "sent_less": "Young man 1."}, "line 3: the same item as"),
        ({"stereo_antistereo": "no"}, "column 'stereo_antistereo' must be one of stereo, anti"),
    ],
)
def test_a_mistake_in_a_pair_is_named(tmp_path, change, said):
    rows = [{**pair, "stereo_antistereo": "stereo"} for pair in PAIRS[:2]]
    path = write_csv(tmp_path / "pairs.csv", [rows[0] | change, rows[1]])
    with pytest.raises(ValueError, match=said):
        kb.load_benchmark("crows_pairs", path=path)


def test_json_is_no_table_and_a_folder_no_file(mine, tmp_path):
    with pytest.raises(ValueError, match=r"mine.jsonl, line 1: JSON. Give a CSV file"):
        kb.load_benchmark("crows_pairs", path=mine)
    with pytest.raises(ValueError, match="is a folder: give a file of benchmark items"):
        kb.load_benchmark("stereoset", path=tmp_path)
    with pytest.raises(ValueError, match="no such file of benchmark items"):
        kb.load_benchmark("stereoset", path=tmp_path / "none")
    with pytest.raises(ValueError, match=r"data_dir, a folder .* or path, not both"):
        kb.load_benchmark("stereoset", path=mine, data_dir=tmp_path)


def test_one_item_is_measured_without_an_interval(llama, mine):
    write_jsonl(mine, ITEMS[:1])
    with pytest.warns(UserWarning, match="stereoset-mine"):
        result = kb.evaluate(
            llama, kb.load_benchmark("stereoset", path=mine), progress=False, n_bootstrap=20
        )
    metric = result.metrics["ss_age"]
    assert (metric.n, np.isnan(metric.low), np.isnan(metric.high)) == (1, True, True)
