"""A bridge computes what the model below it computes, in every mode, or it is refused."""

import pytest
import torch
from checkpoint_files import saved
from tiny_models import FAMILIES, random_model, tiny_bridge, tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.models import bridge_check
from kb_lens.models.bridge_check import check_bridge
from kb_lens.models.evaluation_mode import evaluation_mode

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10]])
FALCON = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


def test_a_lost_attention_option_is_refused_with_the_difference(tmp_path):
    saved(tmp_path, tiny_hf_model("gpt2", scale_attn_weights=False))
    with pytest.raises(ValueError, match=r"logits differ by \d\.\d+, and the largest is"):
        kb.load_model(tmp_path)


@pytest.mark.parametrize("heads", [2, 4])
def test_falcon_s_new_decoder_is_refused(tmp_path, heads):
    sizes = FALCON | {"num_kv_heads": heads, "new_decoder_architecture": True}
    saved(tmp_path, random_model("FalconForCausalLM", **sizes))
    with pytest.raises(ValueError, match=r"cannot wrap|logits differ") as caught:
        kb.load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_falcon_with_one_key_and_value_head_is_right(tmp_path):
    model = random_model("FalconForCausalLM", **FALCON, num_kv_heads=1)
    saved(tmp_path, model)
    torch.testing.assert_close(kb.load_model(tmp_path)(TOKENS), model(TOKENS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_of_one_s_own_is_compared(family):
    bridge = tiny_bridge(family)
    check_bridge(bridge)
    assert bridge in bridge_check._CHECKED


def test_a_wrong_bridge_of_one_s_own_is_refused():
    bridge = tiny_bridge("gpt2", scale_attn_weights=False)
    with pytest.raises(ValueError, match="does not compute what tiny-random-gpt2 computes"):
        check_bridge(bridge)


def test_a_bridge_is_compared_once(monkeypatch):
    bridge = tiny_bridge()
    check_bridge(bridge)
    monkeypatch.setattr(bridge_check, "_plain_weights", lambda model: pytest.fail("again"))
    check_bridge(bridge)


def test_hooks_of_the_user_are_no_fault():
    bridge = tiny_bridge()

    def doubled(activation, hook):
        return 2 * activation

    with bridge.hooks([("blocks.0.mlp.hook_post", doubled)]):
        check_bridge(bridge)
    assert bridge not in bridge_check._CHECKED


def test_training_mode_and_default_types_do_not_change_a_pass():
    model = tiny_bridge("gpt2")
    expected = model(TOKENS)
    model.train()
    assert not torch.equal(model(TOKENS), expected), "dropout does something"
    try:
        torch.set_default_dtype(torch.bfloat16)
        with evaluation_mode(model):
            assert torch.get_default_dtype() == torch.float32
            assert torch.equal(model(TOKENS), expected)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(module.training for module in model.original_model.modules())
    assert all(module.training for module in model.modules())


def test_evaluation_mode_leaves_what_was_in_it():
    model = tiny_bridge("gpt2")
    model.original_model.transformer.drop.train()
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    training = [name for name, m in model.original_model.named_modules() if m.training]
    assert training == ["transformer.drop"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_loading_does_not_depend_on_the_default_type(tmp_path, dtype):
    model = tiny_hf_model()
    saved(tmp_path, model)
    expected = model(TOKENS).logits
    try:
        torch.set_default_dtype(dtype)
        loaded = kb.load_model(tmp_path)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(loaded(TOKENS), expected)


@pytest.mark.parametrize("add_bos", [False, True])
def test_text_is_tokenised_as_the_tokenizer_does_it(tmp_path, add_bos):
    tiny_hf_model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer(add_bos)
    tokenizer.save_pretrained(tmp_path)
    model = kb.load_model(tmp_path)
    ids = tokenizer("The player was tall.")["input_ids"]
    assert model.to_tokens("The player was tall.").tolist() == [ids]
    assert torch.equal(model("The player was tall."), model(torch.tensor([ids])))


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    tiny_hf_model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    text = tokenizer.backend_tokenizer.to_str().replace("<|endoftext|>", "<|begin|>")
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    with pytest.raises(ValueError, match="has no EOS token, and all 400 rows of the embedding"):
        kb.load_model(tmp_path)


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path):
    saved(tmp_path, tiny_hf_model(vocab_size=300))
    with pytest.raises(ValueError, match="its embedding ends at 299"):
        kb.load_model(tmp_path)
