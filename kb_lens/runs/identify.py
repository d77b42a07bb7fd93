"""First half of the main job: from questions to neurons, in one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kb_lens.attribution.attribute import attribute
from kb_lens.attribution.attributions import Attributions
from kb_lens.knowledge.check import check_knowledge
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.selection import select_neurons
from kb_lens.neurons.sets import NeuronSet
from kb_lens.questions import Question
from kb_lens.runs.cost import Workload
from kb_lens.runs.execution import AttributeExecution, IdentifyExecution
from kb_lens.runs.ray_workers import by_workers, hands_out
from kb_lens.runs.record import RunLog
from kb_lens.runs.settings import Attributing, Finding, IdentifySettings, Thresholds, values_of


@dataclass(frozen=True)
class Identified:
    """The result of `identify`."""

    knowledge: Knowledge
    """The model's answers to the questions."""
    attributions: Attributions
    """The scores of every neuron for every question."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension."""
    neurons: NeuronSet
    """The dimensions' neurons, aggregated."""


def find_neurons(
    out: str | os.PathLike[str],
    settings: IdentifySettings,
    execution: IdentifyExecution,
    tell: Callable[[str], object],
) -> Identified:
    """Find the neurons of a model and write them, with a record of the job, into a folder.

    Args:
        out: The folder.
        settings: Model, questions, thresholds.
        execution: Device, batch size, workers.
        tell: Called with lines about what was found.

    Raises:
        ValueError: As `identify`, or if the folder holds another run.
    """
    log = RunLog(Path(out), "identify", settings, execution)
    log.check()
    questions = settings.load_questions()
    template = settings.template()
    if hands_out(execution):
        return by_workers(partial(find_neurons, out, settings, execution), execution, tell=tell)
    with log.claimed():
        model = log.load_model()
        with log.stage("identify"):
            identified = identify(
                model,
                questions,
                out,
                settings,
                tell=tell,
                template=template,
                batch_size=execution.batch_size,
                progress=execution.progress,
            )
        log.write()
        return identified


def identify_work(settings: IdentifySettings, execution: AttributeExecution) -> Workload:
    """The work of `find_neurons`."""
    attributing = values_of(Attributing, settings) | {"batch_size": execution.batch_size}
    return Workload(settings.load_questions(), settings.template(), attributing)


def identify(
    model: HookedModel,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    finding: Finding,
    *,
    tell: Callable[[str], object] = lambda text: None,
    **options: Any,
) -> Identified:
    """Find the know-bias neurons and write them into a folder.

    Writes ``knowledge.json``, ``attributions.safetensors``, ``neurons.json`` (aggregated) and
    ``neurons/<dimension>.json``; finished questions are kept in ``store/``.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions.
        out: The folder.
        finding: Site, quadrature, thresholds and aggregation; ``pooled`` selects over all
            questions at once.
        tell: Called with the verdict on the model's knowledge, then with the number of neurons.
        options: Further arguments of `attribute`: template, objective, batch_size, progress ...

    Raises:
        ValueError: For bad arguments, or if no neuron passes the thresholds.
    """
    out = Path(out)
    if finding.aggregation == "at-least-two" and len({q.dimension for q in questions}) < 2:
        raise ValueError("aggregation is 'at-least-two', but the questions have one dimension.")
    options |= values_of(Attributing, finding)
    knowledge = answered(model, questions, out, options)
    tell(f"\n{knowledge.verdict()}\n")
    options |= {"knowledge": knowledge, "cache_dir": out / "store"}
    attributions = attribute(model, questions, **options)
    attributions.save(out / "attributions.safetensors")
    sets = select_by_dimension(attributions, finding)
    neurons = _aggregate(attributions, sets, finding)
    # Written together, so that a folder never mixes the sets of two runs.
    for dimension, of_dimension in sets.items():
        of_dimension.save(out / "neurons" / f"{dimension}.json")
    neurons.save(out / "neurons.json")
    sizes = ", ".join(f"{name} {len(of_dimension)}" for name, of_dimension in sets.items())
    tell(f"Neurons: {sizes}; {finding.aggregation} {len(neurons)}.")
    return Identified(knowledge, attributions, sets, neurons)


def answered(
    model: HookedModel,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    options: Mapping[str, Any],
) -> Knowledge:
    """The model's answers, also written as ``knowledge.json``; `options` as of `attribute`."""
    names = ("template", "answer_style", "progress")
    answering = {name: options[name] for name in names if name in options}
    knowledge = check_knowledge(model, questions, **answering)
    knowledge.save(Path(out) / "knowledge.json")
    return knowledge


def select_by_dimension(attributions: Attributions, thresholds: Thresholds) -> dict[str, NeuronSet]:
    """The neurons of each dimension."""
    by_dimension = attributions.by_dimension().items()
    return {
        dimension: select_neurons(scores, thresholds.tau, thresholds.beta)
        for dimension, scores in by_dimension
    }


def _aggregate(
    attributions: Attributions, sets: Mapping[str, NeuronSet], finding: Finding
) -> NeuronSet:
    aggregation = finding.aggregation
    if aggregation == "pooled":
        neurons = select_neurons(attributions, finding.tau, finding.beta)
    else:
        least = {"union": 1, "intersection": len(sets), "at-least-two": 2}[aggregation]
        neurons = NeuronSet.at_least(sets.values(), least)
    if not len(neurons):
        raise ValueError(
            f"no neuron passes tau {finding.tau:g} and beta {finding.beta:g} ({aggregation}). "
            "Lower them; scores are kept."
        )
    return neurons
