"""The devices and the type of a model's weights, and whether they are packed (quantized)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch

from kb_lens.extras import install_command
from kb_lens.models.adapters import adapter_base
from kb_lens.models.devices import DeviceMap, MaxMemory
from kb_lens.models.foreign_code import never_asked
from kb_lens.models.sources import IN_THE_BOX
from kb_lens.rows import shown

Quantization = Literal["4bit", "8bit"]
"""Quantization by bitsandbytes when the model is loaded: NF4, or LLM.int8()."""
PLAIN_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The types of unpacked weights."""


@dataclass(frozen=True)
class Placement:
    """The devices and the type of one model's weights."""

    device: torch.device | None
    """The single device; None if a map decides."""
    dtype: torch.dtype
    """The type of the unpacked weights and of the activations."""
    device_map: DeviceMap | None = None
    """The device of each module."""
    max_memory: MaxMemory | None = None
    """How much a map may put on each device."""
    quantization: Quantization | None = None
    """How to pack weights that are not packed yet."""


def check_quantization(
    quantization: str | None, dtype: object = "auto", device_map: DeviceMap | None = None
) -> None:
    """Refuse an unknown quantization, or one that cannot work with these settings.

    Raises:
        ValueError: Says what is allowed, or what to install.
    """
    if quantization is None:
        return
    if quantization not in get_args(Quantization):
        allowed = " and ".join(map(repr, get_args(Quantization)))
        raise ValueError(f"quantization is {quantization!r}: allowed are {allowed}.")
    if dtype == torch.float64:
        raise ValueError("packed weights compute in float32, bfloat16 or float16, not in float64.")
    if isinstance(device_map, Mapping) and "disk" in device_map.values():
        raise ValueError("packed weights cannot be on disk: leave quantization or disk out.")
    if find_spec("bitsandbytes") is None:
        command = install_command("quantization")
        raise ValueError(f"packing weights needs bitsandbytes: `{command}`.")


def loading_arguments(placement: Placement, *, packed: bool) -> dict[str, Any]:
    """The arguments of ``from_pretrained``.

    Args:
        placement: The devices and the type.
        packed: Whether they are packed in the checkpoint already.
    """
    arguments: dict[str, Any] = {"dtype": placement.dtype}
    if placement.quantization is not None:
        arguments["quantization_config"] = _packing(placement.quantization, placement.dtype)
    if placement.device_map is not None:
        arguments["device_map"] = placement.device_map
        arguments["max_memory"] = placement.max_memory and dict(placement.max_memory)
    elif packed or placement.quantization is not None:
        arguments["device_map"] = {"": placement.device}  # packed weights cannot be moved later
    return arguments


def _packing(quantization: Quantization, dtype: torch.dtype) -> Any:
    """The config by which transformers packs weights, with activations of the given type."""
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # it would warn at every product that activations are rounded; docs/models.md says so
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def keep_packing(hf_model: Any) -> None:
    """Keep 4-bit weights as they were packed.

    On a CPU with bfloat16 units bitsandbytes packs them again at the first pass, with scales
    rounded to bfloat16. The numbers then differ from those of other processors, and their order is
    not the one that readers of the weights expect.

    Raises:
        ValueError: If rows are not a multiple of the blocks that share a scale. bitsandbytes 0.50
            unpacks such rows wrongly on a CPU with AVX-512, by a third of their size.
    """
    for name, module in hf_model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None or module.weight.device.type != "cpu":
            continue
        if state.shape[-1] % state.blocksize:
            raise ValueError(
                f"{name} has rows of {state.shape[-1]} weights, and bitsandbytes unpacks on a CPU "
                f"only multiples of {state.blocksize}: use quantization='8bit', none, or a GPU."
            )


def check_mergeable(placement: Placement) -> None:
    """Refuse to merge an adapter into weights that are packed, or on disk.

    Raises:
        ValueError: Says what to do.
    """
    if placement.quantization is not None:
        raise ValueError(
            "merging an adapter into packed weights would round them twice: load it "
            "without quantization."
        )
    if isinstance(placement.device_map, Mapping) and "disk" in placement.device_map.values():
        raise ValueError("an adapter cannot be merged into weights on disk: use another map.")


_PLACED: WeakKeyDictionary[Any, Placement] = WeakKeyDictionary()


def remember(model: Any, placement: Placement) -> None:
    """Remember how a model was placed, for `placed_like` and `is_spread`."""
    _PLACED[model] = placement


def placed_like(model: Any) -> dict[str, Any]:
    """The arguments of `load_model` that place another checkpoint like this model."""
    placement = _PLACED.get(model)
    if placement is None:  # a bridge that load_model did not make
        return {"device": model.cfg.device, "dtype": model.cfg.dtype}
    return {
        "device": placement.device,
        "dtype": placement.dtype,
        "device_map": placement.device_map,
        "max_memory": placement.max_memory,
        "quantization": placement.quantization,
    }


def is_spread(model: Any) -> bool:
    """Whether a model is on several devices, or on disk."""
    devices = {weight.device for weight in model.parameters()}
    return len(devices) > 1 or any(device.type == "meta" for device in devices)


def checked_dtype(dtype: object) -> torch.dtype | Literal["auto"]:
    """A type of weights or ``auto``, given as a type or by its name.

    Raises:
        ValueError: Says what is allowed.
    """
    named = {str(allowed).removeprefix("torch."): allowed for allowed in PLAIN_TYPES}
    if dtype == "auto":
        return "auto"
    found = named.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in PLAIN_TYPES:
        allowed = ", ".join(("auto", *(f"torch.{name}" for name in named)))
        raise ValueError(f"dtype is {shown(dtype)}: allowed are {allowed}.")
    return found


def on_gpu(device: torch.device | None, device_map: DeviceMap | None) -> bool:
    """Whether a model is to run on another device than the CPU."""
    if device_map is None:
        return device is not None and device.type != "cpu"
    if isinstance(device_map, str):
        return torch.cuda.is_available()
    return not {str(target) for target in device_map.values()} <= {"cpu", "disk"}


def stored_dtype(
    name: str | os.PathLike[str], revision: str | None = None, trust_remote_code: bool = False
) -> torch.dtype:
    """The type of the weights in a checkpoint, for loading it without a change of type.

    Args:
        name: What `load_model` takes; an adapter has the type of its base model.
        revision: A branch, tag or commit of a hub name.
        trust_remote_code: As in `load_model`.
    """
    from transformers import AutoConfig

    name = str(Path(name).expanduser())
    if name in IN_THE_BOX or name.lower().endswith(".gguf"):
        return torch.float32
    try:
        if base := adapter_base(name, revision):
            return stored_dtype(base, trust_remote_code=trust_remote_code)
        with never_asked():
            config = AutoConfig.from_pretrained(
                name, revision=revision, trust_remote_code=trust_remote_code
            )
    except Exception:  # transformers raises many kinds
        return torch.float32  # `load_model` will say what is wrong with the name
    stored = config.dtype or config.get_text_config().dtype
    return stored if stored in PLAIN_TYPES else torch.float32
