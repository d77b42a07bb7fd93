"""Baselines that change the prompt or the scoring, but no activation."""

from __future__ import annotations

from kb_lens.benchmarks.benchmark import result_key
from kb_lens.benchmarks.catalogue import BENCHMARKS, protocols
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.second_pass import SecondPass
from kb_lens.interventions.self_debiasing import SelfDebiasing
from kb_lens.studies.lab import Case, Lab

# over_correction is a chat too, but its answers cannot rely on an assumption
CHATS = tuple(
    result_key(name, protocol)
    for name in BENCHMARKS
    for protocol in protocols(name)
    if protocol in ("instructed", "generated") and name != "over_correction"
)
"""Keys of the benchmarks that list answers in a chat, which can be asked twice."""


def asked_otherwise(lab: Lab) -> list[Case]:
    """Self-Debiasing of both kinds, and the second pass, with their default settings.

    Self-Debiasing is measured only on `CHATS`; in a study without them it has no rows.
    """
    kinds = {
        f"self-debiasing, {kind}": SelfDebiasing(kind) for kind in ("explanation", "reprompting")
    }
    twice = [
        Case({"method": name}, Condition(name, change), benchmarks=CHATS)
        for name, change in kinds.items()
    ]
    second = "second pass"
    return [*twice, Case({"method": second}, Condition(second, SecondPass()))]
