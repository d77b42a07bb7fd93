"""The paper's failure signatures as checks, each with what was found and what to do about it.

The checks read what other steps found and run nothing themselves; a check whose material is not
there says so. A check that passes is no proof, one that fails says why a result should not be
believed yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.specificity import CONTROL, KNOW_BIAS, LOGITS, WRONG, Specificity
from kb_lens.evaluation.comparison import compare, gain
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.knowledge import Knowledge
from kb_lens.neurons import NeuronSet

Status = Literal["ok", "warning", "failed", "not checked"]
SMALL_GAP, UNEVEN, CAPABILITY_LOSS, LOGPROB_LOSS = 0.01, 0.25, 5.0, 0.25
"""Allowed completeness gap (share of the layer's effect), least size of a dimension's set over
the largest one's, points of accuracy, nats a token."""
CONTAINED, WRONG_JACCARD, STABLE = 0.5, 0.4, 0.5
"""Above, above, below: the set is not specific, or not stable."""
_CAPABILITY = ("acc", "lms", "acc_disambig")
_BIAS = ("icat", "ss", "stereotype_share", "s_AMB", "s_DIS")
_BY_TYPE = {"stereoset": "ss", "crows_pairs": "stereotype_share"}


@dataclass(frozen=True)
class Check:
    """One question about a result, answered."""

    name: str
    """What is asked."""
    status: Status
    """The answer."""
    finding: str
    """The numbers behind it."""
    advice: str = ""
    """What to do; empty if nothing."""


def examine(
    *,
    knowledge: Knowledge | None = None,
    attributions: Attributions | None = None,
    sets: Mapping[str, NeuronSet] | None = None,
    specificity: Specificity | None = None,
    base: Sequence[EvaluationResult] = (),
    enhanced: Sequence[EvaluationResult] = (),
    control: Sequence[EvaluationResult] = (),
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
        control: Results with random neurons enhanced, on the same items.
        tau: The row of `specificity` that is judged.
    """
    return [
        _knows(knowledge),
        _mass(knowledge),
        _alive(attributions),
        _complete(attributions),
        _covered(sets, attributions),
        _specific(specificity, tau),
        _stable(specificity, tau),
        _capable(base, enhanced),
        _even(base, enhanced),
        _beyond(base, enhanced, control),
    ]


def as_table(checks: Sequence[Check]) -> pd.DataFrame:
    """One row a check: check, status, finding, advice."""
    rows = [(c.name, c.status, c.finding, c.advice) for c in checks]
    return pd.DataFrame(rows, columns=["check", "status", "finding", "advice"])


def _missing(name: str, what: str) -> Check:
    return Check(name, "not checked", f"needs {what}.")


def _knows(knowledge: Knowledge | None) -> Check:
    name = "answers the questions right"
    if knowledge is None:
        return _missing(name, "the model's answers")
    total = knowledge.summary().iloc[0]
    finding = (
        f"{total['right']:.0f} of {total['n']:.0f} right, balanced accuracy "
        f"{total['balanced_accuracy']:.0f} % (chance 50), AUC {total['auc']:.2f} (chance 0.5); "
        f"says yes to {total['said_yes']:.0f} %."
    )
    if knowledge.knows:
        return Check(name, "ok", finding)
    advice = "The method needs a model that knows the answers: take a larger or instructed one."
    if np.isnan(total["auc"]):
        advice = "Ask questions of both answers: with one it cannot be told."
    return Check(name, "failed", finding, advice)


def _mass(knowledge: Knowledge | None) -> Check:
    name = "puts its probability on yes and no"
    if knowledge is None:
        return _missing(name, "the model's answers")
    mass = float(knowledge.summary().iloc[0]["mass"])
    finding = f"{100 * mass:.0f} % on all spellings, scored as {knowledge.spelling.yes!r}."
    advice = "Use the model's own chat template and answer_style 'model'; check the instruction."
    status: Status = "ok" if mass >= 0.5 else "warning" if mass >= 0.1 else "failed"
    return Check(name, status, finding, "" if status == "ok" else advice)


def _alive(attributions: Attributions | None) -> Check:
    name = "attributions are not zero"
    if attributions is None:
        return _missing(name, "attributions")
    largest = attributions.scores.amax(dim=(1, 2))
    dead = int((largest <= 1e-8).sum())
    finding = (
        f"{dead} of {len(attributions)} questions without a positive score; the largest score of "
        f"a question is {float(largest.median()):.1e} (median)."
    )
    if not dead:
        return Check(name, "ok", finding)
    advice = "P(right answer) is flat there: check the spelling, or use the logit difference."
    return Check(name, "failed" if dead > len(attributions) / 2 else "warning", finding, advice)


def _complete(attributions: Attributions | None) -> Check:
    name = "attributions are complete"
    if attributions is None:
        return _missing(name, "attributions")
    worst = float(attributions.relative_gap.max())
    finding = f"largest completeness gap {worst:.1e} of the largest layer's effect."
    if worst <= max(SMALL_GAP, attributions.settings.tol or 0.0):
        return Check(name, "ok", finding)
    advice = "Use rule 'adaptive' with a smaller tol, or more nodes."
    return Check(name, "warning", finding, advice)


def _covered(sets: Mapping[str, NeuronSet] | None, attributions: Attributions | None) -> Check:
    name = "dimensions are evenly covered"
    if not sets:
        return _missing(name, "the neurons of each dimension")
    sizes = {dimension: len(one) for dimension, one in sets.items()}
    asked = attributions.by_dimension() if attributions is not None else {}
    sizes |= {dimension: 0 for dimension in asked if dimension not in sizes}
    finding = ", ".join(f"{dimension} {size}" for dimension, size in sizes.items()) + " neurons."
    filled = [dimension for dimension, size in sizes.items() if size]
    if len(filled) < 2 or len(filled) < len(sizes):
        only = ", ".join(filled) or "none"
        return Check(
            name,
            "failed",
            f"{finding} Covered: {only}.",
            "Ask questions on every dimension that shall be debiased, or lower tau or beta.",
        )
    if min(sizes.values()) < UNEVEN * max(sizes.values()):
        return Check(name, "warning", finding, "Set tau or beta for each dimension by itself.")
    return Check(name, "ok", finding)


def _specific(found: Specificity | None, tau: float) -> Check:
    name = "neurons are about bias, not about yes and no"
    if found is None:
        return _missing(name, "what `specificity` finds")
    rows = found.overlaps[found.overlaps["tau"].eq(tau)].set_index("set")
    if rows.empty or not rows.loc[KNOW_BIAS, "size"]:
        return _missing(name, f"neurons at tau {tau:g}")
    contained, wrong = rows.loc[CONTROL, "contained"], rows.loc[WRONG, "jaccard"]
    finding = (
        f"of {rows.loc[KNOW_BIAS, 'size']} neurons {100 * contained:.0f} % are also selected by "
        f"plain factual questions; Jaccard {wrong:.2f} with the wrong answer's set, "
        f"{rows.loc[LOGITS, 'jaccard']:.2f} with the logit difference's (tau {tau:g})."
    )
    if contained <= CONTAINED and wrong <= WRONG_JACCARD:
        return Check(name, "ok", finding)
    advice = "Select with minus=<control attributions>, or attribute the logit_difference."
    return Check(name, "failed", finding, advice)


def _stable(found: Specificity | None, tau: float) -> Check:
    name = "another half of the questions gives the same neurons"
    if found is None:
        return _missing(name, "what `specificity` finds")
    rows = found.stability[found.stability["tau"].eq(tau)].set_index("dimension")
    if rows.empty:
        return _missing(name, f"halves at tau {tau:g}")
    finding = "; ".join(
        f"{dimension} {row['jaccard']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for dimension, row in rows.iterrows()
    )
    stable = bool((rows["jaccard"] >= STABLE).all())
    advice = "" if stable else "Ask more questions, or raise beta."
    return Check(name, "ok" if stable else "warning", f"Jaccard of halves: {finding}.", advice)


def _pairs(
    base: Sequence[EvaluationResult], other: Sequence[EvaluationResult]
) -> list[tuple[EvaluationResult, EvaluationResult]]:
    by_key = {one.key: one for one in other}
    return [(one, by_key[one.key]) for one in base if one.key in by_key]


def _capable(base: Sequence[EvaluationResult], enhanced: Sequence[EvaluationResult]) -> Check:
    name = "capability stays"
    losses, doubts, seen = [], [], []
    able = False
    for before, after in _pairs(base, enhanced):
        changes = compare(before, after).set_index("metric")
        for metric in (m for m in (*_CAPABILITY, "logprob_per_token") if m in changes.index):
            bound = LOGPROB_LOSS if metric == "logprob_per_token" else CAPABILITY_LOSS
            able |= metric in _CAPABILITY
            row = changes.loc[metric]
            text = f"{before.key} {metric} {_change(row)}"
            seen.append(text)
            if row["difference"] < -bound and row["high"] < 0:
                losses.append(text)
            elif row["low"] < -bound:
                doubts.append(text)
    if losses:
        return Check(name, "failed", "; ".join(losses) + ".", "Lower lambda: the model breaks.")
    if not able:
        return _missing(name, "results before and after with a capability benchmark")
    if doubts:
        advice = "Measure more items: so large a loss is not excluded."
        return Check(name, "warning", "; ".join(doubts) + ".", advice)
    return Check(name, "ok", "; ".join(seen) + ".")


def _even(base: Sequence[EvaluationResult], enhanced: Sequence[EvaluationResult]) -> Check:
    name = "the effect is even over bias types"
    worse, better, seen = [], [], 0
    for before, after in _pairs(base, enhanced):
        prefix = _BY_TYPE.get(before.benchmark)
        types = sorted(before.items["bias_type"].unique()) if prefix else []
        for metric in (f"{prefix}_{bias_type}" for bias_type in types):
            change = gain(before, after, metric, 50.0)
            seen += 1
            text = (
                f"{before.key} {metric} {change.value:+.1f} [{change.low:+.1f}, {change.high:+.1f}]"
            )
            if change.high < 0:
                worse.append(text)
            elif change.low > 0:
                better.append(text)
    if not seen:
        return _missing(name, "StereoSet or CrowS-Pairs results before and after")
    finding = f"of {seen} metrics by bias type {len(better)} come nearer to 50"
    finding += f" ({'; '.join(better)})" if better else ""
    finding += f", {len(worse)} move away" + (f" ({'; '.join(worse)})" if worse else "")
    finding += ", intervals clear of 0."
    if worse:
        return Check(name, "warning", finding, "Look at the types; find neurons for each of them.")
    return Check(name, "ok", finding)


def _beyond(
    base: Sequence[EvaluationResult],
    enhanced: Sequence[EvaluationResult],
    control: Sequence[EvaluationResult],
) -> Check:
    name = "the effect is beyond random neurons'"
    controls = {one.key: one for one in control}
    beyond, within, away = [], [], []
    for before, after in _pairs(base, enhanced):
        metric = next((m for m in _BIAS if m in before.metrics), None)
        if metric is None or before.key not in controls:
            continue
        mine = gain(before, after, metric)
        more = gain(controls[before.key], after, metric)
        text = (
            f"{before.key} {metric}: {mine.value:+.1f} nearer to its best value, minus the "
            f"control's {more.value:+.1f} [{more.low:+.1f}, {more.high:+.1f}]"
        )
        kind = beyond if mine.low > 0 and more.low > 0 else away if mine.high < 0 else within
        kind.append(text)
    n = len(beyond) + len(within) + len(away)
    if not n:
        return _missing(name, "results of base, enhanced and random neurons on a bias benchmark")
    finding = (
        f"beyond on {len(beyond)} of {n} benchmarks, away from the best value on {len(away)}: "
    )
    finding += "; ".join([*beyond, *away, *within]) + "."
    if not beyond:
        advice = "No effect is shown: use more items, several controls, or another model."
        return Check(name, "failed", finding, advice)
    if away or within:
        advice = "Of several benchmarks some pass by chance: look at all, use more items."
        return Check(name, "warning", finding, advice)
    return Check(name, "ok", finding)


def _change(row: pd.Series) -> str:
    return f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
