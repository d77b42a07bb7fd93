"""The commands of the method: run, identify, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kb_lens.cli import terminal
from kb_lens.cli.options import FLAT, Config, DryRun, Out, left_out, save_figures, tell
from kb_lens.evaluation.comparison import summarize
from kb_lens.figures import draw_folder
from kb_lens.neurons.selection import overlap
from kb_lens.report.write import write_report
from kb_lens.runs.cost import say_cost
from kb_lens.runs.evaluate import EvaluateSettings, evaluate_model, evaluate_work
from kb_lens.runs.execution import EvaluateExecution, IdentifyExecution, JobExecution
from kb_lens.runs.export import ExportExecution, ExportSettings, export_model
from kb_lens.runs.identify import find_neurons, identify_work
from kb_lens.runs.record import later_stage
from kb_lens.runs.run import run as run_job
from kb_lens.runs.run import run_work
from kb_lens.runs.settings import IdentifySettings, RunSettings


def run(
    settings: Annotated[RunSettings, FLAT] = RunSettings(),
    execution: Annotated[JobExecution, FLAT] = JobExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/run"),
    config: Config = None,
) -> None:
    """The whole job: find neurons, enhance them, measure before and after, draw."""
    if dry_run:
        work, batch = run_work(settings, execution, left_out), execution.batch_tokens
        say_cost(settings, execution, work, tell, batch_tokens=batch)
        return
    run_job(settings.model, out, settings, execution, tell=tell, left_out=left_out)
    with later_stage(out, "figures"):
        figures = draw_folder(out)
        save_figures(figures, out / "figures")
        summary = write_report(out, figures, out / "report.html")
    tell("")
    terminal.show_answer(summary)
    tell(f"Everything is in {out}; read {out}/report.html")


def identify(
    settings: Annotated[IdentifySettings, FLAT] = IdentifySettings(),
    execution: Annotated[IdentifyExecution, FLAT] = IdentifyExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/identify"),
    config: Config = None,
) -> None:
    """Find the know-bias neurons of a model."""
    if dry_run:
        say_cost(settings, execution, identify_work(settings, execution), tell)
        return
    identified = find_neurons(out, settings, execution, tell)
    if len(identified.sets) > 1:
        terminal.show_table(overlap(identified.sets), "Overlap of the dimensions' neurons")
    tell(f"Written to {out}")


def evaluate(
    settings: Annotated[EvaluateSettings, FLAT] = EvaluateSettings(),
    execution: Annotated[EvaluateExecution, FLAT] = EvaluateExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/evaluate"),
    config: Config = None,
) -> None:
    """Measure a model, with or without scaled neurons."""
    if dry_run:
        work, batch = evaluate_work(settings), execution.batch_tokens
        say_cost(settings, execution, work, tell, batch_tokens=batch)
        return
    results = evaluate_model(out, settings, execution)
    terminal.show_summary(summarize({results[0].condition.name: results}), results)
    tell(f"Written to {out}")


def export(
    settings: Annotated[ExportSettings, FLAT],
    execution: Annotated[ExportExecution, FLAT] = ExportExecution(),
    *,
    out: Out = Path("out/export"),
    config: Config = None,
) -> None:
    """Write a checkpoint that has the scaled neurons in its weights and needs no kb_lens."""
    export_model(out, settings, execution, tell)
