"""The doctor's checks of how the neurons were found: answers, attributions, sets."""

from __future__ import annotations

from collections.abc import Mapping

from kb_lens.attribution.attributions import Attributions
from kb_lens.checks.check import Check, Status, judged, unchecked
from kb_lens.checks.specificity import CONTROL, KNOW_BIAS, LOGITS, WRONG, Specificity
from kb_lens.intervals import interval_text
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons.sets import NeuronSet

# the bounds are judgements, not estimates
SMALL_GAP, UNEVEN = 0.01, 0.25
"""Allowed completeness gap (share of the layer's effect); least allowed size of a dimension's set
divided by the largest one's."""
CONTAINED, WRONG_JACCARD, STABLE = 0.5, 0.4, 0.5
"""The set is not specific above the first two, and not stable below the third."""
READ_OR_ATTRIBUTE = (
    "`kb-lens doctor MODEL --results FOLDER` reads those of a run; --specificity computes them."
)
ATTRIBUTE = "`kb-lens doctor MODEL --specificity` attributes the control questions, in minutes."
"""What to do without attributions, and without those of the control questions."""
MASS, LEAST_MASS = 0.5, 0.1
"""Probability of all spellings of yes and no: below these a warning, and failed."""


def knows(knowledge: Knowledge | None) -> Check:
    """Whether the model answers the questions right."""
    name = "answers the questions right"
    if knowledge is None:
        return unchecked(name, "the model's answers")
    status: Status = "ok" if knowledge.knows else "failed"
    advice = "The method needs a model that knows the answers: take a larger or instructed one."
    if knowledge.outcome == "KNOWS THE FORM":
        advice = "It answers by the form of a question: take a larger or instructed model."
    elif knowledge.outcome == "CANNOT TELL":
        advice = "Remove the obstacle that the verdict names, then ask again."
    elif status == "ok" and knowledge.forms is None:
        status, advice = "warning", "Ask form questions too: `forms` of check_knowledge."
    return judged(name, status, knowledge.finding(), advice)


def on_answers(knowledge: Knowledge | None) -> Check:
    """Whether the model puts its probability on yes and no."""
    name = "puts its probability on yes and no"
    if knowledge is None:
        return unchecked(name, "the model's answers")
    mass = float(knowledge.summary().iloc[0]["mass"])
    finding = f"{100 * mass:.0f} % on all spellings, scored as {knowledge.spelling.yes!r}."
    advice = (
        "Use the model's own chat template and answer_style 'model', and check the instruction; a "
        "model without a chat template needs examples (--examples FILE)."
    )
    status: Status = "failed"
    if mass >= MASS:
        status = "ok"
    elif mass >= LEAST_MASS:
        status = "warning"
    return judged(name, status, finding, advice)


def alive(attributions: Attributions | None) -> Check:
    """Whether every question has a positive score."""
    name = "attributions are not zero"
    if attributions is None:
        return unchecked(name, "attributions", READ_OR_ATTRIBUTE)
    largest = attributions.scores.amax(dim=(1, 2))
    n_dead = int((largest <= 1e-8).sum())  # the size of float32 rounding of a probability
    finding = (
        f"{n_dead} of {len(attributions)} questions without a positive score; the largest score of "
        f"a question is {float(largest.median()):.1e} (median)."
    )
    advice = "P(right answer) is flat there: check the spelling, or use the logit difference."
    status: Status = "ok"
    if n_dead:
        status = "failed" if n_dead > len(attributions) / 2 else "warning"
    return judged(name, status, finding, advice)


def complete(attributions: Attributions | None) -> Check:
    """Whether the scores add up to the change of the output."""
    name = "attributions are complete"
    if attributions is None:
        return unchecked(name, "attributions", READ_OR_ATTRIBUTE)
    worst = float(attributions.relative_gap.max())
    finding = f"largest completeness gap {worst:.1e} of the largest layer's effect."
    allowed = max(SMALL_GAP, attributions.settings.tol or 0.0)
    advice = "Use rule 'adaptive' with a smaller tol, or more nodes."
    return judged(name, "ok" if worst <= allowed else "warning", finding, advice)


def covered(sets: Mapping[str, NeuronSet] | None, attributions: Attributions | None) -> Check:
    """Whether every dimension has neurons, in similar numbers."""
    name = "dimensions are evenly covered"
    if not sets:
        return unchecked(name, "the neurons of each dimension", READ_OR_ATTRIBUTE)
    sizes = {dimension: len(neurons) for dimension, neurons in sets.items()}
    # a dimension whose questions select no neuron has no set
    questioned = attributions.by_dimension() if attributions is not None else {}
    sizes |= {dimension: 0 for dimension in questioned if dimension not in sizes}
    finding = ", ".join(f"{dimension} {size}" for dimension, size in sizes.items()) + " neurons."
    filled = [dimension for dimension, size in sizes.items() if size]
    if len(filled) == len(questioned) == 1:
        return unchecked(name, "questions on a second dimension")
    if len(filled) < 2 or len(filled) < len(sizes):
        finding += f" Covered: {', '.join(filled) or 'none'}."
        advice = "Ask questions on every dimension to debias, or lower tau or beta."
        return Check(name, "failed", finding, advice)
    even = min(sizes.values()) >= UNEVEN * max(sizes.values())
    advice = "Set tau or beta for each dimension separately."
    return judged(name, "ok" if even else "warning", finding, advice)


def specific(specificity: Specificity | None, tau: float) -> Check:
    """Whether questions that have nothing to do with bias select other neurons."""
    name = "neurons are about bias, not about yes and no"
    if specificity is None:
        return unchecked(name, "what `specificity` finds", ATTRIBUTE)
    overlaps = specificity.overlaps
    rows = overlaps[overlaps["tau"].eq(tau)].set_index("set")
    if rows.empty or not rows.loc[KNOW_BIAS, "size"]:
        return unchecked(name, f"neurons at tau {tau:g}")
    contained = rows.loc[CONTROL, "contained"]
    wrong = rows.loc[WRONG, "jaccard"]
    finding = (
        f"of {rows.loc[KNOW_BIAS, 'size']} neurons {100 * contained:.0f} % are also selected by "
        f"plain factual questions; Jaccard {wrong:.2f} with the wrong answer's set, "
        f"{rows.loc[LOGITS, 'jaccard']:.2f} with the logit difference's (tau {tau:g})."
    )
    is_specific = contained <= CONTAINED and wrong <= WRONG_JACCARD
    advice = "Select with minus=<control attributions>, or attribute the logit_difference."
    return judged(name, "ok" if is_specific else "failed", finding, advice)


def stable(specificity: Specificity | None, tau: float) -> Check:
    """Whether random halves of the questions select the same neurons."""
    name = "another half of the questions gives the same neurons"
    if specificity is None:
        return unchecked(name, "what `specificity` finds", ATTRIBUTE)
    stability = specificity.stability
    rows = stability[stability["tau"].eq(tau)]
    if rows.empty:
        return unchecked(name, f"halves at tau {tau:g}")
    columns = zip(rows["dimension"], rows["jaccard"], rows["low"], rows["high"], strict=True)
    texts = [f"{dimension} {interval_text(*numbers)}" for dimension, *numbers in columns]
    is_stable = bool((rows["jaccard"] >= STABLE).all())
    finding = f"Jaccard of halves: {'; '.join(texts)}."
    advice = "Ask more questions, or raise beta."
    return judged(name, "ok" if is_stable else "warning", finding, advice)
