"""Load a model: the embedded one, a folder, a hub name or a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from kb_lens.models.adapters import adapter_base, check_peft, merged
from kb_lens.models.bridge_check import causal_logits, check_logits, input_device, probe_tokens
from kb_lens.models.cache_name import hand_cache_on
from kb_lens.models.completeness import read_object
from kb_lens.models.devices import DeviceMap, MaxMemory, check_device_map, chosen_device
from kb_lens.models.evaluation_mode import float32_default
from kb_lens.models.foreign_code import NEEDS_CODE, never_asked, wants_code
from kb_lens.models.gguf import fill_architectures, first_line
from kb_lens.models.hooked import carry_fingerprint, fingerprint
from kb_lens.models.library_bars import no_library_bars
from kb_lens.models.placement import (
    Placement,
    Quantization,
    check_mergeable,
    check_quantization,
    checked_dtype,
    keep_packing,
    on_gpu,
    remember,
    stored_dtype,
)
from kb_lens.models.pretrained import read_model, text_model
from kb_lens.models.sources import EMBEDDED_MODEL, check_reachable, checkpoint_source

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")


def load_model(
    name: str | os.PathLike[str] = EMBEDDED_MODEL,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    device_map: DeviceMap | None = None,
    max_memory: MaxMemory | None = None,
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> TransformerBridge:
    """Load a causal language model, frozen and in evaluation mode.

    Nothing is installed, and no weight is random: incomplete checkpoints are refused, and so are
    models that TransformerLens does not compute as transformers does. Of a multimodal checkpoint
    the text model is loaded; an adapter (LoRA) is merged into its base model.

    Args:
        name: A hub name (``meta-llama/Llama-3.2-3B-Instruct``), a local checkpoint folder, a
            ``.gguf`` file, or ``smollm2-135m-instruct`` and ``smollm2-135m-taught``, which need no
            download; the second was taught the answers to 180 questions of the bank.
        device: The device to run on; default CUDA if there is one, else the CPU.
        dtype: Type of weights and activations; ``auto`` is the checkpoint's own on a GPU and
            float32 on a CPU. GGUF weights are de-quantized to it.
        device_map: For a model that is larger than one device: ``auto``, ``balanced``,
            ``balanced_low_0``, ``sequential``, or a table of module names -> a GPU's number,
            ``cpu`` or ``disk``. GPUs cannot be mixed with the CPU or disk.
        max_memory: Limit of a map on each device: a GPU's number or ``cpu`` -> ``20GiB``.
        quantization: ``4bit`` or ``8bit``: quantize the weights by bitsandbytes.
        trust_remote_code: Whether code that comes with a checkpoint may run.
        revision: A branch, tag or commit of a hub name, such as a step in training.

    Returns:
        A ``TransformerBridge`` whose parameters need no gradients.

    Raises:
        ValueError: If there is no such model, it is not a causal language model, its weights are
            incomplete, it does not fit the devices, or its bridge computes something else.
    """
    name = os.fspath(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    target: torch.device | None = None
    with float32_default(), never_asked(), no_library_bars():
        try:
            check_device_map(device, device_map, max_memory)
            dtype = checked_dtype(dtype)
            check_quantization(quantization, dtype, device_map)
            target = chosen_device(device) if device_map is None else None
            if dtype == "auto":
                on_cpu = not on_gpu(target, device_map)
                dtype = torch.float32 if on_cpu else stored_dtype(name, **options)
            placement = Placement(target, dtype, device_map, max_memory, quantization)
            source = checkpoint_source(name)
            _check_revision(source, revision)
            bridge = _load(name, source, placement, options)
            remember(bridge, placement)
            _carry_fingerprint(bridge, name, source, placement, options)
            return bridge
        except torch.OutOfMemoryError as error:
            raise ValueError(f"cannot load the model {name!r}: {_too_small(target)}") from error
        except Exception as error:  # both libraries raise many kinds of errors
            needs_code = wants_code(error) and not trust_remote_code
            reason = NEEDS_CODE if needs_code else first_line(error)
            raise ValueError(f"cannot load the model {name!r}: {reason}") from error


def _too_small(device: torch.device | None) -> str:
    """The message for a model that does not fit; torch's own is a screen long."""
    free = ""
    if device is not None and device.type == "cuda":
        free = ", where {:.1f} of {:.1f} GB were free".format(
            *(n / 1e9 for n in torch.cuda.mem_get_info(device))
        )
    return (
        f"it does not fit on {'the GPUs' if device is None else device}{free}. Use dtype=bfloat16, "
        "quantization='4bit', a device_map over several GPUs, or device='cpu'."
    )


def _check_revision(source: str, revision: str | None) -> None:
    if revision is not None and Path(source).is_dir():
        raise ValueError(
            f"it has no revision {revision!r}: only models from the hub have revisions."
        )


def _load(
    name: str, source: str, placement: Placement, options: dict[str, Any]
) -> TransformerBridge:
    """The steps of `load_model`; errors are raised as they come."""
    check_reachable(source, options["revision"])
    base = adapter_base(source, options["revision"])
    if base is None:
        hf_model = read_model(source, placement, options)
    else:
        check_peft(source, base)
        check_mergeable(placement)
        check_reachable(base)
        # the revision belongs to the adapter
        hf_model = read_model(base, placement, options | {"revision": None})
        hf_model = merged(hf_model, source, options["revision"]).eval()
    tokenizer = _tokenizer(source, base, options)
    tokens = probe_tokens(tokenizer, hf_model)
    text = text_model(hf_model)
    keep_packing(text)
    expected = causal_logits(hf_model, tokens)
    bridge = _bridge(name, text, tokenizer, placement)
    check_logits(bridge, expected, tokens)
    return bridge


def _carry_fingerprint(
    bridge: Any, name: str, source: str, placement: Placement, options: dict[str, Any]
) -> None:
    """Give a model that was rounded, packed or merged its stored checkpoint's fingerprint."""
    from transformers import AutoConfig

    base = adapter_base(source, options["revision"])
    if base is not None:
        options = options | {"revision": None}  # it belongs to the adapter
    config = AutoConfig.from_pretrained(base or source, **options)
    half = (torch.float16, torch.bfloat16)
    # Weights stored in half precision keep one of the two digests in every type; float32 keeps
    # none.
    rounded = bridge.cfg.dtype in half and config.get_text_config().dtype not in half
    packed = getattr(config, "quantization_config", None) is not None
    as_stored = packed or not rounded
    if base is None and placement.quantization is None and as_stored:
        return
    # On the CPU, in their own type, the weights stay in their file and take almost no memory.
    own = stored_dtype(base or source, **options)
    stored = _load(name, base or source, Placement(torch.device("cpu"), own), options)
    carry_fingerprint(bridge, fingerprint(stored), name if base else "")


def _tokenizer(source: str, base: str | None, options: dict[str, Any]) -> Any:
    """The tokenizer; an adapter may come without one and use its base model's.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except BaseException as error:  # tokenizers raises plain exceptions, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if base is not None:
            return _tokenizer(base, None, options | {"revision": None})
        if wants_code(error):
            raise
        raise ValueError(
            f"its tokenizer cannot be read: {_tokenizer_fault(source, error)}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        kind = type(tokenizer).__name__
        raise ValueError(f"its tokenizer_class makes a {kind}, which is not a tokenizer.")
    return tokenizer


def _tokenizer_fault(source: str, error: BaseException) -> str:
    """What is wrong with a tokenizer: its file, or what transformers says."""
    folder = Path(source)
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            read_object(path)
    except ValueError as damage:
        return str(damage)
    if folder.is_dir() and not any(chain.from_iterable(map(folder.glob, _TOKENIZER_FILES))):
        return "the folder has none. Save it there: `tokenizer.save_pretrained(folder)`."
    return first_line(error)


def _bridge(name: str, hf_model: Any, tokenizer: Any, placement: Placement) -> TransformerBridge:
    """The frozen bridge around a transformers model; it tokenises as the tokenizer does.

    Raises:
        ValueError: If TransformerLens has no bridge for it, or a special token has no embedding.
    """
    from transformer_lens.model_bridge import TransformerBridge  # seconds to import

    fill_architectures(hf_model)
    kind = type(hf_model).__name__
    try:
        with _tokenizer_kept(tokenizer):
            bridge = TransformerBridge.boot_transformers(  # pyright: ignore[reportAttributeAccessIssue]
                name,
                hf_model=hf_model,
                tokenizer=tokenizer,
                device=placement.device,
                dtype=placement.dtype,
            )
    except Exception as error:  # its adapters raise many kinds of errors
        reason = first_line(error).split(" Available architectures")[0]  # a hundred names follow
        if placement.quantization is not None:
            raise ValueError(f"a {kind} cannot be packed: {reason}") from error
        raise ValueError(f"TransformerLens cannot wrap a {kind}: {reason}") from error
    # else the bridge begins every text with a BOS that the model was not trained with
    bridge.cfg.default_prepend_bos = bridge.cfg.tokenizer_prepends_bos
    if placement.device_map is not None:  # the bridge mistakes weights on disk for a device
        bridge.cfg.device = str(input_device(hf_model))
    _check_special_tokens(bridge)
    hand_cache_on(bridge)  # for text that is written outside kb_lens, too
    bridge.eval()
    bridge.requires_grad_(False)
    return bridge


def _check_special_tokens(bridge: Any) -> None:
    """Refuse a token without an embedding: the bridge adds an EOS to a tokenizer that has none."""
    tokenizer = bridge.tokenizer
    largest = max(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    n_embeddings = len(bridge.original_model.get_input_embeddings().weight)
    if largest >= n_embeddings:
        raise ValueError(
            f"its tokenizer has no EOS token, and all {n_embeddings} rows of the embedding are "
            "in use: set eos_token in its tokenizer_config.json to one of its tokens."
        )


@contextmanager
def _tokenizer_kept(tokenizer: Any) -> Iterator[None]:
    """Keep the bridge from changing the tokenizer.

    It loads the tokenizer again with ``add_bos_token=True`` if that is not set, and then every text
    begins with a BOS that the model was not trained with.
    """
    before = dict(tokenizer.init_kwargs)
    tokenizer.init_kwargs["add_bos_token"] = True
    try:
        yield
    finally:
        tokenizer.init_kwargs.clear()
        tokenizer.init_kwargs.update(before)
