"""The devices of a job's model."""

# No `from __future__ import annotations`: as in `kb_lens.runs.settings`.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from kb_lens.models.devices import DeviceMap, check_device, check_device_map
from kb_lens.passes.matrix_products import Tuning
from kb_lens.runs.asking import Checked


@dataclass(frozen=True, kw_only=True)
class Devices(Checked):
    """The devices of the model."""

    device: str | None = None
    """cpu, cuda, cuda:1 ...; default CUDA if there is a GPU."""
    device_map: str | None = None
    """Spread over several devices: auto, balanced, sequential ..., or a JSON table of modules."""
    max_memory: str | None = None
    """Most memory that a device map uses per device: 0=20GiB,1=20GiB."""
    tuning: Tuning = "auto"
    """On a CPU: measure once which of two matrix libraries is faster and use it; off: do not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning not in get_args(Tuning):
            allowed = ", ".join(get_args(Tuning))
            raise ValueError(f"--tuning is {self.tuning!r}: allowed are {allowed}.")
        arguments = self.arguments()
        if self.is_here():
            if self.device is not None:
                check_device(self.device)
            check_device_map(**arguments)

    def is_here(self) -> bool:
        """Whether they are this process's own devices, so that they can be checked now."""
        return True

    def arguments(self) -> dict[str, Any]:
        """The arguments of `load_model`.

        Raises:
            ValueError: If the table is not JSON, or an entry of `max_memory` has no ``=``.
        """
        return {
            "device": self.device,
            "device_map": _table_or_name(self.device_map),
            "max_memory": None if self.max_memory is None else _memory(self.max_memory),
        }


def as_option(name: str, value: Any) -> Any:
    """A table of `load_model` as the command line and ``run.json`` write it; else the value."""
    if not isinstance(value, Mapping):
        return value
    if name == "max_memory":
        return ",".join(f"{place}={most}" for place, most in value.items())
    return json.dumps(dict(value))


def _table_or_name(text: str | None) -> DeviceMap | None:
    """A device map of the command line."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"device_map is {text!r}, which is not JSON: {error}.") from error


def _memory(text: str) -> dict[int | str, int | str]:
    """``0=20GiB,cpu=60GiB`` as accelerate's table, in which a GPU is a number."""
    limits: dict[int | str, int | str] = {}
    for entry in text.split(","):
        place, _, most = (part.strip() for part in entry.partition("="))
        if not place or not most:
            raise ValueError(
                f"max_memory has {entry!r}: allowed are a GPU's number or cpu, = and a size, such "
                "as 0=20GiB,1=20GiB."
            )
        limits[int(place) if place.isdecimal() else place] = int(most) if most.isdecimal() else most
    return limits
