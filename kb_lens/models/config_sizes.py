"""Check that a checkpoint's files can hold the model that its config describes.

transformers builds the model that the config describes and then looks for its weights. With a wrong
number it runs out of memory or builds layers for hours.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kb_lens.models.completeness import read_object

_SIZES = frozenset(
    (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("intermediate_size", "head_dim", "vocab_size", "max_position_embeddings"),
        *("n_embd", "n_layer", "n_head", "n_positions", "n_ctx", "n_inner"),
        *("d_model", "n_layers", "n_heads", "num_layers", "num_heads", "ffn_dim"),
    )
)
"""The names of a model's sizes in config.json, in all families."""
_LARGEST = 1 << 40
"""The largest size allowed; some configs give a billion positions to mean no limit."""
_MOST_LAYERS = 10_000
"""The most layers if tensors cannot be counted; the deepest models have some hundred."""
_WEIGHTS_A_BYTE = 8
"""A packed weight has at least one bit."""
_QUICKLY_MADE = 50_000_000
"""So many weights are built in a second: below, the error comes from reading them and says more."""


def check_sizes(path: Path) -> None:
    """Refuse a config.json with a size that is 0, negative or impossibly large.

    Raises:
        ValueError: Names the file, the size and what it is.
    """
    config = read_object(path)
    text = config.get("text_config")
    for name, value in (config | (text if isinstance(text, dict) else {})).items():
        if name in _SIZES and type(value) is int and not 0 < value <= _LARGEST:
            raise ValueError(
                f"'{path}' says {name} = {str(value)[:40]}: a whole number above 0 is needed, as "
                "in the original."
            )


def check_room(config: Any, model_class: Any, folder: Path, options: dict[str, Any]) -> None:
    """Refuse a config of a model with more layers or weights than a folder's files can hold.

    Args:
        config: The checkpoint's config.
        model_class: The Auto class that reads it.
        folder: The checkpoint; anything but a folder is not checked.
        options: ``trust_remote_code`` and others.

    Raises:
        ValueError: Says how many there are, and how many there can be.
    """
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")] if folder.is_dir() else []
    if not files:
        return
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
    most = min(_MOST_LAYERS, _n_tensors(files))
    if n_layers > most:
        raise ValueError(
            f"its config.json says num_hidden_layers = {n_layers}; its files hold {most} at most."
        )
    with torch.device("meta"):
        outline = model_class.from_config(
            copy.deepcopy(config),
            attn_implementation="eager",
            trust_remote_code=options["trust_remote_code"],
        )
    n_weights = sum(parameter.numel() for parameter in outline.parameters())
    n_bytes = sum(file.stat().st_size for file in files)
    if n_weights > max(_WEIGHTS_A_BYTE * n_bytes, _QUICKLY_MADE):
        raise ValueError(
            f"its config.json describes {n_weights:,} weights, but its files have {n_bytes:,} "
            "bytes: one belongs to another model, or was not downloaded completely."
        )


def check_weight_files(folder: Path) -> None:
    """Refuse a folder with a file of weights that cannot be read.

    It takes as long as loading. Use it to say which file could not be loaded.

    Raises:
        ValueError: Names the file.
    """
    for file in sorted(folder.glob("*.safetensors")):
        try:
            _keys(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(_damaged(file, error)) from error
    for file in sorted(folder.glob("*.bin")):
        if not (folder / "config.json").is_file() or file.name == "training_args.bin":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, about how the file was pickled
                content = torch.load(file, map_location="meta", weights_only=True)
        except UnpicklingError as error:
            raise ValueError(
                f"'{file}' holds Python objects, which could run any code, or is damaged. Give a "
                "checkpoint with .safetensors, or download it again."
            ) from error
        except Exception as error:  # zip's, torch's or pickle's error
            raise ValueError(_damaged(file, error)) from error
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise ValueError(f"'{file}' holds a {kind}, not names and tensors of a model.")


def _damaged(file: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
    kind = f"a {file.suffix} file"
    return f"{kind} is cut off or damaged: '{file}' ({reason}). Download it again."


def _n_tensors(files: list[Path]) -> int:
    """The number of tensors in the files; an upper bound if a file cannot be read."""
    if any(file.suffix == ".bin" for file in files):
        return _MOST_LAYERS
    try:
        return sum(len(_keys(file)) for file in files)
    except SafetensorError:
        return _MOST_LAYERS  # reading the weights later says what is wrong


def _keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())
