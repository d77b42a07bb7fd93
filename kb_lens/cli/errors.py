"""Errors and warnings as one line: what was wrong, with what, and what to do next.

kb_lens's own messages have this form already; this module is for errors of the system and of
libraries. It imports nothing slow: the library that raised an error is imported already.
"""

from __future__ import annotations

import errno
import os
import traceback
import warnings

from cyclopts import CycloptsError

TRACEBACK_VARIABLE = "KB_LENS_TRACEBACK"
"""Environment variable: any value shows tracebacks."""

_ADVICE = {
    errno.ENOSPC: "The disk is full: make room, or choose another --out; finished work is kept.",
    errno.EDQUOT: "Your quota is used up: make room, or choose another --out.",
    errno.EROFS: "Nothing can be written there: choose another --out.",
    errno.EACCES: "You have no permission: choose another --out, or ask for the permission.",
    errno.EPERM: "You have no permission: choose another --out, or ask for the permission.",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n`.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
"""What to do about an error of the system."""
_MEMORY = (
    "out of memory, with the smallest possible batches: --dtype bfloat16 or --quantization "
    "4bit need less; or use a larger GPU, --device-map auto over several GPUs, or --device cpu."
)
_FULL_DISK = ("No space left", "disk quota", "os error 28")
"""Texts of libraries' errors about a full disk."""
_PYTHONS_OWN = warnings.formatwarning


def in_words(error: BaseException) -> str:
    """An error as one line without a traceback."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return _MEMORY
    if isinstance(error, CycloptsError):
        return text
    # before ValueError: some errors of the system are ValueErrors too
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return f"{text.rstrip('.')}. {_ADVICE[error.errno]}"
    if any(words in text for words in _FULL_DISK):
        return f"{text.rstrip('.')}. {_ADVICE[errno.ENOSPC]}"
    if isinstance(error, (ValueError, OSError)):
        return text or _unforeseen(error)
    return _unforeseen(error)


def warning_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning for users: its text without the place in the code."""
    if not issubclass(category, UserWarning) or os.environ.get(TRACEBACK_VARIABLE):
        return _PYTHONS_OWN(message, category, filename, lineno, line)
    return f"WARNING: {' '.join(str(message).split())}\n"


def _unforeseen(error: BaseException) -> str:
    """An unexpected error: its kind, its place, and how to see more."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "kb_lens" in frame.filename
    ]
    place = ""
    if frames:
        file = frames[-1].filename.replace("\\", "/").rpartition("/kb_lens/")[2]
        place = f" in kb_lens/{file}, line {frames[-1].lineno}"
    notes = " ".join(getattr(error, "__notes__", ()))
    text = " ".join(str(error).split())[:300]
    return (
        f"{type(error).__name__}{place}: {text} {notes} This error was not expected: please report "
        f"it, with the output of the same command with {TRACEBACK_VARIABLE}=1 in front."
    )
