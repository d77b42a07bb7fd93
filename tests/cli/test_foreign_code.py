"""Code that comes with a checkpoint runs where the user says so, and nobody is asked."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_banks import write_bank
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.cli import main as cli
from kb_lens.interventions.folding import export, stored_dtype
from kb_lens.models.foreign_code import never_asked
from kb_lens.models.hooked import fingerprint, model_name

YES = "y\n" * 50
CLASSES = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.LlamaForCausalLM",
}
CODE = """
import pathlib
pathlib.Path({marker!r}).touch()
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers import LlamaForCausalLM as Llama

class OwnConfig(LlamaConfig):
    model_type = {model_type!r}

class LlamaForCausalLM(Llama):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass

def generate(model, *arguments, **options):
    raise RuntimeError("foreign")
"""
NEEDED = {
    "config": {"config": {"auto_map": CLASSES, "model_type": "own"}},
    "tokenizer": {
        "tokenizer": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
        }
    },
    "Auto class as the tokenizer's": {
        "config": {"auto_map": {"AutoModelForMaskedLM": "own.LlamaForCausalLM"}},
        "tokenizer": {"tokenizer_class": "AutoModelForMaskedLM"},
    },
}
"""What cannot be loaded without its code -> changes of its files."""
OFFERED = {
    "config": {"auto_map": CLASSES},
    "tokenizer": {"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}},
}
"""What transformers has classes of its own for."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny random model as a checkpoint folder, with room for plain text."""
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    tiny_hf_model(max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def neurons(plain):
    """A file with one of its neurons."""
    model = kb.load_model(plain)
    sizes = {"n_layers": model.cfg.n_layers, "d_mlp": model.cfg.d_mlp}
    path = plain.parent / "neurons.json"
    kb.NeuronSet((kb.Neuron(0, 1),), model_name(model), fingerprint(model), "post", **sizes).save(
        path
    )
    return path


@pytest.fixture
def foreign(plain, tmp_path):
    """Makes the checkpoint with code in every place; the code leaves the folder's `ran` behind."""

    def make(config=None, tokenizer=None) -> Path:
        folder = tmp_path / "foreign"
        shutil.copytree(plain, folder)
        for name, changes in (("config", config), ("tokenizer_config", tokenizer)):
            path = folder / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | (changes or {})))
        model_type = (config or {}).get("model_type", "llama")
        code = CODE.format(marker=str(tmp_path / "ran"), model_type=model_type)
        (folder / "custom_generate").mkdir()
        for name in ("own.py", "custom_generate/generate.py"):
            (folder / name).write_text(code)
        return folder

    return make


def commands(folder, neurons, out):
    """Every command that loads a model, small."""
    bank = write_bank(out / "bank.csv", kb.load_questions(9))
    asked = ("--bank", bank, "--rule", "riemann", "--n-steps", 1)
    measured = ("--benchmarks", "over_correction@4")
    written = ("--out", out / "out")
    return {
        "run": (folder, *asked, "--lam", 2, *measured, *written),
        "identify": (folder, *asked, *written),
        "evaluate": (folder, *measured, *written),
        "export": (folder, "--neurons", neurons, "--lam", 2, *written),
        "doctor": (folder, "--bank", bank, *written),
        "neurons": (folder, "--neurons", neurons, "--bank", bank, "--lam", 0, *written),
        "tune": (
            *(folder, "--neurons", neurons, "--lam", 2, "--limit", 4, *written),
            *("--bias", "over_correction", "--capability", "over_correction"),
        ),
        "experiment": ("lambda", folder, "--bank", bank, "--controls", 1, *measured, *written),
    }


COMMANDS = ("run", "identify", "evaluate", "export", "doctor", "neurons", "tune", "experiment")


@pytest.fixture
def call(monkeypatch):
    """Run a command in this process, with a user who says yes to everything."""

    def run(*arguments) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO(YES))
        monkeypatch.setattr(sys, "argv", ["kb-lens", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert sys.stdin.read() == YES, "an answer was read"
        return stop.value.code or 0

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_asks_and_none_runs_it(call, capsys, command, foreign, neurons, tmp_path):
    folder = foreign(**NEEDED["config"])
    assert call(command, *commands(folder, neurons, tmp_path)[command]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"cannot load the model '{folder}'" in line
    assert "--trust-remote-code (trust_remote_code=True in Python)" in line
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_what_transformers_knows_is_loaded_without_its_code(
    call, command, foreign, neurons, tmp_path
):
    assert call(command, *commands(foreign(**OFFERED), neurons, tmp_path)[command]) == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("command", ["identify", "export"])
def test_the_option_runs_it_and_is_recorded(call, command, foreign, neurons, tmp_path):
    folder = foreign(**NEEDED["config"])
    arguments = commands(folder, neurons, tmp_path)[command]
    assert call(command, *arguments, "--trust-remote-code") == 0
    assert (tmp_path / "ran").exists()
    log = json.loads((tmp_path / "out" / "run.json").read_text())
    assert log["arguments"]["trust_remote_code"] is True


@pytest.mark.parametrize("fault", NEEDED)
def test_the_library_neither(foreign, fault, monkeypatch, neurons, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO(YES))
    folder = foreign(**NEEDED[fault])
    found = kb.NeuronSet.load(neurons)
    for load in (
        lambda: kb.load_model(folder),
        lambda: kb.fold_neurons(folder, found, lam=2),
        lambda: export(folder, found, tmp_path / "out", lam=2),
    ):
        with pytest.raises(ValueError, match=r"needs Python code of its own.*--trust-remote-code"):
            load()
    stored_dtype(folder)
    assert sys.stdin.read() == YES
    assert not (tmp_path / "ran").exists()


def test_a_bridge_that_was_trusted_may_be_folded(foreign, neurons, tmp_path):
    folder = foreign(**NEEDED["config"])
    model = kb.load_model(folder, trust_remote_code=True)
    (tmp_path / "ran").unlink()
    found = kb.NeuronSet.load(neurons)
    folded = kb.fold_neurons(model, found, lam=2).state_dict()
    by_name = kb.fold_neurons(folder, found, lam=2, trust_remote_code=True).state_dict()
    assert all((by_name[name] == tensor).all() for name, tensor in folded.items())


@pytest.mark.slow
def test_a_command_of_its_own_process_does_not_ask(foreign, neurons, tmp_path):
    folder = foreign(**NEEDED["Auto class as the tokenizer's"])
    arguments = commands(folder, neurons, tmp_path)["export"]
    command = [sys.executable, "-m", "kb_lens.cli.main", "export", *map(str, arguments)]
    done = subprocess.run(command, input=YES, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--trust-remote-code" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "ran").exists()


def test_an_adapter_may_not_name_a_module(foreign, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"base_model_name_or_path": "x", "megatron_config": {"a": 1}, "megatron_core": "own"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names a module to be imported"):
        kb.load_model(adapter)


def test_transformers_gets_its_patience_back():
    from transformers import dynamic_module_utils

    seconds = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    with never_asked(), never_asked():
        assert dynamic_module_utils.TIME_OUT_REMOTE_CODE == 0
    assert seconds == dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0
