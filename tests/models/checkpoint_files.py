"""Checkpoint folders on disk, whole ones and ones with a fault."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from tiny_models import tiny_tokenizer


def saved(folder: Path, model) -> Path:
    """The model and the tiny tokenizer as a checkpoint."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def change_weights(folder: Path, change) -> None:
    """Write the tensors anew: `change` takes and returns names -> tensors."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(folder: Path, **changes) -> None:
    """Write config.json with other values."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def point(path: Path) -> None:
    """Leave what Git leaves where Git LFS did not download the file."""
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n")
