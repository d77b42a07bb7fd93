"""The commands for studies and checks: experiment, paper, tune, neurons, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from kb_lens.checks.control_tests import NO_P
from kb_lens.checks.doctor import as_table
from kb_lens.cli import terminal
from kb_lens.cli.options import FLAT, Config, DryRun, Out, left_out, save_figures, tell
from kb_lens.figures import (
    dose_response,
    draw_folder,
    draw_study,
    effect_against_attribution,
    make_all,
    tuning_figure,
)
from kb_lens.report.study import conclusion
from kb_lens.report.write import write_report
from kb_lens.runs.cost import say_cost
from kb_lens.runs.diagnose import DoctorSettings, diagnose_model
from kb_lens.runs.execution import AttributeExecution, EvaluateExecution, RunExecution
from kb_lens.runs.neurons import NeuronsExecution, NeuronsSettings, neurons_work, read_neurons
from kb_lens.runs.record import later_stage
from kb_lens.studies.choose_lambda import TuneSettings, choose_lambda, tune_work
from kb_lens.studies.paper import PaperExecution, PaperSettings
from kb_lens.studies.paper import paper as make_paper
from kb_lens.studies.paper_table import brief_table
from kb_lens.studies.run_study import ExperimentSettings, run_study, study_work


def experiment(
    settings: Annotated[ExperimentSettings, FLAT],
    execution: Annotated[RunExecution, FLAT] = RunExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/studies"),
    config: Config = None,
) -> None:
    """One of the paper's studies, or all methods side by side; it can be resumed."""
    if dry_run:
        work, batch = study_work(settings, execution, left_out), execution.batch_tokens
        say_cost(settings, execution, work, tell, batch_tokens=batch)
        return
    study = run_study(out, settings, execution, left_out, tell)
    tell(f"\n{conclusion(study)}\n")
    tests = study.tables.get("control_tests")
    for name, table in study.tables.items():
        # The table is long: show only the first headline metric of each benchmark.
        brief = study.headline(name, 1) if "metric" in table.columns else table
        if name == "results" and tests is not None:  # the tests summarise the random draws
            brief = brief.query("role != 'control'").dropna(axis="columns", how="all")
        terminal.show_study(brief, f"{study.name}: {name}")
    if tests is not None and tests["p"].hasnans:
        tell(NO_P)
    folder = out / study.name
    with later_stage(folder, "figures"):
        save_figures(draw_study(study.name, study.tables, study.settings), folder / "figures")
    tell(f"Written to {folder}")


def paper(
    settings: Annotated[PaperSettings, FLAT] = PaperSettings(),
    execution: Annotated[PaperExecution, FLAT] = PaperExecution(),
    *,
    out: Out = Path("out/paper"),
    config: Config = None,
) -> None:
    """The paper's table for one model: published, by the release's protocol, and by ours."""
    table = make_paper(out, settings, execution, left_out, tell)
    if table is None:
        return
    terminal.show_table(brief_table(table), "The paper's table")
    with later_stage(out, "figures"):
        figures = draw_folder(out)
        save_figures(figures, out / "figures")
        summary = write_report(out, figures, out / "report.html")
    terminal.show_answer(summary)
    tell(f"Everything is in {out}; read {out}/report.html")


def tune(
    settings: Annotated[TuneSettings, FLAT],
    execution: Annotated[EvaluateExecution, FLAT] = EvaluateExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/tune"),
    config: Config = None,
) -> None:
    """Choose lambda on one half of the items and report on the other."""
    if dry_run:
        work, batch = tune_work(settings), execution.batch_tokens
        say_cost(settings, execution, work, tell, batch_tokens=batch)
        return
    tuning = choose_lambda(out, settings, execution)
    tell(f"\n{tuning.verdict}\n")
    terminal.show_table(tuning.development, "Development items")
    terminal.show_table(tuning.test, "Test items")
    with later_stage(out, "figures"):
        save_figures({"tuning": tuning_figure(tuning)}, out / "figures")
    tell(f"Written to {out}")


def neurons(
    settings: Annotated[NeuronsSettings, FLAT],
    execution: Annotated[NeuronsExecution, FLAT] = NeuronsExecution(),
    *,
    dry_run: DryRun = False,
    out: Out = Path("out/neurons"),
    config: Config = None,
) -> None:
    """Each neuron by itself: its effect, its dose-response, its tokens, its texts."""
    if dry_run:
        say_cost(settings, execution, neurons_work(settings), tell)
        return
    reading = read_neurons(out, settings, execution)
    figures = {"dose_response": dose_response(reading.effects)}
    if reading.scores is not None:
        compared = effect_against_attribution(reading.effects, reading.scores)
        figures["effect_against_attribution"] = compared
    with later_stage(out, "figures"):
        save_figures(figures, out / "figures")
    terminal.show_table(reading.strongest(), "The strongest effects on P(right answer)")
    tell(f"Written to {out}: {', '.join(f'{name}.csv' for name in reading.tables)}")


def doctor(
    settings: Annotated[DoctorSettings, FLAT] = DoctorSettings(),
    execution: Annotated[AttributeExecution, FLAT] = AttributeExecution(),
    *,
    out: Out = Path("out/doctor"),
    config: Config = None,
) -> None:
    """Should the results be believed? Checks of known ways to fail, with advice."""
    diagnosis = diagnose_model(out, settings, execution)
    knowledge = diagnosis.knowledge
    tell(f"\n{knowledge.verdict()}\n")
    terminal.show_knowledge(knowledge)
    specificity = diagnosis.specificity
    if specificity is not None:
        terminal.show_table(specificity.overlaps, "What else selects the know-bias neurons")
        terminal.show_table(specificity.stability, "Jaccard of sets of random halves")
    figures = make_all(None, {}, knowledge=knowledge, specificity=specificity)
    with later_stage(out, "figures"):
        save_figures(figures, out / "figures")
    terminal.show_table(as_table(diagnosis.checks), f"{knowledge.model}: the checks")
    tell(f"Written to {out}")
