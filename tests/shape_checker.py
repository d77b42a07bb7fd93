"""The type checker of the tests: beartype with the numeric tower (an int is a fine float).

What kb_lens says to a user about a value that is not allowed (``site="mid"``) is tested too, so a
`Literal` parameter takes any text here and the package's own check speaks.
"""

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its parameters' types and shapes checked at every call."""
    # jaxtyping has evaluated the annotations: they are types here, not strings.
    hints = {name: _opened(hint) for name, hint in function.__annotations__.items()}
    function.__annotations__ = hints
    return _beartype(function)


def _opened(hint: Any) -> Any:
    """The type of a `Literal`'s values in its stead."""
    if get_origin(hint) is Literal:
        return reduce(or_, map(type, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_opened(member) for member in get_args(hint))]  # noqa: UP007
    return hint
