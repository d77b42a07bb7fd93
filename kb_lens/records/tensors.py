"""Tensors in safetensors files, with everything else as JSON in their header."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kb_lens.files import moved_whole
from kb_lens.records.objects import check_there, json_text, named, parsed, short, validated

T = TypeVar("T")
B = TypeVar("B")


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    file_format: str,
    header: Mapping[str, Any],
) -> None:
    """Write a safetensors file, with everything else as JSON in its header."""
    texts = {name: json_text(value) for name, value in header.items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        with moved_whole(path) as unfinished:
            save_file(contiguous, unfinished, {"format": file_format, **texts})
    except SafetensorError as error:  # a full disk, mostly
        raise OSError(f"cannot write '{path}': {error}") from error


def read_tensors(
    path: str | os.PathLike[str],
    names: Sequence[str],
    file_format: str,
    header: type[T],
    *,
    may_be_nan: Sequence[str] = (),
) -> tuple[dict[str, Tensor], T]:
    """Read a file of `write_tensors`.

    Args:
        path: The file.
        names: The tensors that it has to have.
        file_format: As it was written.
        header: The type of the rest.
        may_be_nan: The tensors that may hold NaN.

    Raises:
        ValueError: Names the file, and the tensor or the place in the header.
    """
    check_there(path, file_format)
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"'{path}' is not a complete safetensors file: {error}.") from error
    written = texts.pop("format", None)
    if written != file_format:
        raise ValueError(
            f"'{path}' is not a file of {named(file_format)}: its format is {short(written)}."
        )
    content = {name: parsed(text.encode(), f"'{path}', {name}") for name, text in texts.items()}
    _check_tensors(tensors, names, may_be_nan, f"'{path}'")
    return tensors, validated(content, header, f"'{path}'")


def build_from(
    build: Callable[[dict[str, Tensor], T], B],
    path: str | os.PathLike[str],
    names: Sequence[str],
    file_format: str,
    header: type[T],
    *,
    may_be_nan: Sequence[str] = (),
) -> B:
    """What `build` makes of a file's tensors and its header, see `read_tensors`.

    Raises:
        ValueError: As `read_tensors`, or what `build` refuses; names the file.
    """
    tensors, rest = read_tensors(path, names, file_format, header, may_be_nan=may_be_nan)
    try:
        return build(tensors, rest)
    except ValueError as error:  # they do not fit one another
        raise ValueError(f"'{path}': {error}") from error


def _check_tensors(
    tensors: Mapping[str, Tensor], names: Sequence[str], may_be_nan: Sequence[str], where: str
) -> None:
    if set(tensors) != set(names):
        raise ValueError(
            f"{where} has the tensors {', '.join(sorted(tensors)) or 'none'}; it needs "
            f"{', '.join(names)}."
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{where}, {name}: {tensor.dtype} is not a floating-point type.")
        if name not in may_be_nan and not bool(tensor.isfinite().all()):
            raise ValueError(f"{where}, {name}: it holds numbers that are not finite.")
