"""The paper's table: recipes, cells, what is published, and the command from end to end."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.results import load_results
from kb_lens.figures.paper import paper_figure
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.report.write import write_report
from kb_lens.runs.folder import RunFolder
from kb_lens.studies.paper import (
    PaperExecution,
    PaperSettings,
    conditions,
    given_neurons,
    paper,
    read_pairs,
)
from kb_lens.studies.paper_table import (
    CELLS,
    RECIPES,
    brief_table,
    differences,
    paper_table,
    published,
    recipe_of,
)

QUIET = PaperExecution(device="cpu", progress=False)
STEREOSET = ("stereoset@16", "stereoset:release@16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "Qwen3-4B"
    tiny_hf_model(max_position_embeddings=1024).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "authors.json"
    path.write_text(json.dumps({"neurons": [[0, 3], [1, 7], [2, 11]]}))
    return path


@pytest.fixture(scope="module")
def folder(checkpoint, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    settings = PaperSettings(model=str(checkpoint), neurons=pairs, benchmarks=STEREOSET)
    paper(out, settings, QUIET, pytest.fail)
    return out


@pytest.mark.parametrize(
    ("name", "lam"),
    [
        ("meta-llama/Llama-3.2-3B-Instruct", 2.0),
        ("Qwen/Qwen3-4B", 3.5),
        ("/models/qwen3-4b/", 3.5),
        ("meta-llama/Llama-3.1-8B-Instruct", 2.0),
        ("Qwen/Qwen3-4B-Base", 2.0),
    ],
)
def test_lambda_is_the_papers_for_its_models(name, lam):
    assert PaperSettings(model=name).factor == lam
    assert PaperSettings(model=name, lam=1.5).factor == 1.5


def test_the_method_is_the_releases():
    settings = PaperSettings()
    assert (settings.site, settings.tau, settings.beta) == ("pre", 0.10, 0.10)
    assert len(settings.load_questions()) == 225
    assert recipe_of("gpt2") is None
    assert {name: recipe.n_neurons for name, recipe in RECIPES.items()} == {
        "Llama-3.2-3B-Instruct": 384,
        "Qwen3-4B": 723,
        "Llama-3.1-8B-Instruct": 138,
    }


def test_the_authors_copy_of_their_neurons(data_dir, llama):
    path = data_dir / "knowbias_release" / "llama-3.2-3b-instruct_neurons.json"
    assert len(read_pairs(path)) == RECIPES["Llama-3.2-3B-Instruct"].n_neurons
    with pytest.raises(ValueError, match="out of range"):
        given_neurons(path, llama, "pre")  # of another model


def test_published_values_are_of_cells_and_models_of_the_paper():
    table = published()
    cells = {(cell.benchmark, cell.metric) for cell in CELLS}
    assert {*zip(table["benchmark"], table["metric"], strict=True)} <= cells
    assert set(table["model"]) <= {"", *RECIPES}
    assert (table["source"] != "").all()
    assert (table["sure"] != "").all()


@pytest.mark.slow
def test_the_table_has_both_protocols_and_their_changes(folder, checkpoint):
    results = RunFolder.load(folder).results
    table = paper_table(results, str(checkpoint))
    assert set(table["condition"]) == {"base", "know-bias", "change"}
    row = table.set_index(["metric", "condition"]).loc["icat_gender", "know-bias"]
    for protocol, column in (("original", "ours"), ("release", "release")):
        (result,) = (r for r in results["know-bias"] if r.protocol == protocol)
        metric = result.metrics["icat_gender"]
        assert row[column] == metric.value
        assert (row[f"{column}_low"], row[f"{column}_high"]) == (metric.low, metric.high)
        assert (row[f"{column}_n"], row[f"{column}_clusters"]) == (metric.n, metric.clusters)
    assert row["protocol"] == "original"
    base, enhanced = (
        next(r for r in results[name] if r.protocol == "original") for name in ("base", "know-bias")
    )
    change = compare(base, enhanced).set_index("metric").loc["ss_race"]
    row = table.set_index(["metric", "condition"]).loc["ss_race", "change"]
    assert [row[c] for c in ("ours", "ours_low", "ours_high")] == list(
        change[["difference", "low", "high"]]
    )
    saved = pd.read_csv(folder / "paper.csv", comment="#")
    assert len(saved) == len(table) == 9 * 3


def test_what_is_published_stands_beside_the_papers_models_alone(folder):
    results = RunFolder.load(folder).results
    of_paper = paper_table(results, "Qwen/Qwen3-4B").set_index(["metric", "condition"])
    assert of_paper.loc[("icat_gender", "base"), "published"] == 70
    assert of_paper.loc[("icat_gender", "change"), "published"] == 14
    assert "not stated" in of_paper.loc[("icat_gender", "base"), "sure"]
    assert "published" not in paper_table(results, "gpt2")


def test_the_model_is_changed_as_the_release_changes_it(folder, checkpoint, pairs):
    model = kb.load_model(checkpoint)
    neurons = given_neurons(pairs, model, "pre")
    base, enhanced = conditions(neurons, 3.5)
    assert base.change is None
    assert enhanced.change == Scaling(neurons, 3.5, "last")
    measured = load_results(folder / "evaluations" / "know-bias")["stereoset"]
    with enhanced.applied(model):
        again = kb.evaluate(model, kb.load_benchmark("stereoset", limit=16), progress=False)
    pd.testing.assert_frame_equal(measured.items, again.items, check_dtype=False, atol=1e-4)
    assert neurons.fingerprint == fingerprint(model)
    assert neurons.model == model_name(model)


@pytest.mark.slow
def test_it_goes_on_and_its_page_and_figure_are_of_the_table(
    folder, checkpoint, pairs, monkeypatch, tmp_path
):
    monkeypatch.setattr("kb_lens.runs.units.evaluate", lambda *a, **k: pytest.fail("repeated"))
    settings = PaperSettings(model=str(checkpoint), neurons=pairs, benchmarks=STEREOSET)
    table = paper(folder, settings, QUIET, pytest.fail)
    figures = kb.figures.draw_folder(folder)
    texts = json.dumps(figures["paper"].to_dict(), default=str)
    assert "StereoSet icat, gender" in texts
    assert "published, base" in texts
    write_report(folder, figures, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The paper&#39;s table" in page or "The paper's table" in page
    assert "4 bits" in page
    assert "20 equal steps" not in page, "the neurons were given"
    assert "of 144 neurons (2.1 %) were given: 3 pairs of authors.json" in page
    assert "lambda 3.5, site pre, positions: last" in page
    brief = brief_table(table)
    assert brief.columns.tolist() == ["cell", "condition", "published", "release", "ours"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("stereoset@16", "stereoset:instructed@16"), "stereoset and stereoset_instructed have"),
        (("stereoset@16", "plain_text"), "no cell of plain_text: allowed are stereoset, crows"),
        (("over_correction",), "no cell of over_correction"),
    ],
)
def test_what_the_table_has_no_place_for_is_refused_at_once(tmp_path, names, reason):
    settings = PaperSettings(model="Qwen/Qwen3-4B", benchmarks=names)
    with pytest.raises(ValueError, match=reason):
        paper(tmp_path / "out", settings, replace(QUIET, dry_run=True), pytest.fail)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("bank", Path("b.csv")),
        ("tau", 0.2),
        ("questions", 9),
        ("rule", "riemann"),
        ("instruction", "?"),
    ],
)
def test_given_neurons_are_not_found(pairs, option, value):
    steps = {"n_steps": 20} if option == "rule" else {}
    with pytest.raises(ValueError, match=f"--{option} is for finding neurons|--n-steps is"):
        PaperSettings(model="m", neurons=pairs, **{option: value}, **steps)


def test_the_releases_protocol_is_not_ours():
    with pytest.raises(ValueError, match="give original or instructed"):
        PaperSettings(model="m", protocol="release")


def test_what_may_differ_is_said_of_these_settings():
    usual = " ".join(differences({"rule": "adaptive", "answer_style": "model"}))
    assert "20 equal steps" in usual
    assert "lower case" in usual
    as_released = " ".join(differences({"rule": "riemann", "answer_style": "release"}))
    assert "20 equal steps" not in as_released
    assert "lower case" not in as_released


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    told = []
    settings = PaperSettings(model="meta-llama/Llama-3.1-8B-Instruct", benchmarks=STEREOSET)
    result = paper(
        tmp_path / "out", settings, replace(QUIET, dry_run=True), pytest.fail, told.append
    )
    assert result is None
    assert not (tmp_path / "out").exists()
    text, reason = told
    assert "is not on this machine, and a dry run downloads nothing" in reason
    assert "lambda 2, site pre, last position; the paper found 138 neurons" in text
    assert "225 questions" in text
    assert "stereoset: 16 items, 48 texts to score, twice" in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "has no neurons"),
        ("[[1, 2], [0, 3], [1, 2]]", r"the neuron \[1, 2\] twice"),
        ("[[1, 2], [3]]", r"list of \[layer, index\]"),
        ("[[1, true]]", "has no neurons"),
        ('{"other": []}', "has no neurons"),
        ("{", "JSON"),
    ],
)
def test_neurons_that_are_none(tmp_path, content, reason):
    path = tmp_path / "n.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        read_pairs(path)


def test_own_files_say_of_which_model_and_site_they_are(llama, tmp_path, pairs):
    neurons = given_neurons(pairs, llama, "post")
    neurons.save(tmp_path / "neurons.json")
    assert given_neurons(tmp_path / "neurons.json", llama, "post") == neurons
    with pytest.raises(ValueError, match="--site post"):
        given_neurons(tmp_path / "neurons.json", llama, "pre")


def test_a_figure_of_nothing():
    with pytest.raises(ValueError, match="no rows"):
        paper_figure(pd.DataFrame())
