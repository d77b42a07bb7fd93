"""Keys and values of a prefix that many rows read: computed once, through the model's own blocks.

Attribution runs one-token rows over a prompt's prefix, scoring runs trees of options over the
instruction that all items share. Both go through transformers' attention interface: the model's
own attention modules run with another attention function, so whatever a family does to queries,
keys and values (rotary positions, norms, grouped heads) stays as it is, and so do the bridge's
hooks outside attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache

_ATTENTION = "kb_lens_shared_prefix"


class UncoveredError(Exception):
    """The joined pass does not compute what the model computes; use the plain way."""


def check_covered(model: Any) -> None:
    """Raise `UncoveredError` where a shared prefix is known not to apply."""
    if not hasattr(model, "original_model"):
        raise UncoveredError("it is no TransformerBridge")
    for block in model.blocks:
        attention = getattr(getattr(block, "attn", None), "original_component", None)
        if not (hasattr(attention, "layer_idx") and hasattr(attention, "config")):
            raise UncoveredError("its attention is not one module a block with its layer's index")
    for name, point in model.hook_dict.items():
        if ".attn" in name and point.fwd_hooks:
            raise UncoveredError(f"a hook is set inside its attention ({name})")


class SharedPrefix(DynamicCache):
    """Keys and values of the prefix, read by every row and written by none.

    A subclass says in `attend` how a row's own positions attend to the prefix and to one another.
    """

    def __init__(self, cache: Any, length: int) -> None:
        super().__init__()
        self.length = length
        self.prefix = [
            (layer.keys[0, :, :length], layer.values[0, :, :length])
            for layer in (cache.layers if length else ())
        ]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Hand the rows' own keys and values on; the prefix is joined in `attend`."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The prefix's length in tokens."""
        return self.length

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """The attention function: what each position reads. [row, head, pos, d_head] each."""
        raise NotImplementedError

    def run(self, model: Any, tokens: Int[Tensor, "row pos"], position_ids: Tensor) -> Any:
        """One forward pass of the rows; hooks that are set on the model fire."""
        AttentionInterface.register(_ATTENTION, self.attend)
        with attention_of(model, _ATTENTION):
            return model.original_model(
                tokens, past_key_values=self, position_ids=position_ids, use_cache=True
            )


@contextmanager
def attention_of(model: Any, name: str) -> Iterator[None]:
    """Run the model's own attention modules with the attention function registered as `name`.

    Past the bridge's reimplementation, whose hooks inside attention nobody listens to here.
    """
    attentions = [block.attn for block in model.blocks]
    found = [attention.original_component.config for attention in attentions]
    configs = {id(config): config for config in found}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for attention in attentions:
            attention.__dict__["forward"] = attention.original_component.forward
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for attention in attentions:
            attention.__dict__.pop("forward", None)
        for key, config in configs.items():
            config._attn_implementation = before[key]


def cached(model: Any, tokens: Int[Tensor, "1 pos"]) -> tuple[DynamicCache, Any]:
    """The keys and values of a prompt, and the output of the pass; hooks fire.

    The logits are those of the last position alone.
    """
    cache = DynamicCache()
    last = ("unembed.hook_in", lambda residual, hook: residual[:, -1:])
    with torch.no_grad(), attention_of(model, "eager"), model.hooks(fwd_hooks=[last]):
        output = model.original_model(tokens, past_key_values=cache, use_cache=True)
    return cache, output
