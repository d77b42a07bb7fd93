"""Code that comes with a checkpoint runs where the caller says so, and nobody is asked.

transformers asks on the terminal wherever an Auto class is not told ``trust_remote_code``, and runs
the code on "y". kb_lens tells it everywhere; but a checkpoint can make transformers itself call an
Auto class without it, by naming one as its tokenizer's class or a backbone in its config.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_TRUST = "trust_remote_code=True"
"""What every refusal of transformers names."""
NEEDS_CODE = (
    "it needs Python code of its own, which does not run unless you say so. Read that code; if you "
    f"trust it, give --trust-remote-code ({_TRUST} in Python)."
)
"""Why a checkpoint is refused that cannot be loaded without its code."""
_lock = Lock()
_open: list[int] = []
"""The seconds that transformers waited for an answer, once for each `never_asked` that is open."""


@contextmanager
def never_asked() -> Iterator[None]:
    """Let transformers refuse what it would ask about; it does so where it may wait 0 seconds.

    Any number of threads may be inside.
    """
    from transformers import dynamic_module_utils as transformers  # seconds to import

    with _lock:
        # only the first sees transformers' number, the others would keep 0 for good
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
    """Whether transformers refused something because it would have to run a checkpoint's code."""
    return _TRUST in str(error)
