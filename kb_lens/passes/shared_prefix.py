"""Keys and values of a prefix that many rows share, computed once by the model's own blocks.

Attribution runs one-token rows over a prompt's prefix; scoring runs trees of options over the
instruction that all items share. Both use transformers' attention interface: the model's own
attention modules run with another attention function. So everything that a family does to queries,
keys and values (rotary positions, norms, grouped heads) is kept, and so are the bridge's hooks
outside attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from kb_lens.models.cache_name import cache_argument
from kb_lens.models.hooked import BridgedModel, HookedModel, is_bridge
from kb_lens.passes.last_logits import UNEMBED, only_last_logits

_ATTENTION = "kb_lens_shared_prefix"
"""The name under which transformers looks up the attention function of a `SharedPrefix`."""


class UncoveredError(Exception):
    """The joined pass does not compute what the model computes; use the plain way."""


def check_covered(model: HookedModel) -> BridgedModel:
    """The model, if a shared prefix can be used with it, as far as is known without running it.

    Raises:
        UncoveredError: If it is known that it cannot.
    """
    if not is_bridge(model):
        raise UncoveredError("it is not a TransformerBridge")
    # Other families compute attention themselves and would never call the function given here.
    if not type(model.original_model)._can_set_attn_implementation():
        raise UncoveredError("its attention does not go through transformers' interface")
    if model.original_model._is_stateful:
        raise UncoveredError("it keeps a state beside keys and values (Mamba, linear attention)")
    for block in model.blocks:
        attention: Any = getattr(getattr(block, "attn", None), "original_component", None)
        if not (hasattr(attention, "layer_idx") and hasattr(attention, "config")):
            raise UncoveredError("its attention is not one module a block with its layer's index")
        if getattr(attention.config, "kv_lora_rank", None):
            raise UncoveredError("it caches latents in place of keys and values")
    hook_points = model.hook_dict
    for name in (*(f"blocks.{layer}.hook_in" for layer in range(model.cfg.n_layers)), UNEMBED):
        if name not in hook_points:
            raise UncoveredError(f"it has no hook {name!r}")
    for name, point in hook_points.items():
        # The bridge's own attention does not run, so such a hook would not fire.
        if ".attn" in name and point.fwd_hooks:
            raise UncoveredError(f"a hook is set inside its attention ({name})")
    return model


class SharedPrefix(DynamicCache):
    """Keys and values of the prefix; every row reads them and none writes them.

    A subclass defines in `attend` how a row's positions attend to the prefix and to one another.
    """

    def __init__(self, cache: Any, length: int) -> None:
        super().__init__()
        self.length = length
        layers = cache.layers if length else []
        self.prefix = [(layer.keys[0, :, :length], layer.values[0, :, :length]) for layer in layers]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the rows' own keys and values; the prefix is joined in `attend`."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The prefix's length in tokens."""
        return self.length

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """The attention function; all arguments are [row, head, pos, d_head]."""
        raise NotImplementedError

    def run(self, model: BridgedModel, tokens: Int[Tensor, "row pos"], position_ids: Tensor) -> Any:
        """One forward pass of the rows; hooks that are set on the model fire."""
        AttentionInterface.register(_ATTENTION, self.attend)
        with attention_of(model, _ATTENTION):
            return model.original_model(
                tokens, position_ids=position_ids, use_cache=True, **{cache_argument(model): self}
            )


@contextmanager
def attention_of(model: BridgedModel, name: str) -> Iterator[None]:
    """Run the model's own attention modules with the attention function registered as `name`.

    This bypasses the bridge's own attention; no hook inside it is in use here.
    """
    attentions = [block.attn for block in model.blocks]
    configs = [attention.original_component.config for attention in attentions]
    before = [config._attn_implementation for config in configs]
    try:
        for attention, config in zip(attentions, configs, strict=True):
            # An instance's attribute hides the class's forward and can be removed completely.
            attention.__dict__["forward"] = attention.original_component.forward
            config._attn_implementation = name
        yield
    finally:
        for attention, config, implementation in zip(attentions, configs, before, strict=True):
            attention.__dict__.pop("forward", None)
            config._attn_implementation = implementation


def cached(model: BridgedModel, tokens: Int[Tensor, "1 pos"]) -> tuple[DynamicCache, Any]:
    """The keys and values of a prompt, and the output of the pass; hooks fire.

    The logits are those of the last position alone.

    Raises:
        UncoveredError: If the model keeps no keys and values of every position in the cache.
    """
    cache = DynamicCache()
    last = only_last_logits(model)
    with torch.no_grad(), attention_of(model, "eager"), model.hooks(fwd_hooks=last):
        output = model.original_model(tokens, use_cache=True, **{cache_argument(model): cache})
    # Linear attention keeps a state; a sliding window keeps only the last positions.
    lengths = [layer.get_seq_length() for layer in cache.layers if type(layer) is DynamicLayer]
    if lengths != [tokens.shape[1]] * model.cfg.n_layers:
        raise UncoveredError("it has a cache of another kind than keys and values")
    return cache, output
