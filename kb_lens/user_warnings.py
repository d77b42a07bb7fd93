"""Warnings that point at the user's line, each once in work that would repeat it."""

from __future__ import annotations

import inspect
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_shown: ContextVar[set[str] | None] = ContextVar("shown", default=None)
_PACKAGE = f"{Path(__file__).parent}{os.sep}"


@contextmanager
def each_once() -> Iterator[None]:
    """Inside, or in a function that this decorates, `warn_user` shows each text once.

    Python's own filter forgets what was shown whenever a library changes filters for a moment.
    """
    outer = _shown.get()
    token = _shown.set(set() if outer is None else outer)
    try:
        yield
    finally:
        _shown.reset(token)


def warn_user(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as if from the line that called kb_lens.

    Args:
        text: The warning.
        category: Its class, by which it can be filtered.
    """
    shown = _shown.get()
    if shown is not None:
        if text in shown:
            return
        shown.add(text)
    # from here outwards; libraries' frames may lie between two of kb_lens
    frames = [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]
    ours = [n for n, frame in enumerate(frames) if frame.f_code.co_filename.startswith(_PACKAGE)]
    warnings.warn(text, category, stacklevel=ours[-1] + 2)
