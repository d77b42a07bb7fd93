"""How options are read and shown: lists with commas. Imports nothing that takes time."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from cyclopts import App, ArgumentCollection


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


def default_text(value: Any) -> Any:
    """A default as a user would type it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
