"""Commands on a file of the user's own items, beside the benchmark's: a tiny model."""

import json

import pytest
from test_benchmarks import stereoset_row, write_jsonl
from test_cli import FAST, bank, call, data, folder  # noqa: F401  # fixtures

from kb_lens.evaluation.results import load_results

pytestmark = pytest.mark.slow  # whole commands


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file in the folder that one stands in."""
    rows = [stereoset_row(k, bias_type=("age", "caste")[k % 2]) for k in range(6)]
    write_jsonl(tmp_path / "mine.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.jsonl"


def test_a_changed_file_is_another_run(monkeypatch, mine, folder, data, capsys):  # noqa: F811
    named = "stereoset=mine.jsonl,stereoset,stereoset=mine.jsonl:instructed@4"
    line = ("evaluate", folder, "--benchmarks", named, "--data-dir", data, "--out", "out")
    assert call(monkeypatch, *line) == 0
    results = load_results("out")
    keys = ["stereoset-mine", "stereoset", "stereoset_instructed-mine"]
    assert list(results) == keys
    assert {"ss_age", "ss_caste"} < set(results["stereoset-mine"].metrics)
    record = json.loads((mine.parent / "out/run.json").read_text())
    assert set(record["items"]) == {keys[0], keys[2]}
    assert record["items"][keys[0]].startswith("mine.jsonl, SHA-256 ")
    assert call(monkeypatch, *line) == 0  # gone on with
    mine.write_text(mine.read_text().replace("weak", "frail"), encoding="utf-8")
    capsys.readouterr()
    assert call(monkeypatch, *line) == 2
    error = capsys.readouterr().err
    assert "'out' holds a run with stereoset-mine 'mine.jsonl, SHA-256 " in error
    assert list(load_results("out")) == keys
    assert call(monkeypatch, *line, "--overwrite") == 0


def test_a_run_and_its_page(monkeypatch, mine, folder, bank):  # noqa: F811
    options = ("--bank", bank, *FAST, "--lam", 2)
    line = ("run", folder, *options, "--benchmarks", "stereoset=mine.jsonl", "--out", "out")
    assert call(monkeypatch, *line) == 0
    out = mine.parent / "out"
    assert "stereoset-mine" in (out / "summary.csv").read_text()
    assert "stereoset-mine" in (out / "report.html").read_text()
    assert call(monkeypatch, "compare", "out", "--out", "compared") == 0


def test_the_matrix_has_a_column_of_every_own_type(monkeypatch, mine, folder, bank):  # noqa: F811
    line = ("experiment", "transfer", folder, "--bank", bank, "--out", "out")
    assert call(monkeypatch, *line, "--benchmarks", "stereoset=mine.jsonl") == 0
    figures = [path.read_text() for path in (mine.parent / "out/transfer").rglob("*.html")]
    matrix = [
        text for text in figures if "transfer_matrix" in text or "stereoset-mine icat" in text
    ]
    assert any("age\\u003cbr" in text and "caste\\u003cbr" in text for text in matrix)


def test_the_papers_table_has_no_cell_of_it(monkeypatch, mine, folder, capsys):  # noqa: F811
    line = ("paper", folder, "--benchmarks", "stereoset=mine.jsonl", "--out", "out")
    assert call(monkeypatch, *line) == 2
    assert "no cell of stereoset-mine" in capsys.readouterr().err
