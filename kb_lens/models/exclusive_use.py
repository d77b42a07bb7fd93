"""One thread at a time changes or measures a model.

Hooks belong to a model, not to a thread: if two threads set some on the same model, the passes of
both would run through the hooks of both, and no number would tell. So whoever sets hooks or
measures holds the model meanwhile. A thread may hold it several times (blocks in blocks); a plain
forward pass asks nobody, so that text can be streamed from a thread of its own.
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
"""Raises `ValueError` if the hooks of a block are not what they were."""


@dataclass(eq=False)
class Use:
    """Who holds a model."""

    # The thread itself: its number may be given to another thread when it has ended.
    thread: threading.Thread
    """The only one that may hold the model again."""
    depth: int = 0
    """How often it holds the model."""
    checks: list[Check] = field(default_factory=list[Check])
    """Of the blocks that are open."""

    @contextmanager
    def checked_by(self, check: Check) -> Iterator[None]:
        """Inside, whoever comes to hold the model hears first of hooks that are gone."""
        self.checks.append(check)
        try:
            yield
        finally:
            self.checks.remove(check)


_USES: WeakKeyDictionary[Any, Use] = WeakKeyDictionary()
# The garbage collector may end a block that was forgotten, in whatever line a thread is: in one
# that has the lock, too.
_LOCK = threading.RLock()


@contextmanager
def exclusive_use(model: object) -> Iterator[Use]:
    """Hold a model inside a ``with`` block.

    Raises:
        ValueError: If it is no model, another thread holds it, or the hooks of a block that is
            open on it were taken away.
    """
    root = root_of(model)
    use = _taken(root, model_name(cast(HookedModel, model)))
    if is_bridge(model):
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
    """The model as it is, and no other thread may change it meanwhile, see `exclusive_use`."""
    with exclusive_use(model):
        yield model


def root_of(model: object) -> Any:
    """The module that runs: two bridges may share one, and its hooks with it.

    Raises:
        ValueError: If it is no model with hooks.
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
                "measures it, and hooks are shared by all threads. Wait for that thread, or load "
                "the model once for each."
            )
        use.depth += 1
    return use
