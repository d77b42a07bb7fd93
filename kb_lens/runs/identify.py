"""First half of the main job: from questions to neurons, in one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kb_lens.attribution.attribute import attribute, check_settings
from kb_lens.attribution.attributions import Attributions
from kb_lens.knowledge import AnswerStyle, Knowledge, check_knowledge
from kb_lens.neurons import NeuronSet, check_thresholds, select_neurons
from kb_lens.questions import Question

Aggregation = Literal["union", "intersection", "at-least-two", "pooled"]


@dataclass(frozen=True)
class Identified:
    """What `identify` found."""

    knowledge: Knowledge
    """What the model answers to the questions."""
    attributions: Attributions
    """The scores of every neuron for every question."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each dimension."""
    neurons: NeuronSet
    """The dimensions' neurons, aggregated."""


def identify(
    model: Any,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    *,
    tau: float = 0.10,
    beta: float = 0.10,
    aggregation: Aggregation = "union",
    answer_style: AnswerStyle = "model",
    tell: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Identified:
    """Find the know-bias neurons and write them into a folder.

    Writes ``knowledge.json``, ``attributions.safetensors``, ``neurons.json`` (aggregated) and
    ``neurons/<dimension>.json``; finished questions are kept in ``attribution_cache/``.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions.
        out: The folder.
        tau: Saliency threshold.
        beta: Consistency threshold.
        aggregation: How dimensions are joined; ``pooled`` selects over all questions at once.
        answer_style: How yes and no are spelled, see `attribute`.
        tell: Called with the verdict on what the model knows, before anything else.
        options: Further arguments of `attribute`.

    Raises:
        ValueError: For bad arguments, or if no neuron passes the thresholds.
    """
    out = Path(out)
    check_thresholds(tau, beta)
    if aggregation not in get_args(Aggregation):
        allowed = ", ".join(get_args(Aggregation))
        raise ValueError(f"aggregation is {aggregation!r}: allowed are {allowed}.")
    if aggregation == "at-least-two" and len({question.dimension for question in questions}) < 2:
        raise ValueError("aggregation is 'at-least-two', but the questions have one dimension.")
    check_settings(**options)
    template, progress = options.get("template"), options.get("progress", True)
    found = check_knowledge(
        model, questions, template=template, answer_style=answer_style, progress=progress
    )
    found.save(out / "knowledge.json")
    tell(found.verdict())
    attributions = attribute(
        model,
        questions,
        answer_style=answer_style,
        knowledge=found,
        cache_dir=out / "attribution_cache",
        **options,
    )
    attributions.save(out / "attributions.safetensors")
    sets = {
        dimension: select_neurons(part, tau=tau, beta=beta)
        for dimension, part in attributions.by_dimension().items()
    }
    neurons = _aggregate(attributions, sets, aggregation, tau, beta)
    for dimension, one in sets.items():
        one.save(out / "neurons" / f"{dimension}.json")
    neurons.save(out / "neurons.json")
    return Identified(found, attributions, sets, neurons)


def _aggregate(
    attributions: Attributions,
    sets: Mapping[str, NeuronSet],
    aggregation: Aggregation,
    tau: float,
    beta: float,
) -> NeuronSet:
    if aggregation == "pooled":
        neurons = select_neurons(attributions, tau=tau, beta=beta)
    else:
        least = {"union": 1, "intersection": len(sets), "at-least-two": 2}[aggregation]
        neurons = NeuronSet.at_least(sets.values(), least)
    if not len(neurons):
        raise ValueError(
            f"no neuron passes tau {tau:g} and beta {beta:g} ({aggregation}). Lower them; scores "
            "are kept."
        )
    return neurons
