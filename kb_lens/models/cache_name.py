"""A model's cache of keys and values, by the name that its release of transformers has for it.

transformers 5.24 renamed ``past_key_values`` to ``cache``. TransformerLens (4.3) computes the
attention of most families itself and looks for the old name: it would leave the cache empty, and
each token after the first would be written by a model that does not see the prompt.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor

from kb_lens.models.hooked import BridgedModel


def cache_argument(model: BridgedModel) -> str:
    """What the transformers model calls the cache that its forward pass takes."""
    parameters = signature(type(model.original_model).forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def hand_cache_on(model: Any) -> None:
    """Let attention that TransformerLens computes find the cache under either name.

    Called again, it changes nothing.

    Args:
        model: A ``TransformerBridge``.
    """
    for module in model.modules():
        if hasattr(type(module), "_update_kv_cache") and "_update_kv_cache" not in vars(module):
            module._update_kv_cache = partial(_update_kv_cache, module)


def _update_kv_cache(
    module: Any, keys: Tensor, values: Tensor, *, cache: Any = None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """All keys and values up to here, those of the cache first."""
    if cache is not None:
        kwargs["past_key_values"] = cache
    return type(module)._update_kv_cache(module, keys, values, **kwargs)
