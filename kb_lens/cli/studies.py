"""The commands for studies: experiment, tune, neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.neuron_effects import check_effects, neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts
from kb_lens.cli import terminal
from kb_lens.cli.options import (
    Beta,
    DataDir,
    Device,
    DType,
    Limit,
    Model,
    Out,
    Overwrite,
    Protocol,
    QuestionCount,
    Rows,
    Seed,
    Tau,
    Tokens,
    benchmarks_available,
    benchmarks_named,
    write_drawn,
)
from kb_lens.evaluation.results import save_results
from kb_lens.figures import dose_response, draw_study, effect_against_attribution, tuning_figure
from kb_lens.files import write_text
from kb_lens.interventions.scaling import check_factor
from kb_lens.knowledge import check_knowledge
from kb_lens.models.hooked import fingerprint
from kb_lens.models.loading import EMBEDDED_MODEL, load_model
from kb_lens.neurons import NeuronSet, check_thresholds
from kb_lens.questions import load_questions
from kb_lens.runs.ray_engine import check_ray, run_ray
from kb_lens.runs.record import RunLog
from kb_lens.runs.unit_store import UnitStore
from kb_lens.runs.units import Unit
from kb_lens.studies.experiments import (
    DEFAULT_STUDY_BENCHMARKS,
    EXPERIMENTS,
    Engine,
    Experiment,
    check_name,
    n_controls,
)
from kb_lens.studies.experiments import experiment as run_experiment
from kb_lens.studies.plans import WHOLE_BANK, Lab
from kb_lens.studies.tuning import LAMS, check_choice, tune_lambda

Neurons = Annotated[Path, typer.Option(help="A neurons.json.")]


def experiment(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    model: Annotated[
        str, typer.Option(help=f"Hub name, checkpoint folder, .gguf file, or {EMBEDDED_MODEL}.")
    ] = EMBEDDED_MODEL,
    out: Out = Path("out/studies"),
    benchmarks: Annotated[
        str | None,
        typer.Option(help="Comma-separated: NAME[:PROTOCOL][@ITEMS]; default the study's own."),
    ] = None,
    limit: Limit = 200,
    protocol: Protocol = "original",
    data_dir: DataDir = None,
    questions: QuestionCount = 45,
    tau: Tau = 0.10,
    beta: Beta = 0.10,
    lam: Annotated[float, typer.Option(help="The factor, where the study does not vary it.")] = 2.0,
    controls: Annotated[
        int | None, typer.Option(help="Random sets of each kind; default the study's own.")
    ] = None,
    engine: Annotated[
        Literal["serial", "ray"], typer.Option(help="One after another, or by Ray's workers.")
    ] = "serial",
    workers: Annotated[int, typer.Option(help="Of Ray.")] = 2,
    ray_address: Annotated[
        str | None, typer.Option(help="A running cluster, HOST:PORT; default this machine.")
    ] = None,
    gpus: Annotated[float, typer.Option(help="GPUs for each of Ray's workers.")] = 0.0,
    batch_size: Rows = None,
    batch_tokens: Tokens = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """One of the paper's studies, or all methods side by side; interrupted, it goes on."""
    check_name(name)
    log = RunLog(out / name, "experiment", _what_matters(locals()), overwrite)
    log.check()
    check_thresholds(tau, beta)
    check_factor(lam)
    draws = n_controls(name) if controls is None else controls
    default = DEFAULT_STUDY_BENCHMARKS.get(name, DEFAULT_STUDY_BENCHMARKS["all"])
    asked = ",".join(default) if benchmarks is None else benchmarks
    chosen = benchmarks_available(asked, limit, protocol, data_dir, seed, default)
    n_questions = questions or WHOLE_BANK
    load_questions(n_questions)  # refused here, before the model is loaded
    if draws < 1:
        raise ValueError(f"--controls is {draws}: a study needs at least 1.")
    if engine == "ray":
        check_ray(workers)
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    log.begin(bridge)
    lab = Lab(
        bridge,
        n_questions=n_questions,
        tau=tau,
        beta=beta,
        lam=lam,
        n_controls=draws,
        seed=seed,
        cache_dir=out / "attribution_cache",
        plain_text=next((one for one in chosen if one.name == "plain_text"), None),
        options={} if batch_size is None else {"batch_size": batch_size},
        batch_tokens=batch_tokens,
        store=UnitStore(out / "units"),
    )
    fan_out: Engine | None = None
    if engine == "ray":
        work = partial(_worker, model, device, dtype, fingerprint(bridge))
        fan_out = partial(
            run_ray, make_work=work, workers=workers, address=ray_address, num_gpus=gpus
        )
    with log.stage(name):
        found = run_experiment(name, lab, chosen, engine=fan_out)
    found.save(out / name)
    for condition, (change, results) in found.ranked.items():
        save_results(out / name / "evaluations" / condition, results, intervention=change)
    log.write()
    _show(found)
    write_drawn(draw_study(name, found.tables, found.settings), out / name / "figures")
    typer.echo(f"Written to {out / name}")


def _what_matters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the tables depend on: not who does the work."""
    hidden = (
        *("out", "overwrite", "device", "engine", "workers", "ray_address", "gpus"),
        *("batch_size", "batch_tokens"),
    )
    return {key: value for key, value in values.items() if key not in hidden}


def _worker(model: str, device: str | None, dtype: str, weights: str) -> Any:
    """What does the units in a process of its own; the model must be the same there."""
    bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    if (found := fingerprint(bridge)) != weights:
        raise ValueError(
            f"a worker's {model!r} has other weights ({found}) than the one here ({weights})."
        )

    def work(unit: Unit) -> Any:
        return unit.work(bridge)

    return work


def _show(found: Experiment) -> None:
    """Every table; of the long ones the first headline metric of each benchmark."""
    for name, table in found.tables.items():
        long = "metric" in table.columns
        shown = found.headline(name, 1) if long else table
        terminal.show_study(shown, f"{found.name}: {name}")


def tune(
    neurons: Neurons,
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/tune"),
    bias: Annotated[str, typer.Option(help="The benchmark that is to improve.")] = "stereoset",
    capability: Annotated[
        str, typer.Option(help="The benchmark that may not get worse.")
    ] = "openbookqa",
    lam: Annotated[list[float] | None, typer.Option(help="Factor; repeat for several.")] = None,
    bound: Annotated[float, typer.Option(help="Points of capability that may not be lost.")] = 5.0,
    limit: Limit = None,
    protocol: Protocol = "original",
    data_dir: DataDir = None,
    batch_tokens: Tokens = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """Choose lambda on one half of the items and report on the other."""
    factors = lam or list(LAMS)
    log = RunLog(out, "tune", _what_matters(locals()) | {"lam": factors}, overwrite)
    log.check()
    factors = check_choice(factors, bound)
    if "," in bias + capability:
        raise ValueError("--bias and --capability name one benchmark each.")
    chosen = NeuronSet.load(neurons)
    names = ",".join(dict.fromkeys((bias, capability)))
    asked = benchmarks_named(names, limit, protocol, data_dir, seed)
    for one in asked:
        one.split(seed=seed)  # refuses too few items
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    chosen.check_model(bridge)
    log.begin(bridge)
    options: dict[str, Any] = {"lams": factors, "bound": bound, "seed": seed, "folder": out}
    options["batch_tokens"] = batch_tokens
    with log.stage("tune"):
        found = tune_lambda(bridge, chosen, asked[0], asked[-1], **options)
    found.save(out)
    log.write()
    terminal.show_table(found.development, "Development items")
    terminal.show_table(found.test, "Test items")
    write_drawn({"tuning": tuning_figure(found)}, out / "figures")
    typer.echo(f"\n{found.verdict}\nWritten to {out}")


def neurons(
    neurons: Neurons,
    model: Model = EMBEDDED_MODEL,
    out: Out = Path("out/neurons"),
    lam: Annotated[list[float] | None, typer.Option(help="Factor; repeat for several.")] = None,
    questions: Annotated[
        int | None,
        typer.Option(help="How many of the bank, 0 for all; default 45, or those attributed."),
    ] = None,
    positions: Annotated[
        Literal["last", "all"], typer.Option(help="Of the prompt, where a neuron is scaled.")
    ] = "last",
    attributions: Annotated[
        Path | None,
        typer.Option(help="attributions.safetensors of the same questions, to be compared with."),
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens and texts a neuron.")] = 10,
    batch_size: Annotated[int | None, typer.Option(help="Most neurons tried in a pass.")] = None,
    seed: Annotated[int, typer.Option(help="Kept in run.json; nothing here is random.")] = 0,
    device: Device = None,
    dtype: DType = "float32",
    overwrite: Overwrite = False,
) -> None:
    """What each neuron does by itself: its effect, its dose-response, its tokens, its texts."""
    factors = lam or [0.0, 0.5, 1.0, 2.0, 3.0, 5.0]
    log = RunLog(out, "neurons", _what_matters(locals()) | {"lam": factors}, overwrite)
    log.check()
    chosen = NeuronSet.load(neurons)
    scores = None if attributions is None else Attributions.load(attributions)
    check_effects(factors, batch_size)
    if top < 1:
        raise ValueError(f"--top is {top}: at least 1 is needed.")
    if scores is not None:
        _check_comparable(chosen, scores, factors, positions, questions)
    n = 45 if questions is None else questions or None
    asked = load_questions(n) if scores is None else scores.questions
    with log.stage("load the model"):
        bridge = load_model(model, device=device, dtype=getattr(torch, dtype))
    chosen.check_model(bridge)
    log.begin(bridge)
    options: dict[str, Any] = {"positions": positions, "batch_size": batch_size}
    if scores is not None:  # asked in the same words
        template, spelling = scores.settings.template, scores.settings.spelling
        knowledge = check_knowledge(bridge, asked, template=template)
        options |= {"template": template, "knowledge": replace(knowledge, spelling=spelling)}
    with log.stage("scale neurons"):
        effects = neuron_effects(bridge, chosen, asked, lams=factors, **options)
    effects.save(out / "effects.safetensors")
    with log.stage("read neurons"):
        tables = {
            "effects": effects.table(),
            "tokens": promoted_tokens(bridge, chosen, top),
            "texts": top_prompts(bridge, chosen, k=top),
        }
    for name, table in tables.items():
        write_text(out / f"{name}.csv", table.to_csv(index=False))
    log.write()
    drawn = {"dose_response": dose_response(effects)}
    if scores is not None:
        drawn["effect_against_attribution"] = effect_against_attribution(effects, scores)
    write_drawn(drawn, out / "figures")
    strongest = tables["effects"].sort_values("prob_change", key=abs, ascending=False).head(12)
    terminal.show_table(strongest, "The strongest effects on P(right answer)")
    typer.echo(f"Written to {out}")


def _check_comparable(
    neurons: NeuronSet,
    scores: Attributions,
    factors: Sequence[float],
    positions: str,
    questions: int | None,
) -> None:
    """Refuse attributions that the effects could not be set against, before the work is done."""
    settings = scores.settings
    found = (settings.fingerprint, settings.site, settings.objective)
    if found != (neurons.fingerprint, neurons.site, "probability"):
        raise ValueError(
            "--attributions are of another model, site or objective than the neurons: "
            f"{settings.model}, {settings.site}, {settings.objective}."
        )
    if 0.0 not in factors or positions != "last" or questions is not None:
        raise ValueError(
            "--attributions are compared with ablation at the last position for their own "
            "questions: --lam 0 belongs to it, --positions all and --questions do not."
        )
