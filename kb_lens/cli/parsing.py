"""Reading and showing options: lists with commas, whole numbers. Imports nothing slow."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from cyclopts import App, Argument, ArgumentCollection

from kb_lens.rows import shown

# Python reads longer numbers only up to a limit.
_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")


def split_commas(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read ``--lam 1,2 --lam 3`` as ``--lam 1 --lam 2 --lam 3``; cyclopts' ``config`` hook.

    Options of type ``tuple[..., ...]`` are lists to a user. Other lists, such as the folders of
    ``compare``, are not split: a path may have a comma.
    """
    del app, commands
    for argument in arguments:
        if is_list(argument):
            argument.tokens = [
                token.evolve(value=value.strip())
                for token in argument.tokens
                for value in token.value.split(",")
            ]


def is_list(option: Argument) -> bool:
    """Whether an option takes several values."""
    # An optional list is a union with None.
    return tuple in (get_origin(hint) for hint in (option.hint, *get_args(option.hint)))


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse ``--seed 1.5``, which cyclopts would round to 2; cyclopts' ``config`` hook.

    Raises:
        ValueError: If a number is not whole; the message names the option.
    """
    del app, commands
    for argument in arguments:
        if int not in (argument.hint, *get_args(argument.hint)):
            continue
        for token in argument.tokens:
            is_none = token.value == "" and token.implicit_value is None  # null in a file
            if not (is_none or _WHOLE.fullmatch(token.value.strip())):
                where = "" if token.source in ("", "cli") else f" in '{token.source}'"
                raise ValueError(
                    f"{argument.name} is {shown(token.value)}{where}: allowed are whole numbers."
                )


def default_text(value: Any) -> Any:
    """A default value as a user types it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
