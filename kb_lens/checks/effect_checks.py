"""The doctor's checks of what enhancing the neurons did: to abilities, and to bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kb_lens.benchmarks.catalogue import formulas
from kb_lens.checks.check import Check, judged, unchecked
from kb_lens.evaluation.comparison import compare, gain, headline
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import interval_text
from kb_lens.statistics import Metric, MetricRole

# the bounds are judgements, not estimates: with a hundred items chance alone moves less
CAPABILITY_LOSS, LOGPROB_LOSS = 5.0, 0.25
"""Loss that counts as breaking the model: points of accuracy, nats a token."""
READ = "`kb-lens doctor MODEL --results FOLDER` reads those of a run with such benchmarks."
"""What to do without results."""

Results = Sequence[EvaluationResult]


def capable(base: Results, enhanced: Results) -> Check:
    """Whether the model can still do what it could."""
    name = "capability stays"
    losses: list[str] = []
    doubts: list[str] = []
    changes: list[str] = []
    has_ability = False
    for before, after in _pairs(base, enhanced):
        rows = compare(before, after).set_index("metric")
        ability = _first(before, "ability")
        has_ability |= ability is not None
        # accuracy may hide damage that benchmarks without accuracy show: texts become unlikely
        bounds = {ability: CAPABILITY_LOSS, _damage(before): LOGPROB_LOSS}
        for metric, bound in bounds.items():
            if metric not in rows.index:
                continue
            row = rows.loc[metric]
            change = interval_text(row["difference"], row["low"], row["high"], "+.2f")
            changes.append(f"{before.key} {metric} {change}")
            if row["difference"] < -bound and row["high"] < 0:
                losses.append(changes[-1])
            elif row["low"] < -bound:
                doubts.append(changes[-1])
    if losses:
        return Check(name, "failed", "; ".join(losses) + ".", "Lower lambda: the model breaks.")
    if not has_ability:
        return unchecked(name, "results before and after with a capability benchmark", READ)
    finding = "; ".join(doubts or changes) + "."
    advice = "Measure more items: a loss of that size is not excluded."
    return judged(name, "warning" if doubts else "ok", finding, advice)


def even(base: Results, enhanced: Results) -> Check:
    """Whether no bias type became worse."""
    name = "the effect is even over bias types"
    better: list[str] = []
    worse: list[str] = []
    targets: list[str] = []
    for before, after in _pairs(base, enhanced):
        for metric, best in _by_type(before):
            change = gain(before, after, metric, best)
            targets.append(f"{best:g}")
            text = f"{before.key} {metric} {_gain_text(change)}"
            if change.high < 0:
                worse.append(text)
            elif change.low > 0:
                better.append(text)
    if not targets:
        return unchecked(name, "StereoSet or CrowS-Pairs results before and after", READ)
    best = " or ".join(dict.fromkeys(targets))
    finding = f"of {len(targets)} metrics by bias type {len(better)} come nearer to {best}"
    finding += f" ({'; '.join(better)})" if better else ""
    finding += f", {len(worse)} move away" + (f" ({'; '.join(worse)})" if worse else "")
    finding += ", intervals clear of 0."
    advice = "Look at each bias type; find neurons for each of them."
    return judged(name, "warning" if worse else "ok", finding, advice)


def beyond_random(
    base: Results, enhanced: Results, control: Results, same_damage: Results = ()
) -> Check:
    """Whether bias came nearer to its best value than under each kind of random neurons."""
    name = "the effect is beyond random neurons'"
    kinds = {"of like influence": control, "of the same damage": same_damage}
    controls = {kind: {result.key: result for result in kinds[kind]} for kind in kinds}
    beyond: list[str] = []
    within: list[str] = []
    away: list[str] = []
    for before, after in _pairs(base, enhanced):
        metric = _first(before, "bias")
        present = {kind: of[before.key] for kind, of in controls.items() if before.key in of}
        if metric is None or not present:
            continue
        change = gain(before, after, metric)
        excess = {kind: gain(random, after, metric) for kind, random in present.items()}
        less = ", ".join(f"{kind} {_gain_text(excess[kind])}" for kind in excess)
        text = (
            f"{before.key} {metric}: {change.value:+.1f} nearer to its best value, minus that of "
            f"random neurons {less}"
        )
        if change.low > 0 and all(more.low > 0 for more in excess.values()):
            beyond.append(text)
        elif change.high < 0:
            away.append(text)
        else:
            within.append(text)
    texts = [*beyond, *away, *within]
    if not texts:
        return unchecked(
            name, "results of base, enhanced and random neurons on a bias benchmark", READ
        )
    finding = (
        f"beyond on {len(beyond)} of {len(texts)} benchmarks, away from the best value on "
        f"{len(away)}: {'; '.join(texts)}."
    )
    if not beyond:
        advice = "No effect is shown: use more items, several controls, or another model."
        return Check(name, "failed", finding, advice)
    advice = "With several benchmarks some pass by chance: look at all, use more items."
    return judged(name, "warning" if away or within else "ok", finding, advice)


def _pairs(base: Results, enhanced: Results) -> Iterator[tuple[EvaluationResult, EvaluationResult]]:
    """The results of the benchmarks that both have."""
    by_key = {result.key: result for result in enhanced}
    for result in base:
        if result.key in by_key:
            yield result, by_key[result.key]


def _first(result: EvaluationResult, role: MetricRole) -> str | None:
    """The first headline metric of a role that the result has."""
    describe = formulas(result.benchmark, result.protocol).describe
    return next((m for m in headline(result) if describe(m).role == role), None)


def _damage(result: EvaluationResult) -> str | None:
    """The metric of damage in nats a token."""
    info = formulas(result.benchmark, result.protocol).info
    # the first of several is over all items
    nats = (m for m in info if info[m].role == "damage" and info[m].unit == "nats a token")
    return next(nats, None)


def _by_type(result: EvaluationResult) -> Iterator[tuple[str, float]]:
    """The metrics of every bias type, with their best values."""
    definition = formulas(result.benchmark, result.protocol)
    if definition.by_type is None:
        return
    best = definition.describe(definition.by_type).best
    assert best is not None, "a metric by bias type tells how far a type is from its best value"
    for bias_type in sorted(result.items["bias_type"].unique()):
        yield f"{definition.by_type}_{bias_type}", best


def _gain_text(change: Metric) -> str:
    return interval_text(change.value, change.low, change.high, "+.1f")
