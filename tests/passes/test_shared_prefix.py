"""Models that a shared prefix does not serve are refused before they run, each with its reason."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_bridge
from transformers import DynamicCache

from kb_lens.attribution.objective import Objective
from kb_lens.attribution.path_gradients import JoinedPath
from kb_lens.models.hooked import BridgedModel, HookedModel, is_bridge
from kb_lens.passes import shared_prefix
from kb_lens.passes.shared_prefix import UncoveredError, cached, check_covered

TOKENS = torch.arange(20)[None]


def test_a_bridge_is_covered(model):
    assert isinstance(model, HookedModel)
    assert isinstance(model, BridgedModel)
    assert is_bridge(model)
    assert check_covered(model) is model


def test_a_transformers_model_without_hooks_is_no_hooked_model(llama):
    assert not isinstance(llama.original_model, HookedModel)


def test_attention_of_a_family_s_own(llama, monkeypatch):
    """Falcon, GPT-J: their code calls no function that is registered."""
    family = type(llama.original_model)
    monkeypatch.setattr(family, "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(UncoveredError, match="does not go through transformers' interface"):
        check_covered(llama)


def test_a_block_without_attention(monkeypatch):
    """A state-space layer among layers of attention."""
    model = tiny_bridge("llama")
    monkeypatch.setattr(model.blocks[1].attn.original_component, "layer_idx", None)
    delattr(model.blocks[1].attn.original_component, "layer_idx")
    with pytest.raises(UncoveredError, match="not one module a block"):
        check_covered(model)


def test_a_layer_without_hooks(llama, monkeypatch):
    monkeypatch.setattr(llama.cfg, "n_layers", 4)
    with pytest.raises(UncoveredError, match=r"no hook 'blocks\.3\.hook_in'"):
        check_covered(llama)


def test_a_cache_that_forgets(monkeypatch):
    model = tiny_bridge("mistral", sliding_window=8)
    sliding = partial(DynamicCache, config=model.original_model.config)
    monkeypatch.setattr(shared_prefix, "DynamicCache", sliding)
    with pytest.raises(UncoveredError, match="a cache of another kind"):
        cached(model, TOKENS)


def test_a_gradient_needs_output_embeddings(llama, monkeypatch):
    monkeypatch.setattr(llama.original_model, "get_output_embeddings", lambda: None)
    with pytest.raises(UncoveredError, match="no output embeddings"):
        JoinedPath(llama, TOKENS, Objective(270, 271))


def test_a_family_that_fixes_the_number_of_rows(llama, monkeypatch):
    config = SimpleNamespace(model_type="gpt_bigcode")
    monkeypatch.setattr(llama.original_model.config, "get_text_config", lambda: config)
    with pytest.raises(UncoveredError, match="number of rows cannot change"):
        JoinedPath(llama, TOKENS, Objective(270, 271))
