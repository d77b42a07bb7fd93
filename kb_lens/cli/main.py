"""The command ``kb-lens``: a thin front on the functions of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
import typer

from kb_lens.attribution.attribute import check_settings
from kb_lens.benchmarks.catalogue import DEFAULT_BENCHMARKS
from kb_lens.checks.controls import random_neurons
from kb_lens.checks.doctor import as_table
from kb_lens.cli import report as cli_report
from kb_lens.cli import studies as cli_studies
from kb_lens.cli import terminal
from kb_lens.cli.options import (
    Bank,
    Beta,
    DataDir,
    Device,
    Dimensions,
    DrawnTheme,
    DrawnWidth,
    DType,
    Joined,
    Language,
    Limit,
    Model,
    Names,
    Out,
    Overwrite,
    Protocol,
    QuestionCount,
    Rows,
    Rule,
    Seed,
    Site,
    Steps,
    Style,
    Tau,
    Tokens,
    Tol,
    benchmarks_available,
    benchmarks_named,
    questions_asked,
    write_drawn,
)
from kb_lens.evaluation.comparison import rank_table, summarize
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.figures import make_all
from kb_lens.figures.export import FORMATS
from kb_lens.figures.folders import draw_folder
from kb_lens.files import write_text
from kb_lens.interventions.checkpoint import check_push, check_target, push
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.folding import export as export_model
from kb_lens.interventions.folding import stored_dtype
from kb_lens.interventions.scaling import Scaling, check_factor
from kb_lens.models.loading import EMBEDDED_MODEL, load_model
from kb_lens.neurons import NeuronSet, check_thresholds, overlap
from kb_lens.questions import DIMENSIONS, Question
from kb_lens.report.write import write_report
from kb_lens.runs import diagnose as diagnosis
from kb_lens.runs import identify as identification
from kb_lens.runs import measure as measuring
from kb_lens.runs.folder import RunFolder, read_conditions
from kb_lens.runs.identify import Identified
from kb_lens.runs.record import RunLog

app = typer.Typer(
    help="Find the neurons of a language model that know what bias is, enhance them, and measure "
    "what changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(cli_studies.experiment)
app.command()(cli_studies.tune)
app.command()(cli_studies.neurons)
app.command()(cli_report.report)


def main() -> None:
    """Run the command; what a user got wrong is one line and exit status 2."""
    try:
        status = app(standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("kb-lens: interrupted; the same command goes on from here.", err=True)
        raise SystemExit(130) from None
    except torch.OutOfMemoryError as error:
        _fail("out of memory: --batch-size, --batch-tokens or bfloat16 take less.", error)
    except (ValueError, OSError) as error:
        _fail(str(error), error)
    except Exception as error:
        explain = getattr(error, "format_message", None)  # the command line's own complaints
        if explain is None:
            raise
        _fail(explain(), error)
    else:
        raise SystemExit(status or 0)


def _fail(message: str, error: Exception) -> NoReturn:
    if message:
        typer.echo(f"kb-lens: error: {' '.join(message.split())}", err=True)
    raise SystemExit(2) from error


@app.command()
def run(
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/run"),
    lam: Annotated[list[float] | None, typer.Option(help="Factor; repeat for several.")] = None,
    benchmarks: Names = ",".join(DEFAULT_BENCHMARKS),
    limit: Limit = 200,
    questions: QuestionCount = 45,
    dimensions: Dimensions = ",".join(DIMENSIONS),
    language: Language = "en",
    bank: Bank = None,
    site: Site = "post",
    rule: Rule = "adaptive",
    n_steps: Steps = None,
    tol: Tol = None,
    tau: Tau = 0.10,
    beta: Beta = 0.10,
    answer_style: Style = "model",
    aggregation: Joined = "union",
    protocol: Protocol = "original",
    data_dir: DataDir = None,
    batch_size: Rows = None,
    batch_tokens: Tokens = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """The whole job: find neurons, enhance them, measure before and after, draw."""
    settings = _settings(locals())
    factors = lam or [2.0, 3.0]
    log = RunLog(out, "run", _arguments(locals()) | {"lam": factors}, overwrite)
    log.check()
    _check(settings, factors)
    asked = questions_asked(questions, dimensions, language, bank)
    chosen = benchmarks_available(benchmarks, limit, protocol, data_dir, seed)
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    log.begin(bridge)
    with log.stage("identify"):
        found = _identify(bridge, out, asked, settings)
    results: dict[str, list[EvaluationResult]] = {}
    for condition in _conditions(found.neurons, factors, seed):
        with log.stage(f"evaluate: {condition.name}"):
            typer.echo(f"\nEvaluating: {condition.name}")
            folder = out / "evaluations" / condition.name
            results[condition.name] = measuring.measure(
                bridge, condition, chosen, folder, seed=seed, batch_tokens=batch_tokens
            )
    summary = summarize(results, seed=seed)
    summary.to_csv(out / "summary.csv", index=False)
    terminal.show_summary(summary, chosen)
    with log.stage("checks and tokens"):
        cli_report.write_reading(bridge, found, results, factors[0], out)
    with log.stage("figures"):
        drawn = make_all(found.attributions, found.sets, results, found.knowledge)
        write_drawn(drawn, out / "figures")
    log.write()
    write_report(out, drawn, out / "report.html")
    typer.echo(f"\n{found.knowledge.verdict()}\nEverything is in {out}; read {out}/report.html")


@app.command()
def identify(
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/identify"),
    questions: QuestionCount = 45,
    dimensions: Dimensions = ",".join(DIMENSIONS),
    language: Language = "en",
    bank: Bank = None,
    site: Site = "post",
    rule: Rule = "adaptive",
    n_steps: Steps = None,
    tol: Tol = None,
    tau: Tau = 0.10,
    beta: Beta = 0.10,
    answer_style: Style = "model",
    aggregation: Joined = "union",
    batch_size: Rows = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """Find the know-bias neurons of a model."""
    settings = _settings(locals())
    log = RunLog(out, "identify", _arguments(locals()), overwrite)
    log.check()
    _check(settings)
    asked = questions_asked(questions, dimensions, language, bank)
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    log.begin(bridge)
    with log.stage("identify"):
        _identify(bridge, out, asked, settings)
    log.write()
    typer.echo(f"Written to {out}")


@app.command()
def evaluate(
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/evaluate"),
    neurons: Annotated[Path | None, typer.Option(help="A neurons.json to scale.")] = None,
    lam: Annotated[float | None, typer.Option(help="The factor; needs --neurons.")] = None,
    benchmarks: Names = ",".join(DEFAULT_BENCHMARKS),
    limit: Limit = None,
    protocol: Protocol = "original",
    data_dir: DataDir = None,
    batch_tokens: Tokens = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """Measure a model, with or without scaled neurons."""
    if (neurons is None) != (lam is None):
        raise ValueError("--neurons and --lam belong together: give both or neither.")
    log = RunLog(out, "evaluate", _arguments(locals()), overwrite)
    log.check()
    if lam is not None:
        check_factor(lam)
    chosen = benchmarks_named(benchmarks, limit, protocol, data_dir, seed)
    condition = Condition("base")
    if neurons is not None and lam is not None:
        condition = Condition(f"lambda {lam:g}", Scaling(NeuronSet.load(neurons), lam))
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    log.begin(bridge)
    with log.stage("evaluate"):
        results = measuring.measure(
            bridge, condition, chosen, out, seed=seed, batch_tokens=batch_tokens
        )
    log.write()
    terminal.show_summary(summarize({condition.name: results}), chosen)
    typer.echo(f"Written to {out}")


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of `evaluate`, the base first; or one of `run`.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.csv, ranks.csv.")] = None,
    seed: Seed = 0,
) -> None:
    """Set saved results beside one another: paired differences from the first, and ranks."""
    results = read_conditions(folders)
    summary, ranks = summarize(results, seed=seed), rank_table(results, seed=seed)
    terminal.show_summary(summary)
    terminal.show_table(ranks, "Ranks: the nearer the metric is to its best value, the better")
    if out is not None:
        for name, table in (("comparison", summary), ("ranks", ranks)):
            write_text(out / f"{name}.csv", table.to_csv(index=False))
        typer.echo(f"Written to {out}")


@app.command()
def export(
    neurons: Annotated[Path, typer.Option(help="The neurons.json to fold into the weights.")],
    lam: Annotated[float, typer.Option(help="The factor.")],
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/export"),
    push_to: Annotated[
        str | None,
        typer.Option("--push", help="Upload to this hub repository; a new one is private."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Kept in run.json; nothing here is random.")] = 0,
    device: Device = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of the weights; default the checkpoint's own."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")
    ] = False,
) -> None:
    """Write a checkpoint that has the scaled neurons in its weights and needs no kb_lens."""
    log = RunLog(out, "export", _arguments(locals()))
    check_target(out, overwrite)
    check_factor(lam)
    if push_to is not None:
        check_push(push_to)
    chosen = NeuronSet.load(neurons)
    with log.stage("load the model"):
        kind = getattr(torch, dtype) if dtype else stored_dtype(model)
        bridge = load_model(model, device=device, dtype=kind)
    with log.stage("export"):
        difference = export_model(bridge, chosen, out, lam=lam, overwrite=overwrite)
    log.begin(bridge)
    typer.echo(
        f"{len(chosen)} neurons times {lam:g} are in the weights in {out}. Largest difference of "
        f"logits from the hooked model on a short prompt: {difference:.2g}"
    )
    if push_to is not None:
        typer.echo(f"Pushed to {push(out, push_to)}")


@app.command()
def figures(
    folder: Annotated[
        Path, typer.Argument(help="What `run`, `identify`, `experiment`, `tune` ... wrote.")
    ],
    out: Annotated[Path | None, typer.Option(help="Default: FOLDER/figures.")] = None,
    formats: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(FORMATS),
    theme: DrawnTheme = "light",
    width: DrawnWidth = "page",
) -> None:
    """Draw every figure again from saved results."""
    place = out or folder / "figures"
    write_drawn(draw_folder(folder), place, formats.split(","), theme=theme, width=width)


@app.command()
def doctor(
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/doctor"),
    questions: QuestionCount = 0,
    dimensions: Dimensions = ",".join(DIMENSIONS),
    language: Language = "en",
    bank: Bank = None,
    with_specificity: Annotated[
        bool,
        typer.Option("--specificity", help="Also attribute the controls: minutes, not seconds."),
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="A folder that `run` wrote: its results are examined too.")
    ] = None,
    lam: Annotated[
        float | None, typer.Option(help="Which lambda of --results; default the first.")
    ] = None,
    site: Site = "post",
    tau: Tau = 0.10,
    beta: Beta = 0.10,
    answer_style: Style = "model",
    batch_size: Rows = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """Should the results be believed? The known ways to fail, checked, with advice."""
    log = RunLog(out, "doctor", _arguments(locals()), overwrite)
    log.check()
    if lam is not None and results is None:
        raise ValueError("--lam names a condition of --results: give both.")
    saved = RunFolder.load(results) if results else None
    asked = questions_asked(questions, dimensions, language, bank)
    material: dict[str, Any] = {"tau": tau, "beta": beta, "site": site}
    if saved is not None:
        material |= _conditions_of(saved, lam) | _found_by(saved)
        asked = saved.attributions.questions if saved.attributions else asked
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    log.begin(bridge)
    options = {"answer_style": answer_style, "batch_size": batch_size, "seed": seed}
    with log.stage("examine"):
        found = diagnosis.diagnose(
            bridge, asked, out, controls=with_specificity, **options, **material
        )
    log.write()
    terminal.show_knowledge(found.knowledge)
    if found.specificity is not None:
        terminal.show_table(found.specificity.overlaps, "What else selects the know-bias neurons")
        terminal.show_table(found.specificity.stability, "Jaccard of sets of random halves")
    drawn = make_all(None, {}, knowledge=found.knowledge, specificity=found.specificity)
    write_drawn(drawn, out / "figures")
    terminal.show_table(as_table(found.checks), f"{found.knowledge.model}: the checks")
    typer.echo(f"\n{found.knowledge.verdict()}\nWritten to {out}")


def _found_by(saved: RunFolder) -> dict[str, Any]:
    """The attributions and sets of a run, and the settings by which they were found."""
    found: dict[str, Any] = {"attributions": saved.attributions, "sets": saved.sets}
    if saved.attributions is not None:
        names = ("site", "rule", "n_steps", "tol")
        found |= {name: getattr(saved.attributions.settings, name) for name in names}
    for one in saved.sets.values():
        found |= {k: v for k, v in (("tau", one.tau), ("beta", one.beta)) if v is not None}
    return found


def _conditions_of(saved: RunFolder, lam: float | None) -> dict[str, Any]:
    """The results of the base model, one lambda and its random control."""
    scaled = [name for name in saved.results if name.startswith("lambda ")]
    if not scaled and lam is None:
        return {}
    name = scaled[0] if lam is None else f"lambda {lam:g}"
    if name not in saved.results:
        there = ", ".join(saved.results) or "none"
        raise ValueError(f"--results has no {name!r}; its conditions: {there}.")
    return {
        "base": saved.results.get("base", []),
        "enhanced": saved.results[name],
        "control": saved.results.get(f"random {name}", []),
    }


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that go on to `pipeline.identify`."""
    names = ("tau", "beta", "aggregation", "answer_style", "site", "rule", "n_steps", "tol")
    return {name: values[name] for name in (*names, "batch_size")}


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments, to be written into ``run.json`` and compared with it."""
    hidden = ("settings", "overwrite", "out", "factors", "device")
    return {key: value for key, value in values.items() if key not in hidden}


def _check(settings: Mapping[str, Any], factors: Sequence[float] = ()) -> None:
    """Refuse what would be refused only after long work."""
    check_thresholds(settings["tau"], settings["beta"])
    check_settings(**settings)
    for factor in factors:
        check_factor(factor)
    names = [f"{factor:g}" for factor in factors]
    if len(set(names)) < len(names):
        raise ValueError(f"--lam has a factor twice: {', '.join(names)}.")


def _identify(
    model: Any, out: Path, questions: Sequence[Question], settings: Mapping[str, Any]
) -> Identified:
    found = identification.identify(
        model, questions, out, tell=lambda verdict: typer.echo(f"\n{verdict}\n"), **settings
    )
    sizes = ", ".join(f"{name} {len(one)}" for name, one in found.sets.items())
    typer.echo(f"Neurons: {sizes}; {settings['aggregation']} {len(found.neurons)}.")
    if len(found.sets) > 1:
        terminal.show_table(overlap(found.sets), "Overlap of the dimensions' neurons")
    return found


def _conditions(neurons: NeuronSet, factors: Sequence[float], seed: int) -> list[Condition]:
    control = random_neurons(neurons, seed=seed)
    enhanced = [Condition(f"lambda {lam:g}", Scaling(neurons, lam)) for lam in factors]
    random = [Condition(f"random lambda {lam:g}", Scaling(control, lam)) for lam in factors]
    return [Condition("base"), *enhanced, *random]


if __name__ == "__main__":
    main()
