"""transformers' progress bars are off where kb_lens loads or writes a model.

Bars of "Loading weights" or shards, redrawn a hundred times, say nothing that a user waits for.
What is downloaded is shown by huggingface_hub, which is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

from tqdm.auto import tqdm

_lock = Lock()
_open: list[Any] = []
"""The hook that transformers had, once for each `no_library_bars` that is open."""


def _hidden(make: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A bar of transformers that shows nothing."""
    return make(*arguments, **options | {"disable": True})


@contextmanager
def no_library_bars() -> Iterator[None]:
    """Show none of transformers' bars inside the block. Any number of threads may be inside."""
    from transformers import modeling_gguf_pytorch_utils as gguf  # seconds to import
    from transformers.utils import logging

    module: Any = gguf  # which takes tqdm's bar without asking the hook
    with _lock:
        before = logging.set_tqdm_hook(_hidden)
        # only the first sees the caller's hook, the others would keep this one for good
        _open.append(_open[0] if _open else before)
        module.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        with _lock:
            before = _open.pop()
            if not _open:
                logging.set_tqdm_hook(before)
                module.tqdm = tqdm
