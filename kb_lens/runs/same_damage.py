"""Random neurons brought to the damage that a method does, measured and kept as units are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.checks.matched_factor import Matched, matched_factor
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Scaling
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons import NeuronSet

# Every step of the search scores them all, for every draw: so few, and always the same.
N_DAMAGE_TEXTS = 24
"""Passages of plain text that damage is measured on."""

Measured = Callable[[Condition, Benchmark], EvaluationResult]
"""One condition on one benchmark, by who keeps what was measured."""


def damage_texts(seed: int) -> Benchmark:
    """What damage is measured on."""
    return load_benchmark("plain_text", limit=N_DAMAGE_TEXTS, seed=seed)


def fits(model: HookedModel, texts: Benchmark) -> bool:
    """Whether every passage is within the model's context."""
    n_ctx = getattr(model.cfg, "n_ctx", None)
    passages = [option for request in texts.requests for option in request.options]
    # One token more stands before a passage.
    longest = 1 + max(len(ids) for ids in model.tokenizer(passages)["input_ids"])
    return n_ctx is None or longest <= n_ctx


def damage(measured: Measured, texts: Benchmark, neurons: NeuronSet, lam: float) -> float:
    """The change of the mean log-probability of a token on plain text; below 0 is damage."""
    scaled = Condition(f"lambda {lam:g}", Scaling(neurons, lam))
    before = measured(Condition("base"), texts).metrics["logprob_per_token"].value
    after = measured(scaled, texts).metrics["logprob_per_token"].value
    return after - before


def at_same_damage(
    measured: Measured, texts: Benchmark, control: NeuronSet, target: float
) -> Matched:
    """The factor at which a control does a method's damage, see `matched_factor`.

    Args:
        measured: Measures one condition.
        texts: What damage is measured on.
        control: The neurons that are to do it.
        target: What it is to be, see `damage`. Nothing is measured unless it is below 0.
    """
    if target >= 0:  # at factor 1, which does none, the control is nearest to a method that helps
        return Matched(1.0, 0.0, reached=False)
    return matched_factor(partial(damage, measured, texts, control), target)
