"""What a chat template says before it is run: the names that it reads, steps that are too large."""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod

from jinja2 import Environment, meta, nodes

from kb_lens.models.time_limit import LimitError

_LARGEST = 10_000_000
"""The largest number that a template may have. A text times a number is one step, however large,
and a step cannot be ended."""


@lru_cache(maxsize=64)  # few templates are in use at once, and parsing one takes longer than using
def variables_read(template: str) -> frozenset[str]:
    """The names that a template reads and does not make itself.

    Raises:
        LimitError: If a step of it may take for ever.
    """
    # Tags of transformers, which jinja does not know; they mark text and read nothing.
    template = re.sub(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}", "", template)
    syntax = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    _check_steps(syntax)  # not later: looking for variables computes what is constant
    return frozenset(meta.find_undeclared_variables(syntax))


def _check_steps(syntax: nodes.Template) -> None:
    """Refuse what may take for ever in a single step, which no limit of time can end."""
    products = [prod(_integers(node)) for node in syntax.find_all(nodes.Mul)]
    largest = max((abs(number) for number in [*_integers(syntax), *products]), default=0)
    if any(syntax.find_all(nodes.Pow)) or largest > _LARGEST:
        raise LimitError(f"computes with powers (**) or numbers beyond {_LARGEST:,}")


def _integers(syntax: nodes.Node) -> list[int]:
    """The whole numbers that are written there."""
    values = [node.value for node in syntax.find_all(nodes.Const)]
    return [value for value in values if isinstance(value, int)]
