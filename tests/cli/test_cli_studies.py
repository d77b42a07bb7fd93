"""The commands experiment, tune and neurons as a user types them."""

import json
import sys
from importlib.util import find_spec

import pandas as pd
import pytest
from own_banks import write_bank
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.checks.effects import NeuronEffects
from kb_lens.cli import main as cli
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.studies.tables import Experiment
from kb_lens.studies.tuning import Tuning

pytestmark = pytest.mark.slow  # whole commands, on a tiny model

OWN = "over_correction@6,plain_text@3"
"""Benchmarks that come with the package."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model as a checkpoint folder, with room for plain text."""
    path = tmp_path_factory.mktemp("model")
    tiny_hf_model(max_position_embeddings=1024).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def found(folder, tmp_path_factory):
    """A file with three of its neurons."""
    model = kb.load_model(folder)
    sizes = {"n_layers": model.cfg.n_layers, "d_mlp": model.cfg.d_mlp}
    some = (kb.Neuron(0, 1), kb.Neuron(1, 2), kb.Neuron(2, 5))
    path = tmp_path_factory.mktemp("found") / "neurons.json"
    kb.NeuronSet(some, model_name(model), fingerprint(model), "post", **sizes).save(path)
    return path


def call(monkeypatch, *arguments):
    """Run the command in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["kb-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


def study(name, folder, out, *more):
    bank = write_bank(folder / "bank.csv", kb.load_questions(27))
    options = ("--bank", bank, "--questions", 9, "--controls", 2, "--benchmarks", OWN)
    return ("experiment", name, "--model", folder, "--out", out, *options, *more)


@pytest.mark.slow
def test_experiment(monkeypatch, tmp_path, folder, capsys):
    assert call(monkeypatch, *study("aggregation", folder, tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "intersection" in shown
    first = (tmp_path / "aggregation/results.parquet").read_bytes()
    log = json.loads((tmp_path / "aggregation/run.json").read_text())
    assert log["arguments"]["name"] == "aggregation"
    assert list((tmp_path / "aggregation/figures").iterdir())

    assert call(monkeypatch, *study("aggregation", folder, tmp_path)) == 0
    assert (tmp_path / "aggregation/results.parquet").read_bytes() == first
    assert call(monkeypatch, *study("aggregation", folder, tmp_path, "--lam", 3)) == 2
    assert "holds a run with lam 2.0, now 3.0" in capsys.readouterr().err


@pytest.mark.slow
def test_methods_can_be_compared(monkeypatch, tmp_path, folder, capsys):
    assert call(monkeypatch, *study("methods", folder, tmp_path)) == 0
    ranks = Experiment.load(tmp_path / "methods").tables["ranks"]
    capsys.readouterr()
    assert call(monkeypatch, "compare", tmp_path / "methods", "--out", tmp_path / "c") == 0
    compared = pd.read_csv(tmp_path / "c/ranks.csv").set_index("method")
    assert set(compared.index) == set(ranks["method"])
    for row in ranks.to_dict("records"):
        assert compared.loc[row["method"], "average_rank"] == row["average_rank"]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.slow
def test_ray_gives_the_same_tables(monkeypatch, tmp_path, folder):
    assert call(monkeypatch, *study("aggregation", folder, tmp_path / "a")) == 0
    ray = ("--engine", "ray", "--workers", 2)
    assert call(monkeypatch, *study("aggregation", folder, tmp_path / "b", *ray)) == 0
    one, two = ((tmp_path / x / "aggregation/results.parquet").read_bytes() for x in "ab")
    assert one == two


def test_tune(monkeypatch, tmp_path, folder, found, capsys):
    options = ("--bias", "over_correction", "--capability", "plain_text", "--limit", 8)
    command = ("tune", folder, "--neurons", found, "--out", tmp_path, *options, "--lam", 2)
    assert call(monkeypatch, *command, "--lam", 4) == 0
    tuning = Tuning.load(tmp_path)
    assert tuning.development["lam"].tolist() == [2.0, 4.0]
    assert tuning.verdict.split()[0] in " ".join(capsys.readouterr().out.split())


def test_neurons(monkeypatch, tmp_path, folder, found, capsys):
    options = ("--questions", 9, "--lam", 0, "--lam", 2, "--top", 3)
    assert (
        call(monkeypatch, "neurons", folder, "--neurons", found, "--out", tmp_path, *options) == 0
    )
    effects = NeuronEffects.load(tmp_path / "effects.safetensors")
    assert effects.prob.shape == (9, 3, 2)
    tokens, texts = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("tokens", "texts"))
    assert len(tokens) == 3 * 2 * 3
    assert set(texts["layer"]) == {0, 1, 2}
    assert "strongest effects" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("experiment", "lamda"), "no study 'lamda'"),
        (("experiment", "lambda", "--benchmarks", "plain_text@x"), "a number of items, got 'x'"),
        (("experiment", "lambda", "--tau", 2), "tau is 2.0"),
        (("tune", "--neurons", "none.json"), "no such neurons file"),
        (("neurons", "--neurons", "none.json"), "no such neurons file"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, tmp_path, capsys, arguments, words):
    assert call(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
