"""GGUF files become checkpoint folders, once, in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Where converted models are kept: ``KB_LENS_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("KB_LENS_CACHE") or user_cache_path("kb_lens"))


def converted(gguf: Path) -> Path:
    """A float32 checkpoint folder of the GGUF file, made at the first call (about 20 s)."""
    if not gguf.is_file():
        raise ValueError(f"no such GGUF file: '{gguf}'.")
    folder = cache_folder() / "models" / f"{gguf.stem}-{_file_key(gguf)}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="converting-", dir=folder.parent))
    try:
        _convert(gguf, unfinished)
        if not folder.exists():  # another process may have been faster
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # seconds to import
    from transformers.utils.quantization_config import GgufConfig

    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # the reader raises many kinds for a damaged file
        raise ValueError(f"cannot read the GGUF file '{gguf}': {first_line(error)}") from error
    fill_architectures(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _file_key(path: Path) -> str:
    """Twelve hex digits of the file's size, time and first megabyte."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))  # its header; the weights behind it may be gigabytes
    return digest.hexdigest()[:12]


def fill_architectures(hf_model: Any) -> None:
    """The bridge reads ``config.architectures``, which a GGUF file does not carry."""
    if not hf_model.config.architectures:
        hf_model.config.architectures = [type(hf_model).__name__]


def first_line(error: Exception) -> str:
    """What an error says, cut to one line; its type's name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
