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
from threading import RLock, Thread
from time import monotonic
from typing import Generic, TypeVar

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


class _Call(Thread, Generic[Result]):
    """A thread that calls a function and can be ended.

    Attributes:
        outcome: What the function returned or raised.
    """

    def __init__(self, function: Callable[[], Result]):
        super().__init__(daemon=True)
        self.outcome: Future[Result] = Future()
        self._function = function
        # kept by the thread at its end: an exception that came later would be raised in Python's
        # own code for the end of a thread
        self._leaving = RLock()

    def run(self) -> None:
        try:
            try:
                self.outcome.set_result(self._function())
            except Exception as error:
                self.outcome.set_exception(error)
            finally:
                self._leaving.acquire()  # one that came before is raised at this line
        except _Ended:
            self._leaving.acquire()  # once more, if it was raised before the lock was had

    def end(self) -> None:
        """Raise `_Ended` in the thread until it leaves; Python has no other means to end one."""
        for _ in range(_ATTEMPTS):  # one that comes while an object is deleted is ignored
            if self.ident is None or not self._leaving.acquire(blocking=False):
                return
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self.ident), ctypes.py_object(_Ended)
            )
            self._leaving.release()
            self.join(_TICK)


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
    thread = _Call(function)
    deadline = monotonic() + seconds
    before = _memory()
    thread.start()
    thread.join(min(_PATIENCE, seconds))
    while thread.is_alive():
        if monotonic() >= deadline:
            thread.end()
            raise LimitError(f"takes more than {seconds:g} s")
        if _memory() - before > n_bytes:
            thread.end()
            raise LimitError(f"takes more than {n_bytes >> 20} MiB of memory")
        thread.join(_TICK)
    return thread.outcome.result()


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
