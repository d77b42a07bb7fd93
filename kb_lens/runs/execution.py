"""How a job is done, whatever comes out: who works on it, on which devices, in what portions."""

# No `from __future__ import annotations`: as in `kb_lens.runs.settings`.
import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from kb_lens.arguments import check_count, check_number
from kb_lens.attribution.settings import check_settings
from kb_lens.rows import shown
from kb_lens.runs.devices import Devices

EngineName = Literal["serial", "ray"]
_ADDRESS = re.compile(r"auto|(ray://)?(\[[0-9a-fA-F:.]+\]|[^\s\[\]:/]+):[0-9]{1,5}")
_GPUS = "auto, 0 to 1, or a whole number below 1000"


@dataclass(frozen=True, kw_only=True)
class Workers(Devices):
    """Who works on a job. Any number of processes with one command and folder share its work."""

    engine: EngineName = "serial"
    """This process, or Ray's workers, who all see the folder."""
    workers: int | None = None
    """Of Ray; default one per GPU, else 2."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs for each of Ray's workers; auto is 1 where there are any."""
    address: str | None = None
    """A running Ray cluster, HOST:PORT; default this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine not in get_args(EngineName):
            allowed = ", ".join(get_args(EngineName))
            raise ValueError(f"--engine is {self.engine!r}: allowed are {allowed}.")
        if self.workers is not None:
            check_count("--workers", self.workers)
        for name in ("workers", "gpus", "address"):
            if self.engine == "serial" and getattr(self, name) != getattr(Workers, name):
                raise ValueError(f"--{name} is of Ray's workers: give --engine ray too.")
        if self.address is not None and not _ADDRESS.fullmatch(self.address):
            raise ValueError(f"--address is {shown(self.address)}: allowed is HOST:PORT, or auto.")
        if self.gpus == "auto":
            return
        gpus = check_number("--gpus", self.gpus, _GPUS)
        # Ray shares one GPU among workers, and gives whole ones.
        if not (0 <= gpus <= 1 or (math.isfinite(gpus) and 1 < gpus == int(gpus) < 1000)):
            raise ValueError(f"--gpus is {self.gpus}: allowed is {_GPUS}.")

    def is_here(self) -> bool:
        """Whether the devices are this process's own: else they are looked at where they are."""
        return self.engine == "serial"


@dataclass(frozen=True, kw_only=True)
class Execution(Devices):
    """How a job is done, whatever comes out."""

    overwrite: bool = False
    """Replace a run with other arguments in --out."""
    progress: Annotated[bool, Parameter(negative="--no-progress")] = True
    """Show progress bars; in a log a line now and then."""


@dataclass(frozen=True, kw_only=True)
class AttributeExecution(Execution):
    """How a job is done that attributes."""

    batch_size: int | None = None
    """Most rows per pass when attributing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class SharedExecution(Workers, Execution):
    """How a job is done that several may work on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite and self.engine != "serial":
            raise ValueError(
                "--overwrite needs the folder for one process, and Ray's workers share it: choose "
                "another --out, or --engine serial."
            )


@dataclass(frozen=True, kw_only=True)
class IdentifyExecution(SharedExecution, AttributeExecution):
    """How neurons are found."""


@dataclass(frozen=True, kw_only=True)
class EvaluateExecution(SharedExecution):
    """How a job is done that evaluates."""

    batch_tokens: int | None = None
    """Most tokens per pass when evaluating."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens is not None:
            check_count("batch_tokens", self.batch_tokens)


@dataclass(frozen=True, kw_only=True)
class RunExecution(AttributeExecution, EvaluateExecution):
    """How a job is done that attributes and evaluates."""


@dataclass(frozen=True, kw_only=True)
class JobExecution(RunExecution):
    """How the main job is done."""

    cards: int = 3
    """Neurons with the largest scores that have a card in the report; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.cards) is not int or self.cards < 0:
            raise ValueError(f"cards is {self.cards!r}: allowed are whole numbers from 0.")
