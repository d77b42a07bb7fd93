"""Stop a function that takes too much time or memory; for running foreign code.

1. The function runs in its own thread.
2. The caller waits and watches the clock and the memory.
3. Past a limit the caller goes on at once, and an exception is raised in the thread to stop it. It
   takes effect between two steps of Python, so a single long step (a text times a billion) runs to
   its end.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, RLock, Thread
from time import monotonic
from typing import Generic, TypeVar

import psutil

# often enough that memory cannot double many times in between
_TICK = 0.05
"""Seconds between two looks at the clock and the memory."""
# memory of other threads must not count; most functions end before this
_PATIENCE = 0.5
"""Seconds before the first look at the memory."""
_ATTEMPTS = 10
"""How often a thread is told to stop: for half a second at most."""

Result = TypeVar("Result")


class LimitError(Exception):
    """A function was stopped; the text names the limit."""


class _Ended(BaseException):
    """Raised inside the thread; not an `Exception`, so that foreign code does not catch it."""


class _Call(Thread, Generic[Result]):
    """A thread that calls a function and can be stopped.

    Attributes:
        outcome: What the function returned or raised.
    """

    def __init__(self, function: Callable[[], Result]):
        super().__init__(daemon=True)
        self.outcome: Future[Result] = Future()
        self._function = function
        self._begun = Event()
        # held by the thread at its end: a later exception would be raised in Python's own code
        # for the end of a thread
        self._leaving = RLock()

    def run(self) -> None:
        self._leave_after(_ATTEMPTS)

    def _leave_after(self, n_raised: int) -> None:
        """Call the function and take the lock, though `_Ended` may be raised so many times.

        It may be raised at any line, also where another one is caught: each level catches one.
        """
        try:
            self._begun.set()  # from here on
            if n_raised:
                self._leave_after(n_raised - 1)
            else:
                self._call()
            self._leaving.acquire()
        except _Ended:
            self._leaving.acquire()

    def _call(self) -> None:
        try:
            self.outcome.set_result(self._function())
        except Exception as error:
            self.outcome.set_exception(error)

    def end(self) -> None:
        """Raise `_Ended` in the thread until it leaves: Python cannot stop a thread otherwise."""
        self._begun.wait()
        for _ in range(_ATTEMPTS):  # an exception during the deletion of an object is ignored
            if self.ident is None or not self._leaving.acquire(blocking=False):
                return
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self.ident), ctypes.py_object(_Ended)
            )
            self._leaving.release()
            self.join(_TICK)


def limited(function: Callable[[], Result], seconds: float, n_bytes: int) -> Result:
    """Call a function, and end it past a limit.

    Works in any thread and on any platform. Errors of the function are raised here.

    Args:
        function: A function without arguments.
        seconds: How long it may take.
        n_bytes: How much the process's memory may grow.

    Raises:
        LimitError: If the function was stopped.
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
    """Bytes of memory of the process; on Unix its peak.

    The peak is read without letting other threads run, since each step of the function may take
    more memory than the last.
    """
    if sys.platform == "win32":
        return psutil.Process().memory_info().rss
    import resource  # is not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
