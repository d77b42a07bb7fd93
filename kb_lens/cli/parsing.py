"""How options are read and shown: lists with commas, whole numbers. Imports nothing slow."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from cyclopts import App, ArgumentCollection

from kb_lens.rows import shown

# As many digits as Python reads without a limit of its own.
_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")


def split_commas(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read ``--lam 1,2 --lam 3`` as ``--lam 1 --lam 2 --lam 3``; cyclopts' ``config`` hook.

    Options of type ``tuple[..., ...]`` are lists to a user. Other lists, such as the folders of
    ``compare``, are not split: a path may have a comma.
    """
    del app, commands
    for argument in arguments:
        # An option that may be absent is a union with None.
        types = [get_origin(hint) for hint in (argument.hint, *get_args(argument.hint))]
        if tuple in types:
            argument.tokens = [
                token.evolve(value=value.strip())
                for token in argument.tokens
                for value in token.value.split(",")
            ]


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse ``--seed 1.5``, which cyclopts would round to 2; cyclopts' ``config`` hook.

    Raises:
        ValueError: Names the option.
    """
    del app, commands
    for argument in arguments:
        if int not in (argument.hint, *get_args(argument.hint)):
            continue
        for token in argument.tokens:
            if not _WHOLE.fullmatch(token.value.strip()):
                raise ValueError(
                    f"{argument.name} is {shown(token.value)}: allowed are whole numbers."
                )


def default_text(value: Any) -> Any:
    """A default as a user would type it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
