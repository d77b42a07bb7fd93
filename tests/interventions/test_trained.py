"""Another checkpoint in the measured model's place: it is measured, named, and nothing else is."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import load_results
from kb_lens.interventions.conditions import Change, Condition
from kb_lens.interventions.trained import Trained
from kb_lens.models.hooked import fingerprint, model_name, weights_digest
from kb_lens.runs.measure import measure
from kb_lens.runs.units import Unit
from kb_lens.store import Store

TOKENS = torch.tensor([[3, 5, 7, 11]])
PEFT = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


def saved(folder, model, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The measured checkpoint, and one in its place."""
    root = tmp_path_factory.mktemp("checkpoints")
    return [saved(root / name, tiny_hf_model(seed=seed)) for seed, name in enumerate(("base", "x"))]


@pytest.fixture(scope="module")
def model(folders):
    return kb.load_model(folders[0])


@pytest.fixture(scope="module")
def other(folders):
    return kb.load_model(folders[1])


@pytest.fixture(scope="module")
def trained(model, folders):
    return Trained.of(model, str(folders[1]))


@pytest.fixture(scope="module")
def benchmark():
    return kb.load_benchmark("over_correction", limit=6)


def test_in_the_block_the_other_model_computes(model, other, trained):
    before = model(TOKENS)
    with trained.applied(model) as measured:
        assert torch.equal(measured(TOKENS), other(TOKENS))
        assert not torch.equal(measured(TOKENS), before)
        assert measured.cfg.dtype == model.cfg.dtype
        assert str(measured.cfg.device) == str(model.cfg.device)
    assert torch.equal(model(TOKENS), before)


def test_it_has_the_measured_model_s_type(folders, other):
    half = kb.load_model(folders[0], dtype=torch.bfloat16)
    with Trained.of(half, str(folders[1])).applied(half) as measured:
        assert measured(TOKENS).dtype == torch.bfloat16
        assert weights_digest(measured) != weights_digest(other)


def test_it_is_freed_when_the_block_ends(model, trained):
    with trained.applied(model) as measured:
        assert sum(parameter.numel() for parameter in measured.parameters())
    assert not sum(parameter.numel() for parameter in measured.parameters())
    assert trained.describe()["checkpoint_weights"] == trained.weights


def test_the_measured_model_is_refused_in_the_block(model, trained, benchmark):
    with trained.applied(model) as measured:
        with pytest.raises(ValueError, match="use the model that the block yields"):
            kb.evaluate(model, benchmark, progress=False)
        kb.evaluate(measured, benchmark, progress=False)
    kb.evaluate(model, benchmark, progress=False)


def test_a_block_around_it_has_no_say(model, trained, benchmark):
    """Neurons that are scaled in the measured model are not scaled in the other one."""
    neurons = kb.NeuronSet(
        (kb.Neuron(0, 1),), model_name(model), fingerprint(model), "post", n_layers=3, d_mlp=48
    )

    def nested():
        with kb.scale_neurons(model, neurons, lam=3), trained.applied(model) as measured:
            kb.evaluate(measured, benchmark, progress=False)

    with pytest.raises(ValueError, match="did not run"):
        nested()


def test_a_unit_measures_it_and_says_so(model, other, trained, benchmark, tmp_path):
    unit = Unit(Condition("x", trained), benchmark)
    plain = unit.work(model)
    expected = kb.evaluate(other, benchmark, progress=False)
    kept = unit.measured(model, Store(tmp_path, SUFFIX))
    for result in (plain, kept):
        pd.testing.assert_frame_equal(result.items, expected.items)
        assert result.metrics == expected.metrics
        assert (result.model, result.fingerprint) == (model_name(model), fingerprint(model))
        assert result.condition.intervention == {
            "checkpoint": "x",
            "checkpoint_weights": weights_digest(other),
        }
    base = Unit(Condition("base"), benchmark).work(model)
    assert not base.items.equals(plain.items)


def test_its_key_is_that_of_the_other_weights(model, other, trained, benchmark):
    key = Unit(Condition("x", trained), benchmark).key(model)
    assert key == Unit(Condition("base"), benchmark).key(other)
    assert key != Unit(Condition("base"), benchmark).key(model)
    renamed = replace(trained, checkpoint="/elsewhere/y", name="y")
    assert key == Unit(Condition("y", renamed), benchmark).key(model)


def test_a_folder_of_results_is_gone_on_with(model, other, trained, benchmark, tmp_path):
    condition = Condition("x", trained)
    for _ in range(2):
        measure(model, condition, [benchmark], tmp_path, progress=False)
    (result,) = load_results(tmp_path).values()
    assert result.condition == condition.info()
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["fingerprint"] == fingerprint(model)
    assert content["intervention"]["checkpoint_weights"] == fingerprint(other)
    with pytest.raises(ValueError, match="is of another intervention"):
        measure(model, Condition("base"), [benchmark], tmp_path, progress=False)


def test_a_checkpoint_that_is_the_measured_model_is_refused(model, folders):
    with pytest.raises(ValueError, match="has the weights of base itself"):
        Trained.of(model, str(folders[0]))


def test_a_checkpoint_that_was_trained_again_is_refused(model, tmp_path):
    folder = saved(tmp_path / "again", tiny_hf_model(seed=2))
    trained = Trained.of(model, str(folder))
    saved(folder, tiny_hf_model(seed=3))
    with (
        pytest.raises(ValueError, match=r"has other weights .* than when it was first loaded"),
        trained.applied(model),
    ):
        pass


def test_what_cannot_be_read_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"cannot load the model .*no such model folder"):
        Trained.of(model, str(tmp_path / "none"))


def swapped():
    """The tiny tokenizer with two tokens that have each other's numbers."""
    tokenizer = tiny_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    return _of(content)


def uncut():
    """The same vocabulary, and words are put together otherwise."""
    content = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    content["model"]["merges"] = content["model"]["merges"][:3]
    return _of(content)


def _of(content):
    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(content))
    return tokenizer


def grown():
    """A tokenizer with words of its own, which cuts texts that have them otherwise."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["nurse", " engineer", "<|mine|>"])
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (swapped, "2 tokens, such as '[ab]'"),
        (uncut, "split, or begun, differently"),
        (grown, "2 tokens of text were added, such as ' engineer'"),
    ],
)
def test_another_tokenizer_is_refused(model, tmp_path, tokenizer, words):
    hf_model = tiny_hf_model(seed=1)
    hf_model.resize_token_embeddings(len(tokenizer()))
    folder = saved(tmp_path / "other", hf_model, tokenizer())
    with pytest.raises(ValueError, match=f"another tokenizer than base .*{words}"):
        Trained.of(model, str(folder))


def test_a_token_more_and_another_template_change_no_text(model, folders, trained, tmp_path):
    """Training adds a token for padding, and templates of its own; the items stay the same."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|mine|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    hf_model = tiny_hf_model(seed=1)
    hf_model.resize_token_embeddings(len(tokenizer))
    folder = saved(tmp_path / "more", hf_model, tokenizer)
    with Trained.of(model, str(folder)).applied(model) as measured:
        assert measured.tokenizer.chat_template == model.tokenizer.chat_template


@PEFT
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_an_adapter_of_the_measured_model(model, folders, tmp_path):
    """It carries its base's fingerprint, and is another model all the same."""
    updated = "model.layers.1.mlp.down_proj"
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1}
    config |= {"base_model_name_or_path": str(folders[0]), "target_modules": [updated]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    prefix = f"base_model.model.{updated}"
    sides = {"A": torch.ones(1, 48), "B": torch.ones(32, 1)}
    tensors = {f"{prefix}.lora_{side}.weight": factor for side, factor in sides.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with Trained.of(model, str(tmp_path)).applied(model) as measured:
        assert fingerprint(measured) == fingerprint(model)
        assert not torch.equal(measured(TOKENS), model(TOKENS))


def test_it_is_a_change(trained, benchmark):
    assert isinstance(trained, Change)
    assert trained.asked(benchmark) is benchmark
