"""Run a checkpoint's code only if the caller says so, and never ask on the terminal.

transformers asks on the terminal if an Auto class gets no ``trust_remote_code``, and runs the code
on "y". kb_lens always passes it. But a checkpoint can make transformers itself call an Auto class
without it, by naming one as its tokenizer's class or as a backbone in its config.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_TRUST = "trust_remote_code=True"
"""The option that every refusal of transformers names."""
NEEDS_CODE = (
    "it needs Python code of its own, which does not run unless you say so. Read that code; if you "
    f"trust it, give --trust-remote-code ({_TRUST} in Python)."
)
"""The message for a checkpoint that cannot be loaded without its code."""
_lock = Lock()
_open: list[int] = []
"""The time limit of transformers for an answer in seconds, once for each open `never_asked`."""


@contextmanager
def never_asked() -> Iterator[None]:
    """Let transformers refuse instead of asking: it does so if its time limit is 0 seconds.

    Any number of threads may be inside.
    """
    from transformers import dynamic_module_utils as transformers  # seconds to import

    with _lock:
        # only the first one sees transformers' own limit; the others would restore 0
        _open.append(_open[0] if _open else transformers.TIME_OUT_REMOTE_CODE)
        transformers.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        with _lock:
            seconds = _open.pop()
            if not _open:
                transformers.TIME_OUT_REMOTE_CODE = seconds


def wants_code(error: BaseException) -> bool:
    """Whether transformers refused to run a checkpoint's code."""
    return _TRUST in str(error)
