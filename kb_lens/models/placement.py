"""Where a model's weights go, and in which type: a device or several, packed or not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from kb_lens.models.adapters import adapter_base
from kb_lens.models.foreign_code import never_asked
from kb_lens.models.sources import IN_THE_BOX
from kb_lens.rows import shown

DeviceMap = str | Mapping[str, int | str]
"""``auto``, ``balanced``, ``balanced_low_0`` or ``sequential``; or a module's name -> a GPU's
number, ``cpu`` or ``disk``."""
MaxMemory = Mapping[int | str, int | str]
"""A GPU's number or ``cpu`` -> the most bytes of weights there, as a number or as ``20GiB``."""
Quantization = Literal["4bit", "8bit"]
"""Packed by bitsandbytes as the model is loaded: NF4, or LLM.int8()."""
PLAIN_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The types of weights that are not packed."""
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_OFFLOADED = ("cpu", "disk")


@dataclass(frozen=True)
class Placement:
    """Where one model's weights go, and in which type."""

    device: torch.device | None
    """The one device; None where a map decides."""
    dtype: torch.dtype
    """Of the weights that are not packed, and of the activations."""
    device_map: DeviceMap | None = None
    """Which module goes where."""
    max_memory: MaxMemory | None = None
    """How much a map may put where."""
    quantization: Quantization | None = None
    """How weights are packed that are not yet."""


def check_device_map(
    device: str | torch.device | None, device_map: DeviceMap | None, max_memory: MaxMemory | None
) -> None:
    """Refuse a map that cannot be.

    Raises:
        ValueError: If a device is given beside it, it is unknown or names a device that is not
            here, it mixes GPUs with CPU or disk, or there is `max_memory` and no map.
    """
    if device_map is None:
        if max_memory is not None:
            raise ValueError("max_memory belongs to a device_map: give device_map='auto' with it.")
        return
    if device is not None:
        raise ValueError("device and device_map are both given: the map says where all goes.")
    if max_memory is not None:
        _check_memory(max_memory)
    if isinstance(device_map, str):
        if device_map not in _MAPS:
            raise ValueError(
                f"device_map is {device_map!r}: allowed are {', '.join(_MAPS)}, or a table of "
                "module names -> devices. For one device give device."
            )
        return
    if not device_map:
        raise ValueError("device_map is empty: allowed is a table of module names -> devices.")
    for name, target in device_map.items():
        try:
            _check_target(target)
        except ValueError as error:
            raise ValueError(
                f"device_map puts {shown(name)} where it cannot be: {error}"
            ) from error
    check_unmixed(device_map.values())


def _check_target(target: object) -> None:
    if isinstance(target, bool) or not isinstance(target, int | str | torch.device):
        raise ValueError(f"{shown(target)} is no device.")
    if target != "disk":
        check_device(f"cuda:{target}" if isinstance(target, int) else target)


def _check_memory(max_memory: MaxMemory) -> None:
    from accelerate.utils import convert_file_size_to_int

    for place, most in max_memory.items():
        try:
            convert_file_size_to_int(most)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"max_memory is {shown(most)} for {shown(place)}: allowed are sizes such as 20GiB."
            ) from error


def check_unmixed(targets: Iterable[object]) -> None:
    """Refuse GPUs beside CPU or disk: TransformerLens cannot compute so.

    Args:
        targets: Where a model's modules are to go, or went.

    Raises:
        ValueError: Says what to do.
    """
    places = {str(target) for target in targets}
    elsewhere = places & {*_OFFLOADED}
    if elsewhere and places - elsewhere:
        raise ValueError(
            f"its modules are spread over GPUs and {' and '.join(sorted(elsewhere))}, and "
            "TransformerLens cannot compute so. Use more or larger GPUs, quantization='4bit', or "
            "device='cpu'."
        )


def check_quantization(quantization: str | None) -> None:
    """Refuse what is no way to pack weights, or where its package is not installed.

    Raises:
        ValueError: Says what is allowed, or what to install.
    """
    if quantization is None:
        return
    if quantization not in get_args(Quantization):
        allowed = " and ".join(map(repr, get_args(Quantization)))
        raise ValueError(f"quantization is {quantization!r}: allowed are {allowed}.")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            "packing weights needs bitsandbytes: `pip install 'kb-lens[quantization]'`."
        )


def loading_arguments(placement: Placement, *, packed: bool) -> dict[str, Any]:
    """What ``from_pretrained`` is to be given.

    Args:
        placement: Where its weights are to go.
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
    """The config by which transformers packs weights; activations are of the type."""
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def check_mergeable(placement: Placement) -> None:
    """Refuse to merge an adapter into weights that are packed, or on disk.

    Raises:
        ValueError: Says what to do.
    """
    if placement.quantization is not None:
        raise ValueError(
            "an adapter cannot be merged into packed weights without rounding them twice: load it "
            "without quantization."
        )
    if isinstance(placement.device_map, Mapping) and "disk" in placement.device_map.values():
        raise ValueError("an adapter cannot be merged into weights on disk: use another map.")


def placed_like(model: Any) -> dict[str, Any]:
    """What `load_model` takes to put another checkpoint where a model is, in its form."""
    hf_model = getattr(model, "original_model", None)
    packed: Any = getattr(getattr(hf_model, "config", None), "quantization_config", None)
    forms = {"load_in_4bit": "4bit", "load_in_8bit": "8bit"}
    form = next((name for flag, name in forms.items() if getattr(packed, flag, False)), None)
    arguments = {"dtype": model.cfg.dtype, "quantization": form}
    if is_spread(model):
        return arguments | {"device_map": dict(cast(Any, hf_model).hf_device_map)}
    return arguments | {"device": model.cfg.device}


def is_spread(model: Any) -> bool:
    """Whether a model is on several devices, or on disk."""
    hf_model = getattr(model, "original_model", None)
    places = {str(place) for place in (getattr(hf_model, "hf_device_map", None) or {}).values()}
    return len(places) > 1 or "disk" in places


def on_gpu(device: torch.device | None, device_map: DeviceMap | None) -> bool:
    """Whether a model is to compute on something else than the CPU."""
    if device_map is None:
        return device is not None and device.type != "cpu"
    if isinstance(device_map, str):
        return torch.cuda.is_available()
    return not {str(target) for target in device_map.values()} <= {*_OFFLOADED}


def stored_dtype(
    name: str | os.PathLike[str], revision: str | None = None, trust_remote_code: bool = False
) -> torch.dtype:
    """The type of the weights in a checkpoint: what `load_model` should load it as to keep it.

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
        return torch.float32  # `load_model` says what is wrong with the name
    stored = config.dtype or config.get_text_config().dtype
    return stored if stored in PLAIN_TYPES else torch.float32


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, if it is there and computes; default CUDA if it is, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = check_device(device)
    if target.type == "mps":
        warnings.warn(
            "torch up to 2.13 may multiply matrices wrongly on Apple's MPS, without a word "
            "(github.com/pytorch/pytorch/issues/193487). Check a result with device='cpu'.",
            stacklevel=3,  # the line that calls load_model
        )
    return target


def check_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: If it is not there, or computes nothing; names those that are there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about names that it will drop
            target = torch.empty(0, device=device).device
        if target.type != "mps":
            float(torch.ones(1, device=target) * 2)  # "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        # torch's own reason may take a screen
        raise ValueError(
            f"no device {str(device)!r} here on which anything can be computed. Allowed are "
            f"{_devices()}."
        ) from error
    return target


def _devices() -> str:
    """The devices that are here, in words."""
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])])
