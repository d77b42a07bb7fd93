"""Only causal language models are loaded, and of a multimodal one its text model."""

import os
import subprocess
from importlib.util import find_spec

import pytest
import torch
import transformers
from checkpoint_files import change_config, saved
from tiny_models import random_model, tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.models import devices

ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
T5 = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 4}
BART = {
    f"{side}_{size}": n
    for side in ("encoder", "decoder")
    for size, n in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 48))
}
TEXT = ENCODER | {
    "vocab_size": 400,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MULTIMODAL = {
    "Gemma3ForConditionalGeneration": {"text_config": TEXT, "vision_config": VISION},
    "LlavaForConditionalGeneration": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model", "projection_dim": 16},
        "image_token_index": 3,
    },
    "Mistral3ForConditionalGeneration": {
        "text_config": TEXT | {"model_type": "mistral"},
        "vision_config": VISION | {"model_type": "pixtral"},
        "image_token_index": 3,
    },
}


@pytest.mark.parametrize(
    ("architecture", "sizes", "kind"),
    [
        ("BertForMaskedLM", ENCODER, "is an encoder"),
        ("RobertaForMaskedLM", ENCODER, "is an encoder"),
        ("ElectraForPreTraining", ENCODER | {"embedding_size": 32}, "is an encoder"),
        ("T5ForConditionalGeneration", T5, "is an encoder-decoder"),
        ("BartForConditionalGeneration", BART | {"d_model": 32}, "is an encoder-decoder"),
        ("ViTModel", VISION, "is not a causal language model"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, architecture, sizes, kind):
    saved(tmp_path, random_model(architecture, **sizes))
    with pytest.raises(ValueError, match=rf"{architecture} \(\w+\) {kind}"):
        kb.load_model(tmp_path)


def test_bert_as_a_decoder_is_one(tmp_path):
    saved(tmp_path, random_model("BertLMHeadModel", **ENCODER, is_decoder=True))
    assert kb.load_model(tmp_path).cfg.n_layers == 1


def test_attention_that_looks_ahead_is_refused(tmp_path):
    saved(tmp_path, tiny_hf_model("gemma3_text", use_bidirectional_attention=True))
    with pytest.raises(ValueError, match="changing later tokens moves the logits before them"):
        kb.load_model(tmp_path)


def test_a_family_without_a_bridge_is_one_short_line(tmp_path):
    sizes = {"n_embd": 32, "dff": 48, "n_layer": 1, "n_head": 4}
    saved(tmp_path, random_model("CTRLLMHeadModel", **sizes))
    with pytest.raises(ValueError, match="cannot wrap a CTRLLMHeadModel") as caught:
        kb.load_model(tmp_path)
    assert len(str(caught.value)) < 300


@pytest.fixture
def started(monkeypatch):
    """The programs that were started."""
    programs = []

    def record(*arguments, **_):
        programs.append(arguments)
        raise OSError("no program may be started")

    monkeypatch.setattr(subprocess.Popen, "__init__", record)
    for name in ("system", "posix_spawn", "posix_spawnp", "execv", "execve", "fork"):
        monkeypatch.setattr(os, name, record)
    return programs


@pytest.mark.parametrize("architecture", MULTIMODAL)
def test_of_a_multimodal_checkpoint_the_text_model_is_loaded_and_nothing_installed(
    tmp_path, architecture, started, questions
):
    model_class = getattr(transformers, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = model_class(model_class.config_class(**MULTIMODAL[architecture])).eval()
    saved(tmp_path, whole)
    model = kb.load_model(tmp_path)
    tokens = torch.tensor([tiny_tokenizer()("Question: is the player tall?")["input_ids"]])
    assert not started
    assert type(model.original_model).__name__.endswith("ForCausalLM")
    torch.testing.assert_close(model(tokens), whole(tokens).logits)
    scores = kb.attribute(model, questions[:1], rule="riemann", n_steps=1, progress=False).scores
    assert scores.shape == (1, 1, 48)


PACKED = {
    "awq": {"bits": 4, "group_size": 16},
    "gptq": {"bits": 4, "group_size": 16},
    "compressed-tensors": {"format": "pack-quantized", "config_groups": {}},
    "torchao": {"quant_type": "int8_weight_only"},
    "hqq": {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 16}}},
}


@pytest.mark.parametrize("method", PACKED)
def test_packed_weights_without_their_package_are_one_line(tmp_path, method):
    if find_spec(method.replace("-", "_")):
        pytest.skip(f"{method} is installed")
    saved(tmp_path, tiny_hf_model())
    change_config(tmp_path, quantization_config={"quant_method": method, **PACKED[method]})
    with pytest.raises(ValueError, match=rf"packed \({method}\), and a package is missing") as told:
        kb.load_model(tmp_path)
    assert "\n" not in str(told.value)


def test_apple_s_mps_is_warned_of(monkeypatch):
    class Mps:
        device = torch.device("mps")

    monkeypatch.setattr(devices.torch, "empty", lambda *_, **__: Mps)
    with pytest.warns(UserWarning, match="pytorch/issues/193487"):
        assert devices.chosen_device("mps").type == "mps"
