"""An export: an ordinary checkpoint that is always whole and says what was done to which model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from folding_neurons import MEMBERS, some_neurons
from huggingface_hub import HfApi
from tiny_models import tiny_bridge, tiny_hf_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import kb_lens as kb
from kb_lens import files
from kb_lens.cli import main as cli
from kb_lens.interventions.checkpoint import Export, push
from kb_lens.interventions.export_folder import check_target
from kb_lens.interventions.folding import export


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_the_exported_model_needs_no_kb_lens(folder, exported, bridge, tmp_path):
    """In a fresh process, with transformers alone."""
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "tokens = tokenizer('Many people live in the city', return_tensors='pt')['input_ids']\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in\n"
        "            ('kb_lens', 'transformer_lens')]\n"
        "torch.save((tokens, model(tokens).logits), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(exported), str(tmp_path / "logits.pt")]
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    tokens, logits = torch.load(tmp_path / "logits.pt")
    expected = AutoTokenizer.from_pretrained(folder)("Many people live in the city")["input_ids"]
    assert tokens[0].tolist() == expected
    with kb.scale_neurons(bridge, some_neurons(bridge), lam=3):
        torch.testing.assert_close(logits, bridge(tokens), rtol=1e-5, atol=1e-4)


def test_what_an_export_says(exported, bridge):
    names = {"model.safetensors", "config.json", "tokenizer.json", "kb_lens.json", "README.md"}
    assert names <= set(entries(exported))
    record = json.loads((exported / "kb_lens.json").read_text())
    neurons = some_neurons(bridge)
    assert [tuple(one) for one in record["neurons"]] == list(neurons)
    assert (record["lam"], record["site"], record["dtype"]) == (3, "post", "float32")
    assert record["origin"] == neurons.origin
    assert record["model"] == "tiny"  # not the path of this machine
    assert record["fingerprint"] == neurons.fingerprint
    assert 0 <= record["largest_logit_difference"] < 1e-3
    card = (exported / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("\n---\n", 1)
    body = " ".join(body.split())
    assert "library_name: transformers" in head
    assert "base_model" not in head  # not on the hub
    assert "3 of the 144 MLP neurons of tiny (2 of its 3 layers) are multiplied by 3." in body
    assert "4 questions on gender (tau 0.1, beta 0.2)" in body
    assert "not shown to be less biased" in body
    assert max(map(len, card.splitlines())) <= 100
    citation = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text())
    title = citation["preferred-citation"]["title"]
    assert title in " ".join(card.split())
    paths = str(exported.parent).encode(), bridge.cfg.model_name.encode()
    assert not any(path in content for content in entries(exported).values() for path in paths)


def test_a_source_on_the_hub_is_named(bridge):
    neurons = some_neurons(bridge, "pre")
    done = Export("owner/model-1B", "0", torch.bfloat16, neurons, 2.5, 0.01)
    assert json.loads(done.record({}))["model"] == "owner/model-1B"
    assert "\nbase_model: owner/model-1B\n" in done.card()
    assert "# model-1B, 3 neurons times 2.5\n" in done.card()
    assert "weights and biases of the gate" in " ".join(done.card().split())


@pytest.mark.parametrize("given", ["name", "bridge"])
def test_the_type_is_kept(tmp_path, given):
    source, out = tmp_path / "source", tmp_path / "out"
    tiny_hf_model().to(torch.bfloat16).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    neurons = some_neurons(kb.load_model(source))  # found in float32: the same weights
    model = source if given == "name" else kb.load_model(source, dtype=torch.bfloat16)
    export(model, neurons, out, lam=2)
    weights = AutoModelForCausalLM.from_pretrained(source).state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == torch.bfloat16
    for layer, index in MEMBERS:
        weights[f"model.layers.{layer}.mlp.down_proj.weight"][:, index] *= 2
    assert all(torch.equal(one, weights[name]) for name, one in loaded.state_dict().items())


def test_the_tokenizer_is_the_sources_own(tmp_path):
    """The bridge gives a tokenizer without BOS and padding one of each; an export has none."""
    source, out = tmp_path / "source", tmp_path / "out"
    tiny_hf_model().save_pretrained(source)
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(source)
    model = kb.load_model(source)
    assert model.tokenizer.bos_token is not None
    export(model, some_neurons(model), out, lam=2)
    written = AutoTokenizer.from_pretrained(out)
    assert (written.bos_token, written.pad_token) == (None, None)
    assert (out / "chat_template.jinja").read_text() == tokenizer.chat_template


def test_the_generation_settings_are_kept(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    hf_model = tiny_hf_model()
    hf_model.generation_config.max_new_tokens = 17
    hf_model.save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    model = kb.load_model(source)
    export(model, some_neurons(model), out, lam=2)
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.max_new_tokens == 17


def test_evaluating_the_export_is_evaluating_under_hooks(exported, bridge, tmp_path):
    rows = [
        {
            "type": "intrasentence",
            "bias_type": bias,
            "target": f"t{i}",
            "context": f"He is here {i}.",
            "stereotype": f"He is bad {i}.",
            "anti-stereotype": f"He is good {i}.",
            "unrelated": f"The street {i}.",
        }
        for i, bias in enumerate(["gender", "race"] * 3)
    ]
    (tmp_path / "stereoset").mkdir()
    (tmp_path / "stereoset/dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    benchmark = kb.load_benchmark("stereoset", data_dir=tmp_path)
    base = kb.evaluate(bridge, benchmark, progress=False).items.filter(like="logprob")
    with kb.scale_neurons(bridge, some_neurons(bridge), lam=3):
        hooked = kb.evaluate(bridge, benchmark, progress=False)
    folded = kb.evaluate(kb.load_model(exported), benchmark, progress=False)
    mine, theirs = (one.items.filter(like="logprob") for one in (folded, hooked))
    assert (mine - theirs).abs().to_numpy().max() < 1e-3
    assert (mine - base).abs().to_numpy().max() > 1e-2
    for name, metric in hooked.metrics.items():
        assert folded.metrics[name].value == pytest.approx(metric.value, abs=1e-3, nan_ok=True)


def test_an_interrupted_export_leaves_nothing(bridge, exported, tmp_path, monkeypatch):
    whole, half = PreTrainedModel.save_pretrained, KeyboardInterrupt("in the middle")

    def interrupted(self, folder, **options):
        whole(self, folder, **options)
        (folder / "model.safetensors").write_bytes(b"half")
        raise half

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(bridge, some_neurons(bridge), tmp_path / "out", lam=2)
    assert not list(tmp_path.iterdir())
    shutil.copytree(exported, tmp_path / "out")
    before = entries(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        export(bridge, some_neurons(bridge), tmp_path / "out", lam=2, overwrite=True)
    assert entries(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_target(bridge, exported, tmp_path):
    out = tmp_path / "new" / "out"
    out.mkdir(parents=True)
    neurons = some_neurons(bridge)
    export(bridge, neurons, out, lam=2)  # empty: taken
    with pytest.raises(ValueError, match="holds an export"):
        export(bridge, neurons, out, lam=3)
    assert json.loads((out / "kb_lens.json").read_text())["lam"] == 2
    export(bridge, neurons, out, lam=3, overwrite=True)
    assert entries(out).keys() == entries(exported).keys()
    assert (out / "model.safetensors").read_bytes() == entries(exported)["model.safetensors"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    (tmp_path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and is not an export"):
            check_target(tmp_path, overwrite)
        with pytest.raises(ValueError, match="is a file"):
            check_target(tmp_path / "thesis.txt", overwrite)


def test_what_is_somebody_elses_stays(bridge, exported, tmp_path):
    out = tmp_path / "out"
    neurons = some_neurons(bridge)
    export(bridge, neurons, out, lam=2)
    (out / "notes.txt").write_text("mine")
    (out / "plots").mkdir()
    (out / "plots" / "one.png").write_bytes(b"mine too")
    export(bridge, neurons, out, lam=3, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "plots" / "one.png").read_bytes() == b"mine too"
    assert (out / "model.safetensors").read_bytes() == entries(exported)["model.safetensors"]
    (out / "README.md").write_text("My own card.")
    with pytest.raises(ValueError, match=r"README\.md' was changed since it was exported"):
        export(bridge, neurons, out, lam=2, overwrite=True)
    assert (out / "README.md").read_text() == "My own card."


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"format": "kb_lens export 1"}', '{"format": "kb_lens export 2"}'),
        *("[" * 9999, '{"format": "kb_lens export 2", "files": {"../../thesis.txt": 1}}'),
    ],
)
def test_a_folder_with_another_record_is_no_export(bridge, tmp_path, text):
    (tmp_path / "kb_lens.json").write_text(text)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"kb_lens\.json"):
        export(bridge, some_neurons(bridge), tmp_path, lam=2, overwrite=True)
    assert sorted(entries(tmp_path)) == ["kb_lens.json", "thesis.txt"]


def test_an_export_that_was_killed_leaves_nothing(bridge, exported, tmp_path, dead):
    """Killed between the two renames: the earlier export comes back."""
    writer = f"{files._HOST}-{dead}-1.part"
    shutil.copytree(exported, tmp_path / f"out.old.{writer}")
    (tmp_path / f"out.{writer}").mkdir()
    with pytest.raises(ValueError, match="holds an export"):
        check_target(tmp_path / "out")
    assert entries(tmp_path / "out") == entries(exported)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_files_have_the_mode_of_the_umask(exported):
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1


def test_push(exported, monkeypatch):
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        push(exported, "me/fair")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match="Repo id must"):
        push(exported, "not a name")
    calls = []
    address = "https://hub/me/fair"
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *a, **k: calls.append((a, k)) or address)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **k: calls.append(k))
    assert push(exported, "me/fair") == address
    assert calls[0] == (("me/fair",), {"private": True, "exist_ok": True})
    assert (calls[1]["repo_id"], calls[1]["folder_path"]) == ("me/fair", exported)

    def unreachable(self, **options):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(HfApi, "upload_folder", unreachable)
    with pytest.raises(ValueError, match="is written, but could not be pushed to 'me/fair': no r"):
        push(exported, "me/fair")


def call(monkeypatch, *arguments):
    """Run the command in this process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["kb-lens", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


def test_the_command(monkeypatch, tmp_path, folder, bridge, exported, capsys):
    file, out = tmp_path / "neurons.json", tmp_path / "out"
    some_neurons(bridge).save(file)
    arguments = ("export", folder, "--neurons", file, "--lam", 3, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    assert (out / "model.safetensors").read_bytes() == entries(exported)["model.safetensors"]
    record = json.loads((out / "kb_lens.json").read_text())
    shown = capsys.readouterr().out
    assert f"{record['largest_logit_difference']:.2g}" in shown
    log = json.loads((out / "run.json").read_text())
    assert (log["command"], log["arguments"]["lam"]) == ("export", 3)
    assert log["model"]["fingerprint"] == record["fingerprint"]
    assert call(monkeypatch, *arguments) == 2
    assert "holds an export" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--dtype", "bfloat16", "--overwrite") == 0
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL", "--neurons", "FILE"), "--lam requires an argument"),
        (("MODEL", "--neurons", "none.json", "--lam", 2), "no such neurons file: 'none.json'"),
        (("MODEL", "--neurons", "FILE", "--lam", "nan"), "lam is nan"),
        (("no/such-model", "--neurons", "FILE", "--lam", 2), "cannot load the model"),
        (("MODEL", "--neurons", "OTHER", "--lam", 2), "these neurons belong to"),
        (("MODEL", "--neurons", "FILE", "--lam", 2, "--push", "me/it"), "HF_HUB_OFFLINE is set"),
        (("MODEL", "--neurons", "FILE", "--lam", 2, "--push", "a b"), "Repo id must"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, tmp_path, folder, bridge, capsys, arguments, message):
    some_neurons(bridge).save(tmp_path / "mine.json")
    some_neurons(tiny_bridge(seed=9)).save(tmp_path / "other.json")
    files = {"FILE": tmp_path / "mine.json", "OTHER": tmp_path / "other.json", "MODEL": folder}
    arguments = [files.get(argument, argument) for argument in arguments]
    assert call(monkeypatch, "export", *arguments, "--out", tmp_path / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "kb-lens: error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()
