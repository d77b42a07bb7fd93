"""The main job: from a model's name to neurons, numbers and figures in one folder.

Each stage writes what it found before the next begins, and a stage that finds its own work done
under the same settings does not repeat it: a run that was interrupted goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kb_lens.attribution import Attributions, attribute, check_settings
from kb_lens.benchmarks import Benchmark
from kb_lens.conditions import Condition
from kb_lens.doctor import Check, as_table, examine
from kb_lens.evaluation import EvaluationResult, check_folder, evaluate, save_results
from kb_lens.files import write_text
from kb_lens.knowledge import AnswerStyle, Knowledge, check_knowledge
from kb_lens.models import fingerprint, model_name
from kb_lens.neurons import NeuronSet, check_thresholds, select_neurons
from kb_lens.questions import Question
from kb_lens.specificity import TAUS, Specificity, gather, specificity

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


def measure(
    model: Any,
    condition: Condition,
    benchmarks: Sequence[Benchmark],
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate one condition on all benchmarks; results that are there already are kept.

    Args:
        model: The model, without the intervention.
        condition: What is done to it.
        benchmarks: What is measured.
        folder: Where ``results.json`` and ``items/`` are.
        seed: Of the bootstrap.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder has results of another model or intervention.
    """
    check_folder(folder, model, condition.describe())
    benchmarks = [condition.asked(benchmark) for benchmark in benchmarks]
    kept = _kept(folder, benchmarks, seed)
    missing = [benchmark for benchmark in benchmarks if benchmark.key not in kept]
    with condition.applied(model) if missing else nullcontext():
        for benchmark in missing:
            result = evaluate(
                model, benchmark, batch_tokens=batch_tokens, progress=progress, seed=seed
            )
            save_results(folder, [result], intervention=condition.describe())
            kept[benchmark.key] = result
    return [kept[benchmark.key] for benchmark in benchmarks]


def _kept(
    folder: str | os.PathLike[str], benchmarks: Sequence[Benchmark], seed: int
) -> dict[str, EvaluationResult]:
    """Results on the same items, asked the same way, that are there whole."""
    kept = {}
    for benchmark in benchmarks:
        try:
            found = EvaluationResult.load(folder, benchmark.key)
        except (ValueError, OSError):  # none, or damaged: measured again
            continue
        same = (found.digest, found.seed) == (benchmark.digest, seed)
        if same and list(found.items["item"]) == list(benchmark.items["item"]):
            kept[benchmark.key] = found
    return kept


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found."""

    knowledge: Knowledge
    """What the model answers."""
    specificity: Specificity | None
    """What else selects the neurons; None if that was not asked for."""
    checks: list[Check]
    """Every check with its status, numbers and advice."""


def diagnose(
    model: Any,
    questions: Sequence[Question],
    out: str | os.PathLike[str],
    *,
    controls: bool = False,
    attributions: Attributions | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    base: Sequence[EvaluationResult] = (),
    enhanced: Sequence[EvaluationResult] = (),
    control: Sequence[EvaluationResult] = (),
    tau: float = 0.10,
    beta: float = 0.10,
    seed: int = 0,
    **options: Any,
) -> Diagnosis:
    """Judge a model and, where they are given, its neurons and results; see `kb_lens.doctor`.

    Writes ``knowledge.json`` and ``checks.json``; with controls ``specificity.csv``,
    ``stability.csv`` and ``control_knowledge.json``.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        questions: The bias-knowledge questions.
        out: The folder.
        controls: Whether to attribute the wrong answers, plain facts and logit differences.
        attributions: What `attribute` found for these questions; attributed if `controls` need it.
        sets: The neurons of each dimension.
        base: Results of the model as it is.
        enhanced: Results with the neurons enhanced.
        control: Results with random neurons enhanced.
        tau: Saliency threshold.
        beta: Consistency threshold.
        seed: Of the random halves.
        options: Further arguments of `attribute`.

    Raises:
        ValueError: For bad arguments, or attributions or results of another model.
    """
    out = Path(out)
    check_thresholds(tau, beta)
    _check_same_model(model, attributions, (*base, *enhanced, *control))
    asking = {k: v for k, v in options.items() if k in ("template", "answer_style", "progress")}
    knowledge = check_knowledge(model, questions, **asking)
    knowledge.save(out / "knowledge.json")
    found = None
    if controls:
        cache = out / "attribution_cache"
        given: dict[str, Any] = {"bias": attributions, "knowledge": knowledge, "cache_dir": cache}
        evidence = gather(model, questions, **given, **options)
        found = specificity(evidence, taus=sorted({*TAUS, tau}), beta=beta, seed=seed)
        found.save(out)
        attributions = evidence.bias
        parts = attributions.by_dimension().items()
        sets = sets or {name: select_neurons(part, tau, beta) for name, part in parts}
    checks = examine(
        knowledge=knowledge,
        attributions=attributions,
        sets=sets,
        specificity=found,
        base=base,
        enhanced=enhanced,
        control=control,
        tau=tau,
    )
    table = as_table(checks).to_dict("records")
    write_text(out / "checks.json", json.dumps(table, indent=1) + "\n")
    return Diagnosis(knowledge, found, checks)


def _check_same_model(
    model: Any, attributions: Attributions | None, results: Sequence[EvaluationResult]
) -> None:
    names = {result.model for result in results} | {model_name(model)}
    weights = {fingerprint(model)}
    if attributions is not None:
        weights.add(attributions.settings.fingerprint)
    if len(names) > 1 or len(weights) > 1:
        raise ValueError(
            f"the attributions or results are of another model: {', '.join(sorted(names))} "
            f"(weights {', '.join(sorted(weights))}). Examine a model with its own."
        )
