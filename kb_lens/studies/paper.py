"""The job of ``kb-lens paper``: the paper's table for one model.

1. Find know-bias neurons as in the paper (site pre, tau and beta 10 %, 225 questions), or take
   given ones.
2. Measure the unchanged model, and the model with these neurons times lambda at the last position,
   on every benchmark of the table, by the release's protocol and by ours.
3. Make the table (`paper_table`).
"""

# No `from __future__ import annotations`: as in `kb_lens.runs.settings`.
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling, check_factor
from kb_lens.models.hooked import HookedModel, Site, fingerprint, form, mlp_width, model_name
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet
from kb_lens.records.objects import read_json
from kb_lens.records.tables import Belongs, write_csv
from kb_lens.rows import shown
from kb_lens.runs.benchmark_names import load_available
from kb_lens.runs.cost import Workload, say_cost
from kb_lens.runs.execution import RunExecution
from kb_lens.runs.identify import identify, identify_work
from kb_lens.runs.measure import check_asked, measure_below
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import Asking, Finding, IdentifySettings, Items
from kb_lens.studies.paper_table import (
    BASE,
    BENCHMARKS,
    DEFAULT_LAM,
    ENHANCED,
    RELEASE,
    check_cells,
    paper_table,
    recipe_of,
)


@dataclass(frozen=True, kw_only=True)
class PaperSettings(Items, IdentifySettings):
    """What the paper's table depends on."""

    benchmarks: tuple[str, ...] = BENCHMARKS
    """Comma-separated: NAME[:PROTOCOL][@ITEMS]; default those of the table."""
    questions: int | None = 0
    """Number of questions, balanced over dimensions and kinds; default all."""
    site: Site = "pre"
    """MLP activations to read and scale."""
    lam: float | None = None
    """The factor; default the paper's for its models, 2 for others."""
    neurons: Path | None = None
    """Neurons to use instead of finding them: a neurons.json, or JSON with (layer, index) pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor(self.factor, self.dtype)
        if self.protocol == RELEASE:
            raise ValueError(
                "--protocol is our protocol; the release's is always measured too: give original "
                "or instructed."
            )
        if self.neurons is not None:
            _check_unused(self)

    @property
    def factor(self) -> float:
        """The factor that multiplies the neurons."""
        if self.lam is not None:
            return self.lam
        recipe = recipe_of(self.model)
        return DEFAULT_LAM if recipe is None else recipe.lam


def _check_unused(settings: PaperSettings) -> None:
    """Refuse options for finding neurons if neurons are given."""
    of_finding = {field.name for group in (Finding, Asking) for field in fields(group)}
    # these options are also for benchmarks, or say where the given neurons are
    of_finding -= {"site", *(field.name for field in fields(Items))}
    for field in fields(settings):
        if field.name in of_finding and getattr(settings, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise ValueError(
                f"--{option} is for finding neurons, but --neurons gives them: drop one."
            )


@dataclass(frozen=True, kw_only=True)
class PaperExecution(RunExecution):
    """How the paper's table is computed."""

    dry_run: bool = False
    """Say what would be done and its estimated time; write nothing."""


def paper(
    out: str | os.PathLike[str],
    settings: PaperSettings,
    execution: PaperExecution,
    left_out: Callable[[str], object],
    tell: Callable[[str], object] = lambda text: None,
) -> pd.DataFrame | None:
    """Make the paper's table in a folder; after an interruption the same call resumes.

    Args:
        out: The folder: as that of ``run``, with ``paper.csv``.
        settings: Model, questions, neurons, benchmarks.
        execution: Device, batch sizes, or a dry run.
        left_out: Called with the reason for each cell without data.
        tell: Called with lines about the work and the findings.

    Returns:
        `paper_table`; None for a dry run.

    Raises:
        ValueError: If a setting is not allowed, or the folder holds another run.
    """
    log = RunLog(Path(out), "paper", settings, execution)
    log.check()
    questions = settings.load_questions()
    template = settings.template()
    if settings.neurons is not None:
        read_pairs(settings.neurons)  # raises before anything is loaded
    if hands_out(execution) and not execution.dry_run:
        job = partial(paper, out, settings, execution)
        return by_workers(job, execution, left_out=left_out, tell=tell)
    benchmarks = load_available(settings.benchmarks, settings, settings.seed, BENCHMARKS, left_out)
    check_cells(benchmarks)
    tell(plan_words(settings, 0 if settings.neurons else len(questions), benchmarks))
    if execution.dry_run:
        work = identify_work(settings, execution)
        if settings.neurons is not None:
            work = Workload()
        work = replace(work, measured=[(benchmark, 2) for benchmark in benchmarks])
        say_cost(settings, execution, work, tell, batch_tokens=execution.batch_tokens)
        return None
    with log.claimed():
        model = log.load_model()
        check_asked(model, Condition("base"), benchmarks)
        with log.stage("identify"):
            if settings.neurons is not None:
                neurons = given_neurons(settings.neurons, model, settings.site)
                neurons.save(log.folder / "neurons.json")
            else:
                options = {"template": template, "batch_size": execution.batch_size}
                options["progress"] = execution.progress
                neurons = identify(model, questions, out, settings, tell=tell, **options).neurons
        chosen = conditions(neurons, settings.factor)
        tell(f"\nEvaluating: {', '.join(condition.name for condition in chosen)}")
        with log.stage("evaluate"):
            results = measure_below(
                log.folder,
                model,
                chosen,
                benchmarks,
                seed=settings.seed,
                batch_tokens=execution.batch_tokens,
                progress=execution.progress,
            )
        log.write()
        table = paper_table(results, settings.model, seed=settings.seed)
        write_csv(log.folder / "paper.csv", table, Belongs(model_name(model), fingerprint(model)))
        return table


def conditions(neurons: NeuronSet, lam: float) -> list[Condition]:
    """The unchanged model, and the model with the neurons enhanced as in the release."""
    return [Condition(BASE), Condition(ENHANCED, Scaling(neurons, lam, "last"))]


def plan_words(settings: PaperSettings, n_questions: int, benchmarks: Sequence[Benchmark]) -> str:
    """The work in words: questions, items and texts."""
    recipe = recipe_of(settings.model)
    lines = [
        f"{settings.model}: lambda {settings.factor:g}, site {settings.site}, last position"
        + ("" if recipe is None else f"; the paper found {recipe.n_neurons} neurons"),
        f"  {n_questions} questions to attribute, each in a few passes"
        if n_questions
        else f"  neurons from {settings.neurons}",
    ]
    for benchmark in benchmarks:
        texts = sum(len(request.options) for request in benchmark.requests)
        written = sum(bool(request.write) for request in benchmark.requests)
        counts = [f"{texts:,} texts to score"] * bool(texts)
        counts += [f"{written:,} answers to write"] * bool(written)
        what = " and ".join(counts)
        lines.append(f"  {benchmark.key}: {len(benchmark.items):,} items, {what}, twice")
    return "\n".join(lines)


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[int, int]] | None:
    """The (layer, index) pairs of a JSON file; None for a neurons.json.

    Raises:
        ValueError: If the file is missing, not JSON, of another kind, or has a pair twice.
    """
    content = read_json(path, Any, what="neurons")
    if isinstance(content, dict):
        if "format" in content:
            return None
        content = content.get("neurons")
    is_pair = isinstance(content, list) and all(
        isinstance(pair, list) and [type(number) for number in pair] == [int, int]
        for pair in content
    )
    if not content or not is_pair:
        raise ValueError(
            f"'{path}' has no neurons: give a neurons.json, or JSON with a list of [layer, index] "
            f"pairs, alone or under the key 'neurons'; got {shown(json.dumps(content))}."
        )
    pairs = [(layer, index) for layer, index in content]
    if len(set(pairs)) < len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        raise ValueError(f"'{path}' has the neuron {list(twice)} twice: give each once.")
    return pairs


def given_neurons(path: str | os.PathLike[str], model: HookedModel, site: Site) -> NeuronSet:
    """The neurons of a file. Pairs do not name their model and are taken to be this model's.

    Raises:
        ValueError: As `read_pairs`, or if they are not of this model or site, or out of range.
    """
    pairs = read_pairs(path)
    if pairs is None:
        neurons = NeuronSet.load(path)
        neurons.check_model(model)
        if neurons.site != site:
            raise ValueError(
                f"'{path}' has neurons of site {neurons.site!r}: give --site {neurons.site}."
            )
        return neurons
    return NeuronSet(
        tuple(Neuron(*pair) for pair in pairs),
        model=model_name(model),
        fingerprint=fingerprint(model),
        form=form(model),
        site=site,
        n_layers=int(model.cfg.n_layers),
        d_mlp=mlp_width(model),
        origin=f"{len(pairs)} pairs of {Path(path).name}",
    )
