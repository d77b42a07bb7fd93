"""Attention finds the cache of keys and values by the name of either release of transformers."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge
from transformers import DynamicCache

from kb_lens.models.cache_name import cache_argument, hand_cache_on


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_is_filled_under_either_name(family, name):
    model = tiny_bridge(family)
    hand_cache_on(model)
    hand_cache_on(model)  # as every measurement does
    keys, cache = torch.rand(1, 2, 3, 8), DynamicCache()
    for length in (3, 6):
        joined, _ = model.blocks[0].attn._update_kv_cache(keys, keys, **{name: cache})
        assert joined.shape[2] == cache.get_seq_length() == length


def test_the_name_is_the_one_that_the_model_takes():
    model = tiny_bridge("llama")
    hand_cache_on(model)
    cache = DynamicCache()
    model.original_model(torch.tensor([[5, 6]]), use_cache=True, **{cache_argument(model): cache})
    assert cache.get_seq_length() > 0
