"""Repeat work with half the size if a GPU's memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from kb_lens.user_warnings import warn_user

_Result = TypeVar("_Result")


def tried(work: Callable[[], _Result], size: int, what: str) -> _Result | None:
    """The result of `work`, or None with a warning if memory ran out: then halve the size.

    Do the smaller work after this call: while an error is handled, its traceback keeps the memory
    of the failed pass.

    Args:
        work: The work.
        size: How much of `what` it does at once.
        what: The unit of `size` in the message, such as rows or tokens.

    Raises:
        torch.OutOfMemoryError: If it cannot be halved.
    """
    try:
        return work()
    except torch.OutOfMemoryError:
        if size <= 1:
            raise
    torch.cuda.empty_cache()
    warn_user(f"memory ran out with {size} {what}: {size // 2} from here on.")
    return None
