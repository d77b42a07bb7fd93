"""The conditions of a run: the neurons by each factor, and random neurons as controls.

The random neurons are as many of like influence in every layer. They are scaled once by the same
factor, and once by the factor at which they do the same damage to the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.checks.controls import influence, random_neurons
from kb_lens.checks.matched_factor import Matched
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import NeuronSet
from kb_lens.runs.execution import RunExecution
from kb_lens.runs.same_damage import Search, at_same_damage, damage, damage_texts, fits
from kb_lens.runs.settings import RunSettings
from kb_lens.runs.units import Unit
from kb_lens.store import Store

_WHAT = "LEFT OUT: random neurons of the same damage"


def run_conditions(
    model: HookedModel,
    neurons: NeuronSet,
    settings: RunSettings,
    execution: RunExecution,
    folder: Path,
    left_out: Callable[[str], object],
) -> list[Condition]:
    """The conditions to measure; the random neurons and their factors are found first.

    Args:
        model: The model.
        neurons: The neurons.
        settings: Factors and seed.
        execution: Batch size.
        folder: The folder for the influence and the measurements of the search.
        left_out: Called with the reason for each factor without a control of the same damage.
    """
    store = Store(folder, SUFFIX)
    sizes = influence(model, cache_dir=folder, progress=execution.progress)
    random = random_neurons(neurons, seed=settings.seed, influence=sizes)

    def measured(condition: Condition, benchmark: Benchmark) -> EvaluationResult:
        unit = Unit(condition, benchmark, settings.seed, execution.batch_tokens)
        return unit.measured(model, store)

    texts = damage_texts(settings.seed)
    factors: dict[float, float] = {}
    if fits(model, texts):
        lams = [lam for lam in settings.lam if lam > 1]
        searches = {lam: Search(random, damage(measured, texts, neurons, lam)) for lam in lams}
        options = {"progress": execution.progress}
        found = at_same_damage(model, [*searches.values()], measured, texts, store, **options)
        factors = _reached(dict(zip(searches, found, strict=True)), searches, left_out)
    else:
        left_out(f"{_WHAT}. The passages that measure it are longer than the model's context.")
    return conditions(neurons, random, settings.lam, factors)


def conditions(
    neurons: NeuronSet,
    random: NeuronSet,
    lams: Sequence[float],
    same_damage: Mapping[float, float],
) -> list[Condition]:
    """The unchanged model; the neurons by each factor; random neurons for each, as controls.

    Args:
        neurons: The neurons.
        random: As many random neurons of like influence in every layer.
        lams: The factors. Factor 1 changes nothing and has no control.
        same_damage: Factor -> the factor at which the random neurons do the same damage, if there
            is one.
    """
    enhanced = [Condition(f"lambda {lam:g}", Scaling(neurons, lam)) for lam in lams]
    alike = [_control(f"random lambda {lam:g}", random, lam, lam) for lam in lams if lam != 1]
    damaging = [
        _control(f"random, damage of lambda {lam:g}", random, factor, lam)
        for lam, factor in same_damage.items()
    ]
    return [Condition("base"), *enhanced, *alike, *damaging]


def _control(name: str, random: NeuronSet, factor: float, lam: float) -> Condition:
    method = f"lambda {lam:g}"
    return Condition(name, Scaling(random, factor), role="control", control_of=method, draw=0)


def _reached(
    found: Mapping[float, Matched],
    searches: Mapping[float, Search],
    left_out: Callable[[str], object],
) -> dict[float, float]:
    """Factor of the neurons -> the factor at which random ones do the same damage, if there is one.

    Only for factors above 1: damage by weakening neurons cannot be matched by a factor above 1.
    """
    for lam, matched in found.items():
        if not matched.reached:
            left_out(
                f"{_WHAT} as lambda {lam:g}, {searches[lam].target:+.3f} nats a token on plain "
                f"text: random neurons come no nearer than {matched.damage:+.3f}, at lambda "
                f"{matched.lam:.3g}."
            )
    return {lam: matched.lam for lam, matched in found.items() if matched.reached}
