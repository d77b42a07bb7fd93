"""Check a chat template before it runs: the names that it reads, and steps that are too large."""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod

from jinja2 import Environment, meta, nodes

from kb_lens.models.time_limit import LimitError

_LARGEST = 10_000_000
"""The largest number that a template may have. A text times a number is a single step, which cannot
be stopped, however large it is."""


@lru_cache(maxsize=64)  # few templates are in use at once, and parsing is slow
def variables_read(template: str) -> frozenset[str]:
    """The names that a template reads and does not set itself.

    Raises:
        LimitError: If one of its steps may take for ever.
    """
    # Tags of transformers that jinja does not know; they only mark text.
    template = re.sub(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}", "", template)
    syntax = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    _check_steps(syntax)  # first, since the search for variables evaluates constants
    return frozenset(meta.find_undeclared_variables(syntax))


def _check_steps(syntax: nodes.Template) -> None:
    """Refuse a single step that may take for ever, which a time limit cannot stop."""
    products = [prod(_integers(node)) for node in syntax.find_all(nodes.Mul)]
    largest = max((abs(number) for number in [*_integers(syntax), *products]), default=0)
    if any(syntax.find_all(nodes.Pow)) or largest > _LARGEST:
        raise LimitError(f"computes with powers (**) or numbers beyond {_LARGEST:,}")


def _integers(syntax: nodes.Node) -> list[int]:
    """The whole numbers that are written in it."""
    values = [node.value for node in syntax.find_all(nodes.Const)]
    return [value for value in values if isinstance(value, int)]
