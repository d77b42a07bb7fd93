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


_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Where transformers looks for the weights, in this order."""
_SHARDS = {
    "model-*-of-*.safetensors": "model.safetensors.index.json",
    "pytorch_model-*-of-*.bin": "pytorch_model.bin.index.json",
}
"""The shards of the weights -> the file that lists them."""


def check_files(folder: Path) -> None:
    """Refuse a checkpoint folder that lacks a file, has damaged JSON or Git LFS pointers.

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
    if not (folder / "adapter_config.json").is_file():
        _check_shards(folder)


def _check_shards(folder: Path) -> None:
    """Refuse a folder that lacks shards of its weights, or the index of its shards."""
    # transformers reads the first of these that is there, and no others
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        for shards, index in _SHARDS.items():
            if any(folder.glob(shards)):
                raise ValueError(
                    f"'{folder}' has shards ({shards}) without {index}. Download that file again, "
                    "or copy it there."
                )
    if weights is None or weights.suffix != ".json":
        return
    tensors = read_object(weights).get("weight_map")
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors.values()):
        raise ValueError(f"'{weights}' has no weight_map of file names. Download it again.")
    listed = set(tensors.values())
    if missing := [name for name in listed if not (folder / name).is_file()]:
        raise ValueError(
            f"{len(missing)} of {len(listed)} files that '{weights}' lists "
            f"{'is' if len(missing) == 1 else 'are'} missing: {_names(missing)}. Download again "
            "what is missing, or copy it there."
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
