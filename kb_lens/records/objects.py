"""Read JSON that kb_lens wrote as a value of a type: pydantic checks it field by field.

A bad file raises one line that names the file, the place in it, and what is there.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from kb_lens.files import write_text
from kb_lens.rows import check_is_file

T = TypeVar("T")

_SHOWN_LENGTH = 60
"""Characters of a value in an error message."""


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = None) -> None:
    """Write JSON text; folders are made."""
    write_text(path, json_text(content, indent=indent) + "\n")


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON text; numpy's numbers are numbers."""
    return json.dumps(content, indent=indent, default=np.generic.item)


def read_json(
    path: str | os.PathLike[str],
    kind: type[T] | Any,
    *,
    file_format: str | None = None,
    what: str = "results",
    finite: bool = True,
) -> T:
    """Read a JSON file as a value of a type, such as a dataclass or ``list[dict[str, str]]``.

    Args:
        path: The file.
        kind: The type. Nothing is converted: 1.0 is not a whole number, and true not a number.
        file_format: What the file's key ``format`` must say; it is not a field of `kind`.
        what: The kind of file, for the message; default by its format.
        finite: Whether Infinity and NaN are refused.

    Raises:
        ValueError: Names the file, the place in it, what is there and what is needed.
    """
    check_there(path, file_format or what)
    content = parsed(Path(path).read_bytes(), f"'{path}'", finite)
    if file_format is not None:
        content = _without_format(content, file_format, f"'{path}'")
    return validated(content, kind, f"'{path}'")


def check_there(path: str | os.PathLike[str], file_format: str) -> None:
    """Raise `ValueError` unless there is a file."""
    check_is_file(path, f"{named(file_format).removeprefix('kb_lens ')} file")


def parsed(content: bytes, where: str, finite: bool = False) -> Any:
    """JSON text as data; a ValueError says where it stops being JSON."""
    try:
        return from_json(content, allow_inf_nan=not finite)
    except ValueError as error:
        raise ValueError(f"{where} is not complete JSON: {error}.") from error


def _without_format(content: Any, file_format: str, where: str) -> dict[str, Any]:
    written = content.get("format") if isinstance(content, dict) else None
    if written != file_format:
        raise ValueError(
            f"{where} is not a file of {named(file_format)}: its format is {short(written)}."
        )
    return {name: value for name, value in content.items() if name != "format"}


def validated(content: Any, kind: Any, where: str) -> Any:
    """JSON data as a value of a type.

    Args:
        content: What `parsed` returned.
        kind: The type.
        where: The file, for the message.

    Raises:
        ValueError: Names the place in the data, what is there and what is needed.
    """
    # As JSON text again: in this mode pydantic accepts a list as a tuple.
    text = to_json(content, inf_nan_mode="constants")
    try:
        return _adapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(f"{where}{_problem(error)}.") from error


def _problem(error: ValidationError) -> str:
    """Where the first fault is, what should be there, and what is."""
    first = error.errors()[0]
    keys = (
        f"[{key}]" if isinstance(key, int) else f".{key[:_SHOWN_LENGTH]}" for key in first["loc"]
    )
    location = "".join(keys).lstrip(".")
    needed = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    # for these two the input is everything around the fault
    shown = first["type"] not in ("value_error", "missing")
    got = f", got {short(first['input'])}" if shown else ""
    return f"{location and ', '}{location}: {needed.rstrip('.')}{got}"


@lru_cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def named(file_format: str) -> str:
    """The format without its number: ``kb_lens neurons``."""
    return file_format.rstrip("0123456789 ")


def short(value: Any) -> str:
    """A value for a message, cut off if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]} ..."
