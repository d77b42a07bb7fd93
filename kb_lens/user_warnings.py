"""Warnings that point at the user's line; a line inside kb_lens would tell them nothing."""

from __future__ import annotations

import inspect
import os
import traceback
import warnings
from pathlib import Path

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


def warn_user(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as if from the line that called kb_lens.

    Args:
        text: The warning.
        category: Its class, by which it can be filtered.
    """
    # from here outwards; libraries' frames may lie between two of kb_lens
    frames = [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]
    ours = [n for n, frame in enumerate(frames) if frame.f_code.co_filename.startswith(_PACKAGE)]
    warnings.warn(text, category, stacklevel=ours[-1] + 2)
