"""The devices of this machine, and maps that spread a model over them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from kb_lens.rows import shown
from kb_lens.user_warnings import warn_user

DeviceMap = str | Mapping[str, int | str]
"""``auto``, ``balanced``, ``balanced_low_0`` or ``sequential``; or a module's name -> a GPU's
number, ``cpu`` or ``disk``."""
MaxMemory = Mapping[int | str, int | str]
"""A GPU's number or ``cpu`` -> the most bytes of weights there, as a number or as ``20GiB``."""
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_OFFLOADED = ("cpu", "disk")


def check_device_map(
    device: str | torch.device | None, device_map: DeviceMap | None, max_memory: MaxMemory | None
) -> None:
    """Refuse a device map that cannot work.

    Raises:
        ValueError: If a device is given as well, the map is unknown, names a device that is not
            here or mixes GPUs with CPU or disk, or there is `max_memory` without a map.
    """
    if max_memory is not None:
        if not isinstance(device_map, str):
            raise ValueError("max_memory needs a device_map that is 'auto' or another name.")
        _check_memory(max_memory)
    if device_map is None:
        return
    if device is not None:
        raise ValueError("device and device_map are both given: give one of them.")
    if isinstance(device_map, str):
        if device_map not in _MAPS:
            raise ValueError(
                f"device_map is {device_map!r}: allowed are {', '.join(_MAPS)}, or a table of "
                "module names -> devices. For a single device use device."
            )
        return
    if not (isinstance(device_map, Mapping) and device_map):
        raise ValueError(
            f"device_map is {shown(device_map)}: allowed are {', '.join(_MAPS)}, or a table of "
            "module names -> devices."
        )
    for name, target in device_map.items():
        if not isinstance(name, str):
            raise ValueError(f"device_map names {shown(name)}: a module's name is text.")
        try:
            _check_target(target)
        except ValueError as error:
            raise ValueError(
                f"device_map puts {shown(name)} where it cannot be: {error}"
            ) from error
    check_unmixed(device_map.values())


def _check_target(target: object) -> None:
    if isinstance(target, bool) or not isinstance(target, int | str | torch.device):
        raise ValueError(f"{shown(target)} is not a device.")
    if target != "disk":
        check_device(f"cuda:{target}" if isinstance(target, int) else target)


def _check_memory(max_memory: MaxMemory) -> None:
    from accelerate.utils import convert_file_size_to_int

    if not (isinstance(max_memory, Mapping) and max_memory):
        raise ValueError(f"max_memory is {shown(max_memory)}: allowed is a table, {{0: '20GiB'}}.")
    for place, most in max_memory.items():
        try:
            _check_target(place)
            if isinstance(most, bool):
                raise ValueError("a boolean is not a size.")
            convert_file_size_to_int(most)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"max_memory is {shown(most)} for {shown(place)}: allowed are sizes such as 20GiB, "
                "for a GPU's number that is here or cpu."
            ) from error


def check_unmixed(targets: Iterable[object]) -> None:
    """Refuse GPUs together with CPU or disk: TransformerLens cannot compute across them.

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
            "TransformerLens cannot compute across them. Use more or larger GPUs, "
            "quantization='4bit', or device='cpu'."
        )


def check_names(hf_model: Any, device_map: DeviceMap | None) -> None:
    """Refuse a table with a name that is not a module: it would place nothing.

    Raises:
        ValueError: Names the first, and a module that is there.
    """
    if not isinstance(device_map, Mapping):
        return
    names = {name for name, _ in (*hf_model.named_modules(), *hf_model.named_parameters())}
    if unknown := [name for name in device_map if name not in names]:
        known = next(name for name in names if name.count(".") == 1)
        raise ValueError(
            f"device_map names {shown(unknown[0])}, which is not a module of "
            f"{type(hf_model).__name__}; {known!r} is one."
        )


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The given device, if it can compute; by default CUDA if there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = check_device(device)
    if target.type == "mps":
        warn_user(
            "torch up to 2.13 may silently multiply matrices wrongly on Apple's MPS "
            "(github.com/pytorch/pytorch/issues/193487). Check a result with device='cpu'.",
        )
    return target


def check_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        ValueError: If it is not there or cannot compute; names the devices that are there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about names that it will drop
            target = torch.empty(0, device=device).device
        if target.type != "mps":
            float(torch.ones(1, device=target) * 2)  # "meta" has no numbers
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        # torch's own message may be a screen long
        raise ValueError(
            f"there is no device {str(device)!r} here that can compute. Allowed are {_devices()}."
        ) from error
    return target


def _devices() -> str:
    """The devices that are here, in words."""
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])])
