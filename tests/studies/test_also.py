"""``experiment methods --also``: trained checkpoints stand in the table beside the methods."""

import json
from pathlib import Path

import pytest
from own_banks import write_bank
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.cli.main import app
from kb_lens.evaluation.results import load_results
from kb_lens.models.hooked import fingerprint, weights_digest
from kb_lens.runs.execution import RunExecution
from kb_lens.runs.record import RunLog
from kb_lens.studies.also import check_checkpoints, load_also, read_also, weights_of
from kb_lens.studies.run_study import ExperimentSettings, run_study

QUIET = RunExecution(device="cpu", progress=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The measured model, and two that were trained."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "cda", "dpo")):
        tiny_hf_model(seed=seed, max_position_embeddings=1024).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in ("base", "cda", "dpo")}


@pytest.fixture(scope="module")
def model(folders):
    return kb.load_model(folders["base"])


def test_names_and_checkpoints():
    options = ("cda=out/cda", " dpo, beta 0.1 = owner/name=x ")
    assert read_also(options, "methods") == {"cda": "out/cda", "dpo, beta 0.1": "owner/name=x"}
    assert read_also((), "lambda") == {}


def test_commas_and_repetition_are_the_same():
    given = ["experiment", "methods", "--also", "a=x,b=y=z", "--also", "c=./w"]
    _, bound, _ = app.parse_args(given, exit_on_error=False, print_error=False)
    settings = bound.arguments["settings"]
    assert settings.also == ("a=x", "b=y=z", "c=./w")
    assert settings.checkpoints() == {"a": "x", "b": "y=z", "c": "./w"}


@pytest.mark.parametrize(
    ("options", "study", "words"),
    [
        (("x=y",), "lambda", "--also is 'x=y': only the study 'methods'"),
        (("out/cda",), "methods", "write NAME=CHECKPOINT"),
        (("=out/cda",), "methods", "write NAME=CHECKPOINT"),
        (("cda=",), "methods", "write NAME=CHECKPOINT"),
        (("a=x", "a=y"), "methods", "--also has 'a' twice"),
        (("a/b=x",), "methods", "--also: .*cannot name a condition"),
        (("base=x",), "methods", "--also names a method 'base'"),
        (("prompt, author=x",), "methods", "--also names a method 'prompt, author'"),
    ],
)
def test_bad_options(options, study, words):
    with pytest.raises(ValueError, match=words) as error:
        ExperimentSettings(name=study, also=options)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_checkpoint_is_refused_before_the_model_is_loaded(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(ExperimentSettings, "load", lambda *_: pytest.fail("loaded"))
    settings = ExperimentSettings(
        name="methods",
        model=str(folders["base"]),
        benchmarks=("plain_text@2",),
        also=(f"cda={tmp_path}/none",),
    )
    with pytest.raises(ValueError, match=r"^--also, 'cda=.*none': no such model folder"):
        run_study(tmp_path / "out", settings, QUIET, print)
    assert not (tmp_path / "out").exists()
    check_checkpoints({name: str(path) for name, path in folders.items()})


def test_the_measured_model_and_one_checkpoint_twice_are_refused(model, folders):
    with pytest.raises(ValueError, match=r"^--also, 'x=.*base': .*the weights of base itself"):
        load_also(model, {"x": str(folders["base"])})
    with pytest.raises(ValueError, match="same weights two names, 'x' and 'y'"):
        load_also(model, {name: str(folders["cda"]) for name in "xy"})


def noted(folder, model, paths):
    """A folder that says which checkpoints were measured."""
    also = tuple(f"{name}={path}" for name, path in paths.items())
    settings = ExperimentSettings(name="methods", also=also)
    log = RunLog(folder, "experiment", settings, QUIET)
    log.check()
    log.also = weights_of(load_also(model, paths))
    log.begin(model)


def test_weights_are_compared_and_paths_are_not(model, folders, tmp_path):
    cda, dpo = str(folders["cda"]), str(folders["dpo"])
    moved = tmp_path / "moved"
    moved.symlink_to(folders["cda"])
    noted(tmp_path / "run", model, {"cda": cda, "dpo": dpo})
    noted(tmp_path / "run", model, {"dpo": dpo, "cda": str(moved)})
    for paths in ({"cda": cda}, {}, {"cda": dpo, "dpo": cda}, {"cda": cda, "dpo 2": dpo}):
        with pytest.raises(ValueError, match="holds a run with also 'cda "):
            noted(tmp_path / "run", model, paths)
    noted(tmp_path / "plain", model, {})
    assert "also" not in json.loads((tmp_path / "plain/run.json").read_text())["model"]
    with pytest.raises(ValueError, match="holds a run with also None"):
        noted(tmp_path / "plain", model, {"cda": cda})


@pytest.mark.slow
def test_it_stands_in_the_rank_table(model, folders, tmp_path):
    told = []
    settings = ExperimentSettings(
        name="methods",
        model=str(folders["base"]),
        bank=write_bank(tmp_path / "bank.csv", kb.load_questions(27)),
        questions=9,
        controls=1,
        benchmarks=("over_correction@4", "plain_text@2"),
        also=(f"cda={folders['cda']}",),
    )
    study = run_study(tmp_path, settings, QUIET, print, told.append)
    ranks = study.tables["ranks"].set_index("method")
    assert ranks.loc["cda", "role"] == "method"
    expected = kb.evaluate(
        kb.load_model(folders["cda"]), kb.load_benchmark("plain_text", limit=2), progress=False
    )
    assert ranks.loc["cda", "plain_text perplexity"] == expected.metrics["perplexity"].value
    rows = study.tables["results"].query("method == 'cda'")
    assert set(rows["role"]) == {"method"}
    assert (rows["difference"] != 0).any()
    assert study.settings["also"]["cda"]["checkpoint_weights"] == saved_weights(folders["cda"])
    saved = load_results(tmp_path / "methods/evaluations/cda")["plain_text"]
    assert saved.condition.intervention["checkpoint"] == "cda"
    assert saved.fingerprint == fingerprint(model)
    n_conditions = study.tables["results"].query("benchmark == 'plain_text'")["method"].nunique()
    assert f"{n_conditions + 1} conditions" in told[1], "it is counted"
    # whatever the study calls its own is refused as a name before any work
    own = set(ranks.index) - {"cda"}
    taken = [name for name in own if not _is_free(name)]
    assert set(taken) == own


def saved_weights(folder):
    return weights_digest(kb.load_model(folder))


def _is_free(name):
    try:
        return bool(read_also((f"{name}={Path.cwd()}",), "methods"))
    except ValueError:
        return False
