"""The paper's failure signatures as checks, each with what was found and what to do about it.

The checks read what other steps found and run nothing themselves; a check whose material is not
there says so. A check that passes is no proof, one that fails says why a result should not be
believed yet.
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
        knowledge: What the model answers.
        attributions: The scores of the questions.
        sets: The neurons of each dimension.
        specificity: What else selects these neurons.
        base: Results of the model as it is.
        enhanced: Results with the neurons enhanced, on the same items.
        control: Results with random neurons of like influence enhanced by the same factor, on the
            same items.
        same_damage: The same by the factor at which they do the same damage.
        tau: The row of `specificity` that is judged.
    """
    # each step rests on those before it: read from the top
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
