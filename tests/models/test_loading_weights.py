"""Every weight comes from the checkpoint, and every tensor of the checkpoint is used."""

import pytest
import torch
from checkpoint_files import change_config, change_weights, point, saved
from tiny_models import random_model, tiny_hf_model
from transformers import LlamaForSequenceClassification, LlamaModel

import kb_lens as kb

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path, tiny_hf_model())


def refusal(folder) -> str:
    """What `load_model` says; one line."""
    with pytest.raises(ValueError, match="cannot load the model") as caught:
        kb.load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_under_other_names_are_missing(folder):
    change_weights(folder, lambda tensors: {f"module.{k}": v for k, v in tensors.items()})
    message = refusal(folder)
    assert "missing: lm_head.weight" in message
    assert "left over: module.lm_head.weight" in message
    assert "and 27 more" in message


def test_a_layer_without_its_mlp_is_refused(folder):
    change_weights(
        folder, lambda tensors: {k: v for k, v in tensors.items() if "layers.1.mlp" not in k}
    )
    assert "missing: model.layers.1.mlp.down_proj.weight" in refusal(folder)


def test_a_classifier_has_no_head_for_words(tmp_path):
    saved(tmp_path, LlamaForSequenceClassification(tiny_hf_model().config))
    assert "missing: lm_head.weight; left over: score.weight" in refusal(tmp_path)


def test_a_classifier_with_tied_embeddings_is_refused_by_its_own_head(tmp_path):
    config = tiny_hf_model(tie_word_embeddings=True).config
    saved(tmp_path, LlamaForSequenceClassification(config))
    assert "left over: score.weight" in refusal(tmp_path)


def test_a_base_model_without_a_head_is_refused(tmp_path):
    saved(tmp_path, LlamaModel(tiny_hf_model().config))
    assert "missing: lm_head.weight" in refusal(tmp_path)


def test_a_base_model_whose_head_is_its_embedding_is_whole(tmp_path):
    model = tiny_hf_model(tie_word_embeddings=True)
    saved(tmp_path, model.model)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(kb.load_model(tmp_path)(tokens), model(tokens).logits)


def test_another_architecture_is_refused(folder):
    change_config(folder, model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"])
    assert "not those of a GPTNeoXForCausalLM" in refusal(folder)


def test_norms_that_only_the_config_has_are_missing(folder):
    change_config(folder, model_type="qwen3", architectures=["Qwen3ForCausalLM"])
    assert "missing: model.layers.0.self_attn.k_norm.weight" in refusal(folder)


def test_biases_that_the_config_does_not_know_are_left_over(folder):
    def with_biases(tensors):
        biases = {
            name.replace(".weight", ".bias"): torch.ones(len(tensor))
            for name, tensor in tensors.items()
            if "_proj" in name
        }
        return tensors | biases

    change_weights(folder, with_biases)
    assert "left over: model.layers.0.mlp.down_proj.bias" in refusal(folder)


def test_a_layer_more_than_the_config_has_is_left_over(folder):
    change_config(folder, num_hidden_layers=2)
    assert "left over: model.layers.2.input_layernorm.weight" in refusal(folder)


def test_a_larger_vocabulary_than_the_weights_is_refused_with_both_sizes(folder):
    change_config(folder, vocab_size=408)
    assert "of another size: lm_head.weight [400, 32] for [408, 32]" in refusal(folder)


def test_rotary_frequencies_of_old_checkpoints_are_no_fault(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_weights(folder, lambda tensors: tensors | {name: torch.ones(4)})
    assert kb.load_model(folder).cfg.n_layers == 3


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_the_causal_masks_of_old_gpt2_are_no_fault(tmp_path, prefix):
    model = tiny_hf_model("gpt2")
    saved(tmp_path, model)
    masks = {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    change_weights(
        tmp_path,
        lambda tensors: {
            f"{prefix}{name.removeprefix('transformer.')}": tensor
            for name, tensor in (tensors | masks).items()
        },
    )
    tokens = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(kb.load_model(tmp_path)(tokens), model(tokens).logits)


def test_a_causal_mask_that_the_class_does_not_list_is_no_fault(tmp_path):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4, "n_positions": 64}
    saved(tmp_path, random_model("GPTJForCausalLM", **sizes))
    name = "transformer.h.0.attn.bias"
    change_weights(tmp_path, lambda tensors: tensors | {name: torch.ones(1, 1, 8, 8)})
    assert kb.load_model(tmp_path).cfg.n_layers == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_git_lfs_pointer_is_called_one(folder, name):
    point(folder / name)
    assert f"{name}' is a Git LFS pointer" in refusal(folder)


def test_a_cut_off_file_of_weights_is_called_that(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "a .safetensors file is cut off or damaged" in refusal(folder)


def test_a_damaged_tokenizer_is_called_that(folder):
    (folder / "tokenizer.json").write_text('{"version"')
    assert "its tokenizer cannot be read" in refusal(folder)


def test_a_revision_is_for_names_on_the_hub(folder):
    with pytest.raises(ValueError, match="only models from the hub have revisions"):
        kb.load_model(folder, revision="step1000")
