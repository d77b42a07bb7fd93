"""What a GPU's memory does not hold is done again by half."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def tried(work: Callable[[], _Result], size: int, what: str) -> _Result | None:
    """What `work` gives, or None with a warning where memory ran out: then do it by half.

    The half is to be done after the call: while an error is handled, its traceback keeps all that
    the failed pass had allocated.

    Args:
        work: Does it.
        size: How much of `what` it does at once.
        what: Rows, tokens: the word behind the number.

    Raises:
        torch.OutOfMemoryError: If it cannot be halved.
    """
    try:
        return work()
    except torch.OutOfMemoryError:
        if size <= 1:
            raise
    torch.cuda.empty_cache()
    warnings.warn(f"memory ran out with {size} {what}: {size // 2} from here on.", stacklevel=3)
    return None
