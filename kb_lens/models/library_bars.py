"""Turn off transformers' progress bars while kb_lens loads or writes a model.

They are redrawn a hundred times and tell users nothing. Bars of downloads are those of
huggingface_hub and stay.
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
"""The hook that transformers had, once for each open `no_library_bars`."""


def _hidden(make: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """A hidden progress bar."""
    return make(*arguments, **options | {"disable": True})


@contextmanager
def no_library_bars() -> Iterator[None]:
    """Show none of transformers' bars inside the block. Any number of threads may be inside."""
    from transformers import modeling_gguf_pytorch_utils as gguf  # seconds to import
    from transformers.utils import logging

    module: Any = gguf  # it uses tqdm's bar without the hook
    with _lock:
        before = logging.set_tqdm_hook(_hidden)
        # only the first one sees the caller's hook; the others would restore this one
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
