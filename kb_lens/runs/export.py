"""Write a model with scaled neurons in its weights as a checkpoint; push it to the hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kb_lens.arguments import check_seed
from kb_lens.evaluation.results import conditions_of
from kb_lens.interventions.checkpoint import Measured, push
from kb_lens.interventions.export_folder import check_target
from kb_lens.interventions.folding import export
from kb_lens.interventions.scaling import check_factor
from kb_lens.models.hub import check_push
from kb_lens.neurons.sets import NeuronSet
from kb_lens.records.tables import Belongs
from kb_lens.runs.execution import Execution
from kb_lens.runs.folder import measured_in
from kb_lens.runs.given_neurons import GivenNeurons, given_neurons
from kb_lens.runs.record import RECORD, RunLog, belongs_to, load_record
from kb_lens.runs.settings import DType, ModelChoice


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ModelChoice):
    """What the checkpoint depends on."""

    neurons: Path
    """The neurons.json to fold into the weights, or names: L26.N1371,L28.N1095."""
    lam: float
    """The factor."""
    results: Path | None = None
    """Folder of run or evaluate with results for the card; default the folder of --neurons."""
    push_to: Annotated[str | None, Parameter("--push")] = None
    """Upload to this hub repository; a new one is private."""
    seed: int = 0
    """Kept in run.json; nothing here is random."""
    dtype: DType | None = None
    """Type of the weights; default the checkpoint's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        # No allowed type of the weights holds more than float32.
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
        out: The folder; it must not exist unless it is to be replaced.
        settings: Model, neurons, factor.
        execution: Device.
        tell: Called with lines about what was written.

    Raises:
        ValueError: As `kb_lens.interventions.folding.export`, or if the hub refuses it.
    """
    log = RunLog(Path(out), "export", settings, execution)
    check_target(out, execution.overwrite)
    _check_can_be_made(Path(out))
    if settings.push_to is not None:
        check_push(settings.push_to, "--push")
    neurons = given_neurons(settings.neurons)
    measured = _measured(settings, neurons)
    with log.stage("load the model"):
        model = settings.load(execution)
    log.note(model)
    if measured is not None:
        result = measured.results[measured.name][0]
        Belongs.of(result).check(belongs_to(model), f"'{measured.name}'", "the export")
    # The folder appears only when it is complete, run.json included.
    also = {RECORD: log.text()}
    difference = export(
        model,
        neurons,
        out,
        lam=settings.lam,
        overwrite=execution.overwrite,
        also=also,
        measured=measured,
    )
    tell(
        f"{len(neurons)} neurons times {settings.lam:g} are in the weights in {out}. Largest "
        f"difference of logits from the hooked model on a short prompt: {difference:.2g}"
    )
    if settings.push_to is not None:
        tell(f"Pushed to {push(out, settings.push_to)}")


def _measured(settings: ExportSettings, neurons: GivenNeurons) -> Measured | None:
    """The results of exactly this change, of the base model and of the random controls.

    Raises:
        ValueError: If they are not in the given folder.
    """
    beside = settings.neurons.parent
    is_of_run = settings.neurons.is_file() and (beside / "evaluations").is_dir()
    folder = settings.results or (beside if is_of_run else None)
    if folder is None:
        return None
    conditions = measured_in(folder)
    site = neurons.site if isinstance(neurons, NeuronSet) else "post"
    members = [list(neuron) for neuron in sorted(neurons)]
    change = {"lam": settings.lam, "positions": "all", "site": site, "neurons": members}
    infos = conditions_of(conditions)
    for name, info in infos.items():
        described = info.intervention
        is_it = isinstance(described, dict) and change.items() <= described.items()
        if is_it and info.role != "control" and conditions[name][0].fingerprint:
            beside = [
                other for other, i in infos.items() if i.role == "base" or i.control_of == name
            ]
            results = {other: conditions[other] for other in infos if other in (name, *beside)}
            weights = load_record(folder).get("model", {}).get("dtype")
            return Measured(name, results, weights or "")
    if settings.results is None:
        return None
    raise ValueError(
        f"--results '{folder}' has {', '.join(conditions)}: none is these {len(neurons)} neurons "
        f"times {settings.lam:g} at all positions. Give the folder with these results, or leave "
        "--results out."
    )


def _check_can_be_made(folder: Path) -> None:
    """Raise `ValueError` before minutes of work if nothing can be written there."""
    present = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    if not present.is_dir():
        raise ValueError(f"--out '{folder}': '{present}' is not a folder. Choose another --out.")
    if not os.access(present, os.W_OK | os.X_OK):
        raise ValueError(
            f"--out '{folder}': cannot write in '{present}' (Read-only file system or no "
            "permission): choose another --out."
        )
