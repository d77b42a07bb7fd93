"""How far a job is: a bar in a terminal or notebook, else a line now and then for the log.

Everything in kb_lens that takes time shows it by `progress_bar`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from time import monotonic
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as terminal_bar

# Often enough to see that a job is alive, and a log of one night stays readable.
_SECONDS_BETWEEN_LINES = 30.0
_MINUTE, _HOUR = 60, 3600
_TERMINAL_BAR: Any = terminal_bar  # generic for type checkers alone


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> Any:
    """A progress bar of tqdm.

    Outside a terminal and a notebook a bar would fill the log. There it is a line every 30 seconds
    and one at the end. ``TQDM_DISABLE=1`` hides both.

    Args:
        items: What is iterated over; None if the bar is moved by its `update`.
        shown: Whether to show it.
        options: tqdm's own, such as `total`, `desc` and `unit`.
    """
    make = tqdm if _is_watched() else _LogLines
    if not shown:  # tqdm reads TQDM_DISABLE only if `disable` is not given
        options["disable"] = True
    return make(items, **options)


def duration(seconds: float) -> str:
    """A time as a user would say it: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    hours, rest = divmod(minutes, _HOUR // _MINUTE)
    return f"{hours} h {rest} min" if hours else f"{minutes} min"


def _is_watched() -> bool:
    """Whether a bar can be redrawn: in a terminal, or in any kind of notebook."""
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())


class _LogLines(_TERMINAL_BAR):
    """Progress in whole lines, such as ``stereoset: 120/400, 35 s``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._began = monotonic()
        self._next_line = self._began + _SECONDS_BETWEEN_LINES
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm whenever a bar would be drawn."""
        del msg, pos
        # the end has a line of its own
        if monotonic() >= self._next_line and self.n != self.total:
            self._write_line(self.postfix)

    def close(self) -> None:
        """Write the last line, without what tqdm does to a bar here."""
        if not self.disable:
            self._write_line()
            self.leave = False
        super().close()

    def _write_line(self, current: str | None = None) -> None:
        self._next_line = monotonic() + _SECONDS_BETWEEN_LINES
        count = self.n if self.total is None else f"{self.n}/{self.total}"
        took = duration(monotonic() - self._began)
        words = (f"{self.desc}: {count}", took, (current or "").strip())
        self.fp.write(", ".join(filter(None, words)) + "\n")
        self.fp.flush()
