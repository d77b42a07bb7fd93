"""The questions that a checkpoint was trained on, which cannot test it.

A model that was fine-tuned on questions of the bank names them in its config, by digests of their
texts. The config stays with the weights, also in an exported checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from kb_lens.models.hooked import HookedModel, is_bridge, model_name

LESSONS = "kb_lens_lessons"
"""The key of the config."""
_DIGITS = 12  # enough that a few thousand texts do not share a key by chance


def lesson_keys(texts: Iterable[str]) -> list[str]:
    """The keys of these texts in the config, sorted, each once."""
    return sorted({_key(text) for text in texts})


def taught_among(model: HookedModel, texts: Iterable[str]) -> list[bool]:
    """Whether each text was a lesson of the model; False if the model names no lessons.

    Raises:
        ValueError: If the config's list of lessons is malformed.
    """
    keys = _lessons(model)
    return [_key(text) in keys for text in texts]


def _lessons(model: HookedModel) -> frozenset[str]:
    config: Any = model.original_model.config if is_bridge(model) else None
    keys: Any = getattr(config, LESSONS, None) or ()
    if not isinstance(keys, list | tuple) or not all(isinstance(key, str) for key in keys):
        raise ValueError(
            f"{LESSONS} in the config of {model_name(model)} is not a list of texts: remove it, or "
            "name the lessons as kb_lens.models.lessons does."
        )
    return frozenset(keys)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
