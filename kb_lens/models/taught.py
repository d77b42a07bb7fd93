"""The taught model: the embedded one with the change by fine-tuning added to its weights.

The change is a file of the package (`kb_lens.models.low_rank`), made by
``examples/taught_adapter.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from kb_lens.files import folder_moved_whole
from kb_lens.models.gguf import cache_folder
from kb_lens.models.lessons import LESSONS
from kb_lens.models.low_rank import LowRankChange

TAUGHT_MODEL = "smollm2-135m-taught"
"""The name of the model that was taught the answers; it needs no download."""
CHANGE_FILE = Path(__file__).with_name(f"{TAUGHT_MODEL}.safetensors")
"""The change that turns the embedded model into it."""
_VERSION = 1
"""The version of these folders, part of their names: another version makes them again."""


def taught_checkpoint(base: Path) -> Path:
    """A float32 checkpoint folder of the taught model, made at the first call.

    Args:
        base: The checkpoint folder of the embedded model.

    Raises:
        ValueError: If the package's file is missing or damaged, or `base` is another model.
    """
    try:
        change = LowRankChange.load(CHANGE_FILE)
    except ValueError as error:
        raise ValueError(f"{error} It is part of kb-lens: install kb-lens again.") from error
    digest = hashlib.sha256(CHANGE_FILE.read_bytes() + base.name.encode()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{TAUGHT_MODEL}-v{_VERSION}-{digest}"
    if not (folder / "config.json").is_file():
        with folder_moved_whole(folder) as unfinished:
            write_changed(base, change, unfinished)
    return folder


def write_changed(base: Path, change: LowRankChange, folder: Path) -> None:
    """Write a checkpoint folder of the base model with the change, in float32.

    Raises:
        ValueError: If the change belongs to another model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # seconds to import

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    change.add_to(model)
    setattr(model.config, LESSONS, list(change.origin.lessons))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
