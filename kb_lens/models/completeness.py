"""Check that a checkpoint is complete: its files, and a stored value for every weight."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_POINTER = b"version https://git-lfs"
"""The beginning of the text file that Git leaves if Git LFS did not download the real file."""
_CONSTANTS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.inv_freq$|position_ids$")
"""Tensors that earlier versions of transformers saved and models now compute: causal masks, their
smallest number, rotary frequencies, positions."""
_SHOWN = 3  # names in a message: enough to recognise the fault, and the message stays one line


_OBJECTS = (
    *("config.json", "adapter_config.json", "generation_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
)
"""The small files that are checked to hold an object; tokenizer.json may have millions of lines."""


def check_files(folder: Path) -> None:
    """Refuse a checkpoint folder without a config, with damaged JSON or with Git LFS pointers.

    Raises:
        ValueError: Names the file.
    """
    for path in sorted(folder.iterdir()):
        check_pointer(path)
        if path.name in _OBJECTS:
            read_object(path)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(
            f"'{folder}' has no config.json. Give the folder of a checkpoint, as transformers' "
            "save_pretrained writes it."
        )


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        ValueError: If the file holds anything else; names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"'{path}' is not JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"'{path}' holds a {kind}, not an object {{...}}. Download it again.")
    return content


def check_pointer(path: Path) -> None:
    """Refuse a Git LFS pointer.

    Raises:
        ValueError: If the file is one.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(
                f"'{path}' is a Git LFS pointer, not the file itself. Run `git lfs pull` there."
            )


def check_weights(model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not those of its checkpoint.

    transformers fills missing weights with random numbers and drops those that it does not use. Its
    report already leaves out harmless ones: tied weights, and those that the model's class allows
    to be left over.

    Args:
        model: A transformers model.
        report: What ``from_pretrained(output_loading_info=True)`` says about it.

    Raises:
        ValueError: Names tensors that are missing, of another size, or left over.
    """
    left_over = [key for key in report["unexpected_keys"] if not _is_constant(key, model)]
    sizes = [
        f"{key} {list(stored)} for {list(wanted)}"
        for key, stored, wanted in report["mismatched_keys"]
    ]
    faults = {
        "missing": report["missing_keys"],
        "of another size": sizes,
        "left over": left_over,
        "in error": report["error_msgs"],
    }
    told = "; ".join(f"{fault}: {_names(names)}" for fault, names in faults.items() if names)
    if told:
        raise ValueError(
            f"its weights are not those of a {type(model).__name__}. {told}. Missing weights would "
            "be random and left-over weights would be dropped: give a complete causal language "
            "model with its own config.json."
        )


def _is_constant(key: str, model: Any) -> bool:
    """Whether a tensor was not learned. A learned bias has a weight beside it, a mask has none."""
    weight = f"{key.removesuffix('bias')}weight"
    beside = any(f".{name}".endswith(f".{weight}") for name, _ in model.named_parameters())
    return bool(_CONSTANTS.search(key)) and not beside


def _names(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    rest = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
