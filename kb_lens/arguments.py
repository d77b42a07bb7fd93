"""Checks of single arguments of the public functions; a bad one raises one line that names it.

Without them many a wrong number would run and give results: True counts as 1, 1.5 neurons as more
than 1, and no comparison with NaN is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, cast

_SEEDS = 2**32
"""numpy's limit. torch takes larger seeds, so both can draw with any seed below it."""


def is_count(count: object, least: int = 1) -> bool:
    """Whether it is a whole number of at least `least`."""
    # Not a bool: a number from a configuration file may be `true`.
    return isinstance(count, Integral) and not isinstance(count, bool) and int(count) >= least


def check_count(name: str, count: object, least: int = 1) -> None:
    """Refuse anything but a whole number of at least `least`.

    Raises:
        ValueError: Names the argument.
    """
    if not is_count(count, least):
        raise ValueError(f"{name} is {count!r}: allowed are integers from {least}.")


def check_seed(seed: object) -> None:
    """Refuse what numpy or torch would not take as a seed.

    Raises:
        ValueError: Says what is allowed.
    """
    if not is_count(seed, 0) or is_count(seed, _SEEDS):
        raise ValueError(f"seed is {seed!r}: allowed are integers from 0 to {_SEEDS - 1}.")


def check_number(name: str, value: object, allowed: str = "any finite number") -> float:
    """A real number as a float. Bools, texts and tensors are refused.

    Raises:
        ValueError: Names the argument.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}: allowed is {allowed}.")
    return float(value)


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """A question with the allowed names that are spelled like `name`; empty if none is."""
    near = get_close_matches(name, [*allowed]) if isinstance(name, str) else []
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def nearest(name: str, allowed: Sequence[str]) -> str:
    """The three allowed names spelled most like `name`, and how many more there are."""
    near = get_close_matches(name, allowed, n=3, cutoff=0)
    rest = len(allowed) - len(near)
    return ", ".join(near) + (f" and {rest} more" if rest else "")


def all_texts(texts: object) -> bool:
    """Whether it is a tuple of one or more texts, none of them empty."""
    return (
        isinstance(texts, tuple)
        and bool(texts)
        and all(isinstance(text, str) and text for text in cast("tuple[object, ...]", texts))
    )


def check_texts(texts: object) -> None:
    """Refuse anything but lists of texts. A single text would be read as a list of its letters.

    Args:
        texts: Texts, source -> texts, or None for a default.

    Raises:
        ValueError: Says what is there.
    """
    if texts is None:
        return
    groups: list[Any] = list(cast(Any, texts).values()) if isinstance(texts, Mapping) else [texts]
    for group in groups:
        if isinstance(group, str) or not isinstance(group, Sequence):
            raise ValueError(f"texts is {_short(group)}: give a list of texts.")
        for text in cast(Sequence[object], group):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"texts has {_short(text)} in it: give texts that are not empty.")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."
