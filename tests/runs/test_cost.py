"""A dry run says what every command would do and take, and writes nothing."""

import pytest
from commands import COMMANDS, make_inputs

import kb_lens as kb
from kb_lens.cli.main import app
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.models.sources import is_downloaded

SAID = {
    "run": (
        "9 questions to attribute",
        # base, lambda 2, and two random controls
        "stereoset, 12 items, 36 texts",
        ", 4 conditions x ",
        "plain_text, 24 items",
    ),
    "identify": ("9 questions to attribute",),
    "evaluate": ("stereoset, 12 items", "openbookqa, 8 items, 32 texts", ", 1 condition x "),
    "neurons": ("9 questions with 4 scaled neurons each",),
    "tune": ("stereoset, 6 items", "openbookqa, 4 items", ", 3 conditions x ", ", 2 conditions x "),
    "experiment": ("9 questions to attribute", "stereoset, 12 items", "Each further condition"),
    "paper": ("9 questions to attribute", "stereoset_release, 12 items", ", 2 conditions x "),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the commands read, without a run: neurons that were found nowhere."""
    root = make_inputs(tmp_path_factory.mktemp("inputs"))
    model = kb.load_model(root / "model")
    neurons = kb.NeuronSet(
        neurons=(kb.Neuron(0, 1), kb.Neuron(1, 2)),
        model=model_name(model),
        fingerprint=fingerprint(model),
        site="post",
        n_layers=model.cfg.n_layers,
        d_mlp=model.cfg.d_mlp,
    )
    neurons.save(root / "run/neurons.json")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_a_dry_run_counts_and_measures_and_writes_nothing(inputs, tmp_path, capsys, name):
    before = sorted(inputs.rglob("*"))
    app(
        [*COMMANDS[name].arguments(inputs, tmp_path / "out"), "--dry-run"],
        result_action="return_value",
    )
    said = capsys.readouterr().out
    for words in (*SAID[name], "In all about", "by one process", "this process"):
        assert words in said
    assert not (tmp_path / "out").exists()
    assert sorted(inputs.rglob("*")) == before


def test_what_is_not_here_is_not_downloaded(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert is_downloaded(str(inputs / "model"))
    assert not is_downloaded("nobody/no-such-model")
    app(["identify", "nobody/no-such-model", "--dry-run"], result_action="return_value")
    assert "nobody/no-such-model is not on this machine" in capsys.readouterr().out
