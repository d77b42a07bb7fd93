"""How a job is computed, which does not change its results: workers, devices, batch sizes."""

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
    """The workers of a job. Processes with the same command and folder share its work."""

    engine: EngineName = "serial"
    """This process, or workers of Ray, which must all see the folder."""
    workers: int | None = None
    """Number of Ray workers; default one per GPU, else 2."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs for each Ray worker; auto is 1 if there are GPUs."""
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
                raise ValueError(f"--{name} is for Ray's workers: give --engine ray too.")
        if self.address is not None and not _ADDRESS.fullmatch(self.address):
            raise ValueError(f"--address is {shown(self.address)}: allowed is HOST:PORT, or auto.")
        if self.gpus == "auto":
            return
        gpus = check_number("--gpus", self.gpus, _GPUS)
        # Ray gives a worker a share of one GPU, or whole GPUs.
        if not (0 <= gpus <= 1 or (math.isfinite(gpus) and 1 < gpus == int(gpus) < 1000)):
            raise ValueError(f"--gpus is {self.gpus}: allowed is {_GPUS}.")

    def is_here(self) -> bool:
        """Whether the devices are this process's own; Ray's workers check theirs themselves."""
        return self.engine == "serial"


@dataclass(frozen=True, kw_only=True)
class Execution(Devices):
    """How a job is computed, which does not change its results."""

    overwrite: bool = False
    """Replace a run with other arguments in --out."""
    progress: Annotated[bool, Parameter(negative="--no-progress")] = True
    """Show progress bars; in a log file occasional lines."""


@dataclass(frozen=True, kw_only=True)
class AttributeExecution(Execution):
    """How a job that attributes is computed."""

    batch_size: int | None = None
    """Most rows per pass when attributing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(batch_size=self.batch_size)


@dataclass(frozen=True, kw_only=True)
class SharedExecution(Workers, Execution):
    """How a job with several workers is computed."""

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
    """How a job that evaluates is computed."""

    batch_tokens: int | None = None
    """Most tokens per pass when evaluating."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens is not None:
            check_count("batch_tokens", self.batch_tokens)


@dataclass(frozen=True, kw_only=True)
class RunExecution(AttributeExecution, EvaluateExecution):
    """How a job that attributes and evaluates is computed."""


@dataclass(frozen=True, kw_only=True)
class JobExecution(RunExecution):
    """How the main job is computed."""

    cards: int = 3
    """Number of neurons, by largest score, with a card in the report; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.cards) is not int or self.cards < 0:
            raise ValueError(f"cards is {self.cards!r}: allowed are whole numbers from 0.")
