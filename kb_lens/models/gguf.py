"""Convert a GGUF file to a checkpoint folder, once, in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from kb_lens.files import folder_moved_whole
from kb_lens.models.completeness import check_pointer, check_weights

# 2: every weight is checked; folders of version 1 may hold random weights
_VERSION = 2
"""The version of the conversion, part of the folder's name: another version converts again."""
_FACTORS = "rope_freqs.weight"
"""The divisors of the rotary frequencies, by llama.cpp's name (Llama 3)."""
_MAGIC = b"GGUF"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
BUGS = (LookupError, ArithmeticError, AttributeError, AssertionError, TypeError)
"""Errors whose text needs the name of their type."""
_SIZES = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
"""The sizes that a file must state; transformers would take those of Llama 7B for missing ones."""


def cache_folder() -> Path:
    """The folder of converted models: ``KB_LENS_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("KB_LENS_CACHE") or user_cache_path("kb_lens"))


def converted(gguf: Path) -> Path:
    """A float32 checkpoint folder of the GGUF file, made at the first call (about 20 s).

    Raises:
        ValueError: If the file is missing, damaged, one part of several, or has more or fewer
            weights than the model that it describes.
    """
    if not gguf.is_file():
        raise ValueError(f"no such GGUF file: '{gguf}'.")
    check_pointer(gguf)
    folder = cache_folder() / "models" / f"{gguf.stem}-v{_VERSION}-{_file_key(gguf)}"
    if (folder / "config.json").is_file():
        return folder
    with folder_moved_whole(folder) as unfinished:
        _convert(gguf, unfinished)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # seconds to import
    from transformers.utils.quantization_config import GgufConfig

    reader = _reader(gguf)
    _check_header(gguf, reader)
    model_class: Any = AutoModelForCausalLM
    options: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    try:
        model, report = model_class.from_pretrained(
            gguf.parent,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        check_weights(model, report | {"unexpected_keys": _left_over(reader, model)})
        _slow_rotations(reader, model.config)
    except Exception as error:  # transformers raises many kinds
        raise ValueError(f"cannot read the GGUF file '{gguf}': {first_line(error)}") from error
    fill_architectures(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _reader(gguf: Path) -> Any:
    """The file's table of contents.

    Raises:
        ValueError: If it cannot be read, or is one part of a split model.
    """
    from gguf import GGUFReader

    with gguf.open("rb") as file:
        if (magic := file.read(len(_MAGIC))) != _MAGIC:
            raise ValueError(
                f"'{gguf}' is not a GGUF file: it begins with {magic!r}, not {_MAGIC!r}."
            )
    try:
        reader = GGUFReader(gguf)
    except Exception as error:  # numpy's or gguf's error
        fault, remedy = "it is cut off or damaged", "Download it again."
        if "GGMLQuantizationType" in str(error):
            fault, remedy = "it has tensors of an unknown type", "Upgrade the package gguf."
        raise ValueError(
            f"cannot read the GGUF file '{gguf}', {fault} ({first_line(error)}). {remedy}"
        ) from error
    split = reader.get_field("split.count")
    numbered = re.search(r"-\d{5}-of-(\d{5})$", gguf.stem)
    n_parts = max(int(split.contents()) if split else 1, int(numbered[1]) if numbered else 1)
    if n_parts > 1:
        raise ValueError(
            f"'{gguf}' is one of {n_parts} parts of a model. Merge them: `llama-gguf-split --merge "
            "FIRST_PART MERGED.gguf`, and load the merged file."
        )
    return reader


def _check_header(gguf: Path, reader: Any) -> None:
    """Refuse at once a file that cannot be converted.

    Raises:
        ValueError: If the file has no tensors, lacks its model's sizes or tokenizer, or is
            big-endian.
    """
    if reader.endianess.name == "BIG":
        raise ValueError(
            f"'{gguf}' is big-endian, and transformers reads only little-endian files. Convert it: "
            "`gguf-convert-endian FILE little`."
        )
    if not reader.tensors:
        raise ValueError(f"'{gguf}' has no tensors: it is only a header or a vocabulary.")
    name = "general.architecture"
    architecture = reader.get_field(name)
    text = str(architecture.contents()) if architecture else ""
    sizes = [f"{text}.{size}" for size in _SIZES] if text and not text.startswith("mamba") else []
    wanted = [name, *sizes, "tokenizer.ggml.model", "tokenizer.ggml.tokens"]
    if missing := [key for key in wanted if reader.get_field(key) is None]:
        raise ValueError(
            f"the header of '{gguf}' has no {', '.join(missing)}: give a file of a complete model."
        )
    for key in sizes:
        _check_size(gguf, reader, key)


def _check_size(gguf: Path, reader: Any, key: str) -> None:
    """Refuse a size that the file's tensors cannot have.

    Raises:
        ValueError: Names the key and what it says.
    """
    value = reader.get_field(key).contents()
    largest = max((max(tensor.shape) for tensor in reader.tensors), default=0)
    limit = len(reader.tensors) if key.endswith("block_count") else int(largest)
    numbers = value if isinstance(value, list) else [value]  # a number a layer
    if not all(type(number) is int and 0 < number <= limit for number in numbers):
        raise ValueError(
            f"the header of '{gguf}' says {key} = {str(value)[:80]!r}: its "
            f"{len(reader.tensors)} tensors allow 1 to {limit}. Download it again."
        )


def _slow_rotations(reader: Any, config: Any) -> None:
    """Divide the rotary frequencies by the file's factors (Llama 3); transformers does not do it.

    Its "longrope" with the same list for short and long texts is exactly this division.

    Raises:
        ValueError: If the file scales positions in another way, which transformers ignores.
    """
    architecture = reader.get_field("general.architecture").contents()
    stretched = reader.get_field(f"{architecture}.rope.scaling.type")
    if stretched and stretched.contents() != "none":
        raise ValueError(f"its rope.scaling.type {stretched.contents()!r} cannot be converted.")
    for tensor in reader.tensors:
        if tensor.name == _FACTORS:
            factors = [float(factor) for factor in tensor.data]
            config.rope_parameters = {
                "rope_type": "longrope",
                "rope_theta": config.rope_parameters["rope_theta"],
                "short_factor": factors,
                "long_factor": factors,
                "factor": 1.0,
                "attention_factor": 1.0,
                "original_max_position_embeddings": config.max_position_embeddings,
            }


def _left_over(reader: Any, model: Any) -> list[str]:
    """The file's tensors that transformers has no place for and ignores."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    architecture = reader.get_field("general.architecture").contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    places = {_FACTORS, *get_gguf_hf_weights_map(model, processor)}
    return [tensor.name for tensor in reader.tensors if tensor.name not in places]


def _file_key(path: Path) -> str:
    """Twelve hex digits of the file's content: a copy of it is not converted again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def fill_architectures(hf_model: Any) -> None:
    """Set ``config.architectures``, which the bridge reads and a GGUF file lacks."""
    if not hf_model.config.architectures:
        hf_model.config.architectures = [type(hf_model).__name__]


def first_line(error: BaseException) -> str:
    """An error's first line; with the name of its type if the text is empty or says too little."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    # "Validation error for field 'hidden_size':" says nothing without the next line
    ended = (n for n, line in enumerate(lines, 1) if not line.endswith((":", ",")))
    n_lines = next(ended, len(lines))
    text = " ".join(lines[:n_lines])
    if text and not isinstance(error, BUGS):
        return text
    return ": ".join(part for part in (type(error).__name__, text) if part)
