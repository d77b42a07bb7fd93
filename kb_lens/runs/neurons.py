"""The effects, tokens and texts of each neuron of a set by itself, in one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from kb_lens.arguments import check_count, check_seed
from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.effects import NeuronEffects
from kb_lens.checks.neuron_effects import check_effects, neuron_effects
from kb_lens.checks.neuron_meaning import promoted_tokens, top_prompts
from kb_lens.interventions.positions import Positions
from kb_lens.models.digests import same_weights
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.selection import select_neurons
from kb_lens.neurons.sets import NeuronSet, check_neurons, neurons_of
from kb_lens.records.tables import write_csv
from kb_lens.runs.asking import Asking
from kb_lens.runs.cost import Workload
from kb_lens.runs.execution import SharedExecution
from kb_lens.runs.given_neurons import GivenNeurons, given_neurons
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog, belongs_to
from kb_lens.runs.settings import ModelChoice, values_of


@dataclass(frozen=True, kw_only=True)
class NeuronsSettings(Asking, ModelChoice):
    """What the effects of neurons depend on."""

    neurons: Path
    """A neurons.json, or names: L26.N1371,L28.N1095."""
    lam: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
    """Factor; several with commas or repeated."""
    positions: Positions = "last"
    """Positions of the prompt at which a neuron is scaled."""
    attributions: Path | None = None
    """attributions.safetensors of the same questions, to compare the effects with."""
    top: int = 10
    """Tokens and texts per neuron."""
    seed: int = 0
    """Kept in run.json; nothing here is random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        check_effects(self.lam, None, self.dtype)
        check_count("--top", self.top)

    def chooses_questions(self) -> bool:
        """Whether any option says which questions are asked."""
        return values_of(Asking, self) != vars(Asking())


@dataclass(frozen=True, kw_only=True)
class NeuronsExecution(SharedExecution):
    """How effects are computed."""

    batch_size: int | None = None
    """Most neurons tried in one forward pass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_effects((1.0,), self.batch_size)


@dataclass(frozen=True)
class NeuronReading:
    """The result of `read_neurons`."""

    effects: NeuronEffects
    """The answers with each neuron scaled."""
    scores: Attributions | None
    """What the effects are compared with."""
    tables: Mapping[str, pd.DataFrame]
    """``effects``, ``tokens`` and ``texts``."""

    def strongest(self, n: int = 12) -> pd.DataFrame:
        """The `n` rows of `effects` that change P(right answer) most."""
        effects = self.tables["effects"]
        strongest = effects.sort_values("prob_change", key=abs, ascending=False).head(n)
        neurons = zip(strongest["layer"], strongest["index"], strict=True)
        strongest.insert(0, "neuron", [Neuron(*each).name for each in neurons])
        return strongest.drop(columns=["layer", "index"])


def read_neurons(
    out: str | os.PathLike[str], settings: NeuronsSettings, execution: NeuronsExecution
) -> NeuronReading:
    """Scale each neuron by itself; read the tokens that it promotes and the texts that activate it.

    Writes ``effects.safetensors``, ``effects.csv``, ``tokens.csv`` and ``texts.csv``.

    Args:
        out: The folder.
        settings: Model, neurons, factors.
        execution: Device, batch size, workers.

    Raises:
        ValueError: If the attributions cannot be compared with the effects, or the folder holds
            another run.
    """
    log = RunLog(Path(out), "neurons", settings, execution)
    log.check()
    neurons, scores = _read(settings)
    work = _work(settings, neurons, scores)
    if hands_out(execution):
        return by_workers(partial(read_neurons, out, settings, execution), execution)
    with log.claimed():
        model = log.load_model(neurons=neurons)
        neurons = neurons_of(model, neurons)
        with log.stage("scale neurons"):
            effects = neuron_effects(
                model,
                neurons,
                work.questions,
                lams=settings.lam,
                positions=settings.positions,
                batch_size=execution.batch_size,
                cache_dir=log.folder / "store",
                progress=execution.progress,
                template=work.template,
                # in the spelling of the scores: otherwise they are not comparable
                spelling=None if scores is None else scores.settings.spelling,
            )
        effects.save(log.folder / "effects.safetensors")
        with log.stage("read neurons"):
            tables = {
                "effects": effects.table(),
                "tokens": promoted_tokens(model, neurons, settings.top),
                "texts": top_prompts(model, neurons, k=settings.top, progress=execution.progress),
            }
        for name, table in tables.items():
            write_csv(log.folder / f"{name}.csv", table, belongs_to(model))
        log.write()
        return NeuronReading(effects, scores, tables)


def _read(settings: NeuronsSettings) -> tuple[GivenNeurons, Attributions | None]:
    """The neurons, and the attributions that they are compared with."""
    neurons = given_neurons(settings.neurons)
    check_neurons(neurons)
    if settings.attributions is None:
        return neurons, None
    scores = Attributions.load(settings.attributions)
    if not isinstance(neurons, NeuronSet):  # names belong to the model of the scores
        neurons = replace(select_neurons(scores), neurons=neurons, origin="named by hand")
    _check_comparable(neurons, scores, settings)
    return neurons, scores


def neurons_work(settings: NeuronsSettings) -> Workload:
    """The work of `read_neurons`, on the questions of the attributions if there are any."""
    return _work(settings, *_read(settings))


def _work(
    settings: NeuronsSettings, neurons: GivenNeurons, scores: Attributions | None
) -> Workload:
    if scores is None:
        questions, template = settings.load_questions(), settings.template()
    else:
        questions, template = scores.yes_no_questions, scores.settings.template
    return Workload(questions, template, trials=neurons, lams=settings.lam)


def _check_comparable(neurons: NeuronSet, scores: Attributions, settings: NeuronsSettings) -> None:
    """Refuse attributions that cannot be compared with the effects, before the work is done."""
    of_scores = scores.settings
    alike = (of_scores.site, of_scores.objective) == (neurons.site, "probability")
    if not alike or not same_weights(of_scores.fingerprint, neurons.fingerprint):
        raise ValueError(
            "--attributions are of another model, site or objective than the neurons: "
            f"{of_scores.model}, {of_scores.site}, {of_scores.objective}."
        )
    if 0.0 not in settings.lam or settings.positions != "last" or settings.chooses_questions():
        raise ValueError(
            "--attributions are compared with ablation at the last position for their own "
            "questions: give --lam 0, and neither --positions all nor a choice of questions."
        )
