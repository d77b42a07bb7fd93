"""Folding is hooking: the same logits, text and scores, from an ordinary checkpoint."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import tiny_models
import torch
from huggingface_hub import HfApi
from tiny_models import FAMILIES, tiny_bridge, tiny_hf_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import kb_lens as kb
from kb_lens.cli import main as cli
from kb_lens.interventions.checkpoint import Export, check_target, push
from kb_lens.interventions.folding import export, scale_weights
from kb_lens.models.hooked import fingerprint, model_name

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
MEMBERS = (kb.Neuron(0, 3), kb.Neuron(0, 5), kb.Neuron(2, 47))


def some_neurons(model, site="post", members=MEMBERS):
    return kb.NeuronSet(
        neurons=members,
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=model.cfg.n_layers,
        d_mlp=48,
        tau=0.1,
        beta=0.2,
        origin="4 questions on gender",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model as a checkpoint folder."""
    path = tmp_path_factory.mktemp("source") / "tiny"
    tiny_hf_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bridge(folder):
    return kb.load_model(folder)


@pytest.fixture(scope="module")
def exported(bridge, tmp_path_factory):
    """The tiny model with its neurons times 3, written once."""
    path = tmp_path_factory.mktemp("exported") / "tiny"
    export(bridge, some_neurons(bridge), path, lam=3)
    return path


def entries(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", FAMILIES)
def test_folded_is_hooked_for_every_family(family, site):
    model, original = tiny_bridge(family), tiny_hf_model(family)
    neurons, base = some_neurons(model, site), model(TOKENS)
    for lam in (0, 3):
        folded = kb.fold_neurons(model, neurons, lam=lam)
        with kb.scale_neurons(model, neurons, lam=lam):
            hooked = model(TOKENS)
        assert type(folded) is type(original)
        torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)
        assert not torch.allclose(hooked, base, atol=1e-2)
    folded, weights = kb.fold_neurons(model, neurons, lam=1).state_dict(), original.state_dict()
    assert folded.keys() == weights.keys()
    assert all(torch.equal(folded[name], weights[name]) for name in weights)
    assert fingerprint(model) == neurons.fingerprint
    assert torch.equal(model(TOKENS), base)


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nothing_but_the_neurons_weights_changes(family, site):
    """The very entries that METHOD names: a column read by, or a row and bias written by."""
    model = tiny_bridge(family)
    folded = kb.fold_neurons(model, some_neurons(model, site), lam=2).state_dict()
    llama, gpt2 = "model.layers.{}.mlp.", "transformer.h.{}.mlp."
    rows, columns = (lambda w, i: w[i]), (lambda w, i: w[:, i])
    places = {
        ("llama", "post"): [(llama + "down_proj.weight", columns)],
        ("llama", "pre"): [(llama + "gate_proj.weight", rows)],
        ("gpt2", "post"): [(gpt2 + "c_proj.weight", rows)],
        ("gpt2", "pre"): [(gpt2 + "c_fc.weight", columns), (gpt2 + "c_fc.bias", rows)],
    }
    expected = tiny_hf_model(family).state_dict()
    for name, part in places[family, site]:
        for layer, index in MEMBERS:
            part(expected[name.format(layer)], index).mul_(2)
    assert all(torch.equal(folded[name], expected[name]) for name in expected)


def test_biases_before_a_gate_are_scaled():
    model = tiny_bridge("llama", mlp_bias=True)
    neurons = some_neurons(model, "pre")
    with kb.scale_neurons(model, neurons, lam=-2.5):
        hooked = model(TOKENS)
    folded = kb.fold_neurons(model, neurons, lam=-2.5)
    torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)


def test_a_fused_gate_folds_at_post_alone(monkeypatch):
    monkeypatch.setitem(tiny_models.FAMILIES, "phi3", "Phi3ForCausalLM")
    model = tiny_bridge("phi3")
    with kb.scale_neurons(model, some_neurons(model), lam=3):
        hooked = model(TOKENS)
    folded = kb.fold_neurons(model, some_neurons(model), lam=3)
    torch.testing.assert_close(folded(TOKENS).logits, hooked, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match=r"no module with weights of its own\. Use scale_neurons"):
        kb.fold_neurons(model, some_neurons(model, "pre"), lam=3)


def test_greedy_text_is_the_same(model):
    neurons = some_neurons(model)
    with kb.scale_neurons(model, neurons, lam=6):
        hooked = model.original_model.generate(TOKENS[:1], max_new_tokens=12, do_sample=False)
    folded = kb.fold_neurons(model, neurons, lam=6)
    assert torch.equal(folded.generate(TOKENS[:1], max_new_tokens=12, do_sample=False), hooked)


def test_a_name_is_as_good_as_the_model(folder, bridge):
    neurons = some_neurons(bridge)
    by_name, by_model = (kb.fold_neurons(one, neurons, lam=2) for one in (str(folder), bridge))
    weights = by_model.state_dict()
    assert all(torch.equal(one, weights[name]) for name, one in by_name.state_dict().items())


def test_the_copy_is_independent(bridge):
    neurons = some_neurons(bridge)
    folded = kb.fold_neurons(bridge, neurons, lam=2)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert fingerprint(bridge) == neurons.fingerprint


@pytest.mark.embedded
def test_the_embedded_model(embedded):
    members = tuple(kb.Neuron(layer, 7 * layer) for layer in range(30))
    neurons = kb.NeuronSet(
        neurons=members,
        model=model_name(embedded),
        fingerprint=fingerprint(embedded),
        site="post",
        n_layers=30,
        d_mlp=1536,
    )
    tokens = kb.PromptTemplate().tokens(embedded, "Is that a form of gender bias?")
    with kb.scale_neurons(embedded, neurons, lam=4), torch.no_grad():
        hooked = embedded(tokens)
    folded = kb.fold_neurons("smollm2-135m-instruct", neurons, lam=4)
    assert folded.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(folded(tokens).logits, hooked, rtol=1e-4, atol=1e-3)


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
    paths = str(exported.parent).encode(), bridge.cfg.model_name.encode()
    assert not any(path in content for content in entries(exported).values() for path in paths)


def test_a_source_on_the_hub_is_named(bridge):
    neurons = some_neurons(bridge, "pre")
    done = Export("owner/model-1B", "0", torch.bfloat16, neurons, 2.5, 0.01)
    assert json.loads(done.record())["model"] == "owner/model-1B"
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


def test_bad_arguments(bridge):
    neurons = some_neurons(bridge)
    for lam in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="allowed is any finite number"):
            kb.fold_neurons(bridge, neurons, lam=lam)
    with pytest.raises(ValueError, match="the neuron set is empty"):
        kb.fold_neurons(bridge, neurons - neurons, lam=2)
    with pytest.raises(ValueError, match="these neurons belong to"):
        kb.fold_neurons(tiny_bridge(seed=9), neurons, lam=2)
    with pytest.raises(ValueError, match="no such model folder"):
        kb.fold_neurons("./nowhere", neurons, lam=2)
    with pytest.raises(ValueError, match="cannot fold into a LlamaForCausalLM"):
        kb.fold_neurons(tiny_hf_model(), neurons, lam=2)


def test_packed_weights_are_refused():
    model = tiny_bridge()
    packed = torch.nn.Parameter(torch.ones(32, 48, dtype=torch.int8), requires_grad=False)
    model.blocks[2].mlp.out.original_component.weight = packed
    with pytest.raises(ValueError, match=r"packed .*layers\.2\.mlp\.down_proj has int8"):
        kb.fold_neurons(model, some_neurons(model), lam=2)
    model = tiny_bridge()
    model.original_model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ValueError, match=r"packed .*quantization_config"):
        kb.fold_neurons(model, some_neurons(model), lam=2)


def test_shared_weights_are_refused():
    plain, neurons = tiny_hf_model(), some_neurons(tiny_bridge())
    layers = plain.model.layers
    layers[1].mlp.down_proj.weight = layers[0].mlp.down_proj.weight
    before = layers[0].mlp.down_proj.weight.clone()
    with pytest.raises(ValueError, match=r"layers\.0\.mlp.* is shared with .*layers\.1\.mlp"):
        scale_weights(plain, "model.layers.0.mlp.down_proj", neurons, [3], 2)
    assert torch.equal(layers[0].mlp.down_proj.weight, before)


def test_a_factor_that_overflows(folder):
    model = kb.load_model(folder, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"too large: .* overflows torch\.float16"):
        kb.fold_neurons(model, some_neurons(model), lam=1e7)


def test_a_fold_that_is_not_exact_is_not_written(bridge, tmp_path, monkeypatch):
    monkeypatch.setattr("kb_lens.interventions.folding.scale_weights", lambda *arguments: None)
    with pytest.raises(ValueError, match=r"folding is not exact for .* Nothing was written"):
        export(bridge, some_neurons(bridge), tmp_path / "out", lam=3)
    assert not list(tmp_path.iterdir())


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
        with pytest.raises(ValueError, match="is not empty and holds no export"):
            check_target(tmp_path, overwrite)
        with pytest.raises(ValueError, match="is a file"):
            check_target(tmp_path / "thesis.txt", overwrite)


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
        (("MODEL", "--neurons", "FILE"), "Missing option '--lam'"),
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
