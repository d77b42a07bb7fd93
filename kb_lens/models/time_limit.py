"""A function that runs somebody else's program is ended when it takes too long or too much.

1. The function is called in a thread of its own.
2. The caller waits, and looks at the clock and the memory.
3. Past a limit the caller goes on at once, and an exception is raised inside the thread: it would
   compute for ever otherwise. It takes effect between two steps of Python, so a single step (a
   text times a billion) is waited for.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from time import monotonic
from typing import TypeVar

import psutil

# often enough that memory does not double many times in between
_TICK = 0.05
"""Seconds between two looks at the clock and the memory."""
# other threads take memory too, and are not to be mistaken for the function: most end before this
_PATIENCE = 0.5
"""Seconds before the first look at the memory."""
_ATTEMPTS = 10
"""How often a thread is told to end: half a second at most."""

Result = TypeVar("Result")


class LimitError(Exception):
    """A function was ended; the text says which limit it passed."""


class _Ended(BaseException):
    """Raised inside the thread. What catches every `Exception` does not catch it."""


def limited(function: Callable[[], Result], seconds: float, n_bytes: int) -> Result:
    """Call a function, and end it past a limit.

    Works in any thread and on any platform. What the function raises is raised here.

    Args:
        function: Without arguments.
        seconds: How long it may take.
        n_bytes: By how much the process's memory may grow meanwhile.

    Raises:
        LimitError: If the function was ended.
    """
    outcome: Future[Result] = Future()
    thread = Thread(target=_settle, args=(outcome, function), daemon=True)
    deadline = monotonic() + seconds
    before = _memory()
    thread.start()
    thread.join(min(_PATIENCE, seconds))
    while thread.is_alive():
        if monotonic() >= deadline:
            _end(thread)
            raise LimitError(f"takes more than {seconds:g} s")
        if _memory() - before > n_bytes:
            _end(thread)
            raise LimitError(f"takes more than {n_bytes >> 20} MiB of memory")
        thread.join(_TICK)
    return outcome.result()


def _settle(outcome: Future[Result], function: Callable[[], Result]) -> None:
    """Put what a function returns or raises into `outcome`."""
    try:
        try:
            outcome.set_result(function())
        except Exception as error:
            outcome.set_exception(error)
    except _Ended:
        return  # the caller has gone on


def _memory() -> int:
    """Bytes that the process has, or on Unix had at its peak.

    The peak is read without letting other threads go on: between two steps of the function, which
    may be ever larger ones.
    """
    if sys.platform == "win32":
        return psutil.Process().memory_info().rss
    import resource  # is not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _end(thread: Thread) -> None:
    """Raise `_Ended` in a thread; Python has no other means to end one."""
    for _ in range(_ATTEMPTS):  # one that comes while an object is deleted is ignored
        if thread.ident is None or not thread.is_alive():
            return
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Ended)
        )
        thread.join(_TICK)
