"""Checks for known ways to fail, each with a finding and advice.

The checks read the results of other steps and run nothing themselves. A check without its data says
so. A check that passes is no proof; a check that fails says why a result should not be believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks import effect_checks, neuron_checks
from kb_lens.checks.check import Check
from kb_lens.checks.specificity import Specificity
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons.sets import NeuronSet


def examine(
    *,
    knowledge: Knowledge | None = None,
    attributions: Attributions | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    specificity: Specificity | None = None,
    base: Sequence[EvaluationResult] = (),
    enhanced: Sequence[EvaluationResult] = (),
    control: Sequence[EvaluationResult] = (),
    same_damage: Sequence[EvaluationResult] = (),
    tau: float = 0.10,
) -> list[Check]:
    """Every check, in the order of the method's steps.

    Args:
        knowledge: The model's answers.
        attributions: The scores of the questions.
        sets: The neurons of each dimension.
        specificity: The result of `specificity`.
        base: Results of the unchanged model.
        enhanced: Results with the neurons enhanced, on the same items.
        control: Results with random neurons of like influence enhanced by the same factor, on the
            same items.
        same_damage: The same, by the factor at which they do the same damage.
        tau: The row of `specificity` that is judged.
    """
    # in the order of the method: each step needs those before it
    return [
        neuron_checks.knows(knowledge),
        neuron_checks.on_answers(knowledge),
        neuron_checks.alive(attributions),
        neuron_checks.complete(attributions),
        neuron_checks.covered(sets, attributions),
        neuron_checks.specific(specificity, tau),
        neuron_checks.stable(specificity, tau),
        effect_checks.capable(base, enhanced),
        effect_checks.even(base, enhanced),
        effect_checks.beyond_random(base, enhanced, control, same_damage),
    ]


def as_table(checks: Sequence[Check]) -> pd.DataFrame:
    """One row per check: check, status, finding, advice."""
    rows = [(check.name, check.status, check.finding, check.advice) for check in checks]
    return pd.DataFrame(rows, columns=["check", "status", "finding", "advice"])
