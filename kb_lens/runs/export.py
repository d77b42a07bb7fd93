"""A model with scaled neurons in its weights, written as a checkpoint and pushed if wanted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kb_lens.arguments import check_seed
from kb_lens.interventions.checkpoint import push
from kb_lens.interventions.export_folder import check_target
from kb_lens.interventions.folding import export
from kb_lens.interventions.scaling import check_factor
from kb_lens.models.hub import check_push
from kb_lens.runs.execution import Execution
from kb_lens.runs.given_neurons import given_neurons
from kb_lens.runs.record import RECORD, RunLog
from kb_lens.runs.settings import DType, ModelChoice


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ModelChoice):
    """What the checkpoint depends on."""

    neurons: Path
    """The neurons.json to fold into the weights, or names: L26.N1371,L28.N1095."""
    lam: float
    """The factor."""
    push_to: Annotated[str | None, Parameter("--push")] = None
    """Upload to this hub repository; a new one is private."""
    seed: int = 0
    """Kept in run.json; nothing here is random."""
    dtype: DType | None = None
    """Type of the weights; default the checkpoint's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        # Of the types that weights may have here none holds more than float32.
        check_factor(self.lam, self.dtype or "float32")
        if self.quantization is not None:
            raise ValueError("packed weights cannot be exported: leave --quantization out.")


@dataclass(frozen=True, kw_only=True)
class ExportExecution(Execution):
    """How the checkpoint is written."""

    overwrite: bool = False
    """Replace an earlier export in --out."""


def export_model(
    out: str | os.PathLike[str],
    settings: ExportSettings,
    execution: ExportExecution,
    tell: Callable[[str], object],
) -> None:
    """Write a checkpoint that has the scaled neurons in its weights and needs no kb_lens.

    Args:
        out: The folder; there must be none unless it is to be replaced.
        settings: Model, neurons, factor.
        execution: Device.
        tell: Called with lines about what was written.

    Raises:
        ValueError: As `kb_lens.interventions.folding.export`, or if the hub does not take it.
    """
    log = RunLog(Path(out), "export", settings, execution)
    check_target(out, execution.overwrite)
    _check_can_be_made(Path(out))
    if settings.push_to is not None:
        check_push(settings.push_to, "--push")
    neurons = given_neurons(settings.neurons)
    with log.stage("load the model"):
        model = settings.load(execution)
    log.note(model)
    # The folder is put in its place whole, run.json with it.
    also = {RECORD: log.text()}
    difference = export(
        model, neurons, out, lam=settings.lam, overwrite=execution.overwrite, also=also
    )
    tell(
        f"{len(neurons)} neurons times {settings.lam:g} are in the weights in {out}. Largest "
        f"difference of logits from the hooked model on a short prompt: {difference:.2g}"
    )
    if settings.push_to is not None:
        tell(f"Pushed to {push(out, settings.push_to)}")


def _check_can_be_made(folder: Path) -> None:
    """Raise `ValueError` if nothing can be written there, before minutes of work."""
    present = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    if not present.is_dir():
        raise ValueError(f"--out '{folder}': '{present}' is no folder. Choose another --out.")
    if not os.access(present, os.W_OK | os.X_OK):
        raise ValueError(
            f"--out '{folder}': nothing can be written in '{present}' (Read-only file system, or "
            "you may not): choose another --out."
        )
