"""Let only one thread at a time change or measure a model.

Hooks belong to a model, not to a thread. If two threads set hooks on one model, the passes of both
would run through all of them, and no number would show it. So code that sets hooks or measures
holds the model. A thread may hold it several times (nested blocks). A plain forward pass does not
need to hold it, so text can be streamed from a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

from kb_lens.models.cache_name import hand_cache_on
from kb_lens.models.hooked import HookedModel, is_bridge, model_name

Check = Callable[[], None]
"""Raises `ValueError` if the hooks of a block have changed."""


@dataclass(eq=False)
class Use:
    """The thread that holds a model."""

    # The thread itself, since its number may be reused after it has ended.
    thread: threading.Thread
    """The only thread that may hold the model again."""
    depth: int = 0
    """How many times it holds the model."""
    checks: list[Check] = field(default_factory=list[Check])
    """The checks of the open blocks."""

    @contextmanager
    def checked_by(self, check: Check) -> Iterator[None]:
        """Inside, run the check before the model is held again: it finds hooks that are gone."""
        self.checks.append(check)
        try:
            yield
        finally:
            self.checks.remove(check)


_USES: WeakKeyDictionary[Any, Use] = WeakKeyDictionary()
# Reentrant: the garbage collector may end a forgotten block at any line, also while this thread
# has the lock.
_LOCK = threading.RLock()


@contextmanager
def exclusive_use(model: object) -> Iterator[Use]:
    """Hold a model inside a ``with`` block.

    Raises:
        ValueError: If it is not a model, another thread holds it, or the hooks of an open block
            were removed.
    """
    root = root_of(model)
    use = _taken(root, model_name(cast(HookedModel, model)))
    if is_bridge(model):  # perhaps not made by `load_model`, which does so too
        hand_cache_on(model)
    try:
        for check in use.checks:
            check()
        yield use
    finally:
        with _LOCK:
            use.depth -= 1
            if not use.depth:
                del _USES[root]


@contextmanager
def held(model: HookedModel) -> Iterator[HookedModel]:
    """Hold the model as it is: inside, no other thread may change it, see `exclusive_use`."""
    with exclusive_use(model):
        yield model


def root_of(model: object) -> Any:
    """The module that runs; two bridges may share it with its hooks.

    Raises:
        ValueError: If it is not a model with hooks.
    """
    if not isinstance(model, HookedModel):
        raise ValueError(
            f"the model is a {type(model).__name__}: give a TransformerBridge (kb.load_model) or a "
            "HookedTransformer."
        )
    return model.original_model if is_bridge(model) else model


def _taken(root: Any, name: str) -> Use:
    thread = threading.current_thread()
    with _LOCK:
        use = _USES.setdefault(root, Use(thread))
        if use.thread is not thread:
            raise ValueError(
                f"{name} is in use: another thread ({use.thread.name}) changes or "
                "measures it, and all threads share its hooks. Wait for that thread, or load "
                "the model once for each thread."
            )
        use.depth += 1
    return use
