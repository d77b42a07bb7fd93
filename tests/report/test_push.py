"""A folder of results goes to the hub as a data set, with a card, and names no folder of ours."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError
from report_folders import EVIL, run_folder, study_folder
from test_comparison import crows

import kb_lens as kb
from kb_lens.cli import main as cli
from kb_lens.runs.folder import RunFolder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub in a folder: repository -> its files."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        assert (repo_type, exist_ok) == ("dataset", True)
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        (root / repo_id / ".gitattributes").write_text(f"private: {private}")
        return f"https://hub/datasets/{repo_id}"

    def list_repo_files(self, repo_id, *, repo_type):
        return [path.relative_to(root / repo_id).as_posix() for path in files(root / repo_id)]

    def upload_folder(self, *, repo_id, repo_type, folder_path, delete_patterns):
        assert repo_type == "dataset"
        if delete_patterns == "*":
            shutil.rmtree(root / repo_id)
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    for method in (create_repo, list_repo_files, upload_folder):
        monkeypatch.setattr(HfApi, method.__name__, method)
    return root


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run, made once."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    return run_folder(folder, base=160, lambda_2=100, random_lambda_2=150)


@pytest.fixture
def results(measured, tmp_path):
    """The run in somebody's home folder, with what does not concern others."""
    folder = tmp_path / "home/anna/run"
    shutil.copytree(measured, folder)
    kb_lens = folder / ".kb_lens/holders"
    kb_lens.mkdir(parents=True)
    (kb_lens / "one.json").write_text('{"host": "annas-laptop"}')
    (folder / "store").mkdir()
    (folder / "store/piece.parquet").write_text("")
    record = json.loads((folder / "run.json").read_text())
    record["arguments"] |= {
        "bank": f"{tmp_path}/home/anna/bank.csv",
        "also": ["taught=/mnt/anna/checkpoint"],
        "system": "/no_think",
        "model": "owner/model-1B",
    }
    record["execution"] = {"address": "annas-cluster:6379"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_what_is_pushed_is_read_back(results, hub):
    assert kb.push_results(results, "me/run") == "https://hub/datasets/me/run"
    pushed = hub / "me/run"
    theirs, mine = RunFolder.load(pushed), RunFolder.load(results)
    assert theirs.neurons == mine.neurons
    metrics = mine.results["lambda 2"][0].metrics
    assert theirs.results["lambda 2"][0].metrics == metrics
    assert not (results / "README.md").exists()
    assert {path.name for path in pushed.iterdir()} == {
        *(path.name for path in results.iterdir() if path.name not in (".kb_lens", "store")),
        *("README.md", ".gitattributes"),
    }


def test_nobody_is_named(results, hub):
    kb.push_results(results, "me/run")
    assert not [path for path in files(hub) if b"anna" in path.read_bytes()]
    arguments = json.loads((hub / "me/run/run.json").read_text())["arguments"]
    assert arguments["bank"] == "bank.csv"
    assert arguments["also"] == ["taught=checkpoint"]
    assert arguments["system"] == "/no_think"
    assert arguments["model"] == "owner/model-1B"


def test_a_file_that_names_the_home_folder_stays(results, hub, monkeypatch):
    monkeypatch.setenv("HOME", str(results.parent))
    (results / "evaluations/base/notes.txt").write_text(f"as in {results.parent}/notes")
    with pytest.raises(ValueError, match=r"notes\.txt' names your home folder"):
        kb.push_results(results, "me/run")
    assert not hub.exists()


def test_the_card(results, hub):
    pd.DataFrame({"a": [1]}).to_csv(results / "summary.csv")
    kb.push_results(results, "me/run")
    card = DatasetCard.load(hub / "me/run/README.md")
    assert card.data.tags == ["kb_lens", "interpretability"]
    assert card.data.license is None
    names = [config["config_name"] for config in card.data.configs]
    assert names == ["summary", "tokens"]
    for config in card.data.configs:
        (file,) = config["data_files"]
        assert (hub / "me/run" / file["path"]).is_file()
    rows = [line.split(" | ") for line in card.text.splitlines() if "stereotype_share |" in line]
    base, changed, control = (row[2:] for row in rows[:3])
    assert base[0] == "base"
    assert base[1].startswith("80.00 [")
    assert changed[0] == "lambda 2"
    assert changed[2].startswith("-30.00 [")
    assert changed[3] == "200"
    assert control[0] == "random lambda 2"
    assert "2 neurons were selected (gender 2, race 1)." in card.text
    assert "hf download me/run --repo-type dataset" in card.text
    assert "- tau: 0.1\n" in card.text
    assert "torch 2.13.0" in card.text
    assert "lm-eval" not in card.text  # it was not installed


def test_a_card_of_ones_own_is_kept(results, hub):
    (results / "README.md").write_text("---\nlicense: mit\n---\nMine.")
    kb.push_results(results, "me/run")
    assert (hub / "me/run/README.md").read_text() == "---\nlicense: mit\n---\nMine."


def test_items_are_a_table_where_there_is_no_other(tmp_path, hub):
    crows(120, 200).save(tmp_path / "base")
    kb.push_results(tmp_path / "base", "me/base")
    head = (hub / "me/base/README.md").read_text().split("---\n")[1]
    files = [{"split": "table", "path": "items/crows_pairs.parquet"}]
    assert yaml.safe_load(head)["configs"] == [
        {"config_name": "items crows_pairs", "data_files": files}
    ]
    assert "60.00 [" in (hub / "me/base/README.md").read_text()


def test_a_study(tmp_path, hub):
    kb.push_results(study_folder(tmp_path / "study", (1.0, 0.0, 2.0)), "me/study")
    card = DatasetCard.load(hub / "me/study/README.md")
    assert [config["config_name"] for config in card.data.configs] == ["control_tests", "results"]
    assert "| case 0 | 61.00 [50.00, 70.00] | +1.00 [+0.00, +2.00] | 200 |" in card.text
    assert "| base | 60.00 [55.00, 65.00] |  | 200 |" in card.text


def test_the_library_behind_the_viewer_reads_every_table(results, hub, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    results.joinpath("tokens.csv").unlink()
    kb.push_results(results, "me/run")
    folder = hub / "me/run"
    items = datasets.load_dataset(
        str(folder), "items crows_pairs", cache_dir=str(tmp_path / "cache")
    )
    assert {split: len(rows) for split, rows in items.items()} == dict.fromkeys(
        ("base", "lambda_2", "random_lambda_2"), 200
    )


def test_what_is_there_is_replaced_when_that_is_asked_for_alone(results, hub):
    kb.push_results(results, "me/run", private=False)
    assert (hub / "me/run/.gitattributes").read_text() == "private: False"
    (hub / "me/run/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="data set 'me/run' has files already"):
        kb.push_results(results, "me/run")
    assert (hub / "me/run/thesis.txt").exists()
    shutil.rmtree(results / "evaluations/random lambda 2")
    kb.push_results(results, "me/run", overwrite=True)
    assert not (hub / "me/run/thesis.txt").exists()
    assert {*RunFolder.load(hub / "me/run").results} == {"base", "lambda 2"}


@pytest.mark.parametrize(
    ("folder", "name", "message"),
    [
        ("none", "me/run", "no such folder"),
        ("empty", "me/run", "has no results"),
        ("file", "me/run", "no such folder"),
        ("empty", "a b", "'a b', not a repository of the hub"),
        ("empty", "run", "It names no user"),
        ("empty", "", "not a repository of the hub"),
    ],
)
def test_mistakes(tmp_path, hub, folder, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=message) as error:
        kb.push_results(tmp_path / folder, name)
    assert "\n" not in str(error.value)
    assert not hub.exists()


def test_without_a_token(results, hub, monkeypatch):
    def refuse(self, *_, **__):
        raise LocalTokenNotFoundError("Token is required\nto push.")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"Token is required. Check .* `hf auth login`") as error:
        kb.push_results(results, "me/run")
    assert "\n" not in str(error.value)


def test_without_a_network(results):
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        kb.push_results(results, "me/run")


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kb-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


def test_the_command(monkeypatch, results, hub, capsys):
    assert call(monkeypatch, "push", results, "me/run", "--public") == 0
    assert capsys.readouterr().out == "Pushed to https://hub/datasets/me/run\n"
    assert Path(hub / "me/run/.gitattributes").read_text() == "private: False"
    assert call(monkeypatch, "push", results, "me/run") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(monkeypatch, "push", results, "me/run", "--overwrite") == 0


def test_any_name_fits_in_the_head(results, hub):
    kb.push_results(results, "me/run")
    head = (hub / "me/run/README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["pretty_name"] == f"{EVIL}, by kb-lens run"
