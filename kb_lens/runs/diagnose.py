"""A model, its neurons and its results judged, in one folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.doctor import Check, as_table, examine
from kb_lens.checks.specificity import TAUS, Specificity, gather, specificity
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import write_text
from kb_lens.knowledge import Knowledge, check_knowledge
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.neurons import NeuronSet, check_thresholds, select_neurons
from kb_lens.questions import Question


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
    """Judge a model and, where they are given, its neurons and results; see `kb_lens.checks.doctor`.

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
