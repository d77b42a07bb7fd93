"""Results in words, with their numbers: the summary of a report.

An effect is claimed only if its interval is clear of 0. It is ascribed to these neurons only if the
interval of its difference from random neurons is clear of 0 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kb_lens.benchmarks.catalogue import formulas, named_by
from kb_lens.benchmarks.titles import benchmark_title, metric_title
from kb_lens.evaluation.comparison import gain
from kb_lens.evaluation.results import EvaluationResult, conditions_of
from kb_lens.intervals import count_text, interval_text
from kb_lens.knowledge.verdict import Outcome
from kb_lens.neurons.sets import NeuronSet
from kb_lens.statistics import Metric, MetricRole

Point = tuple[str, Sequence[str]]
"""A sentence, and the sentences below it."""
CHANGE = "+z.2f"
"""The format of a change: signed, and never a negative zero."""
# longer lists are not read to the end
N_LISTED = 6


def neuron_words(neurons: NeuronSet, sets: Mapping[str, NeuronSet], aggregation: str) -> str:
    """The number of neurons, in all and per dimension."""
    total = neurons.n_layers * neurons.d_mlp
    share = 100 * len(neurons) / total
    thresholds = ""
    for name, threshold in (("tau", neurons.tau), ("beta", neurons.beta)):
        if threshold is not None:
            thresholds += f", {name} {100 * threshold:g} %"
    if not thresholds:
        return f"{len(neurons)} of {total:,} neurons ({share:.2g} %) were given: {neurons.origin}."
    sizes = ", ".join(f"{dimension} {len(members)}" for dimension, members in sets.items())
    return (
        f"{len(neurons)} of {total:,} neurons ({share:.2g} %) were selected "
        f"({aggregation} of the dimensions{thresholds}): {sizes}."
    )


def check_point(checks: pd.DataFrame) -> Point:
    """The result of the checks, and the findings of those that did not pass."""
    counts = checks["status"].value_counts(sort=False)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    lines = []
    for row in checks.to_dict("records"):
        if row["status"] in ("failed", "warning"):
            line = f"{row['check']} ({row['status']}): {row['finding']} {row['advice']}"
            lines.append(line.strip())
    return f"The doctor's {len(checks)} checks: {summary}.", lines


# -- a run: base, methods, controls ------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """The effect of a condition on one metric of a benchmark."""

    condition: str
    """The change of the model."""
    benchmark: str
    """The result's key."""
    metric: str
    """The benchmark's first metric that has a best value."""
    role: MetricRole
    """What the metric measures: bias or ability."""
    best: float
    """The metric's best value."""
    before: float
    """The metric of the base model."""
    after: float
    """The metric under the condition."""
    gain: Metric
    """How much nearer it came to its best value, with its paired interval."""
    beyond: Metric | None
    """The gain minus that of random neurons; the smallest of several controls, None without one."""

    @property
    def name(self) -> str:
        """The benchmark and the metric, as they are usually written."""
        return f"{benchmark_title(self.benchmark)}: {metric_title(self.metric)}"

    @property
    def specific(self) -> bool:
        """Whether it came nearer, and by more than under random neurons."""
        return self.gain.low > 0 and self.beyond is not None and self.beyond.low > 0

    @property
    def verdict(self) -> str:
        """The conclusion from the intervals."""
        if self.gain.high < 0:
            return "further from its best value"
        if not self.gain.low > 0:  # true for NaN too: a single cluster gives no interval
            return "no change shown"
        if self.beyond is None:
            return "nearer to its best value, no random control"
        if self.specific:
            return "nearer to its best value, more than random"
        return "nearer to its best value, not shown to be more than random"


def changes(results: Mapping[str, Sequence[EvaluationResult]], *, seed: int = 0) -> list[Change]:
    """The effect of every method on each benchmark's first metric that has a best value.

    Args:
        results: Condition -> its results. Their roles are in the results (`conditions_of`);
            without roles the first is the base and the others are methods. Only the first of
            several random draws of a control is used.
        seed: Seed of the bootstraps.
    """
    by_key = {name: {r.key: r for r in measured} for name, measured in results.items()}
    conditions = conditions_of(results)
    base: dict[str, EvaluationResult] = {}
    # By draw: a draw may be used by the same factor and at the same damage.
    controls: dict[str, dict[int | None, list[dict[str, EvaluationResult]]]] = {}
    for name, info in conditions.items():
        if info.role == "base":
            base = base or by_key[name]
        elif info.role == "control" and info.control_of is not None:
            draws = controls.setdefault(info.control_of, {})
            draws.setdefault(info.draw, []).append(by_key[name])
    rows = []
    for name, info in conditions.items():
        if info.role != "method":
            continue
        alike = next(iter(controls.get(name, {}).values()), [])
        for key, after in by_key[name].items():
            if key in base:
                measured = [control[key] for control in alike if key in control]
                rows += _change(name, base[key], after, measured, seed)
    return rows


def _change(
    condition: str,
    before: EvaluationResult,
    after: EvaluationResult,
    controls: Sequence[EvaluationResult],
    seed: int,
) -> Iterator[Change]:
    """The change of the first metric that has a best value; None if there is none."""
    definition = formulas(after.benchmark, after.protocol)
    judged = [metric for metric in definition.judged if metric in after.metrics]
    if not judged:
        return
    metric = judged[0]
    info = definition.describe(metric)
    assert info.best is not None  # a judged metric has a best value
    beyond = [gain(control, after, metric, seed=seed) for control in controls]
    yield Change(
        condition=condition,
        benchmark=after.key,
        metric=metric,
        role=info.role,
        best=info.best,
        before=before.metrics[metric].value,
        after=after.metrics[metric].value,
        gain=gain(before, after, metric, seed=seed),
        beyond=min(beyond, key=lambda metric: metric.low, default=None),
    )


def headline(rows: Iterable[Change]) -> pd.DataFrame:
    """One row per change, with readable names.

    Returns:
        condition, metric, before, after, best, gain and beyond with the ends of their intervals
        (``gain_low``, ...), verdict, items.
    """
    nothing = Metric(*3 * [float("nan")], n=0)  # an empty cell
    return pd.DataFrame(
        {
            "condition": change.condition,
            "metric": change.name,
            "before": change.before,
            "after": change.after,
            "best": change.best,
            **_ends("gain", change.gain),
            **_ends("beyond", change.beyond or nothing),
            "verdict": change.verdict,
            "items": count_text(change.gain.n, change.gain.clusters),
        }
        for change in rows
    )


def _ends(name: str, metric: Metric) -> dict[str, float]:
    return {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}


def knowledge_words(outcome: Outcome) -> list[str]:
    """What a verdict on knowledge takes from every effect: a line, and none for KNOWS."""
    if outcome == "KNOWS":
        return []
    return [f"Knowledge: {outcome}. No effect is shown to be one of knowing bias."]


def conclusion(rows: Sequence[Change]) -> str:
    """Whether debiasing is shown, in a sentence or two; `rows` is what `changes` returned."""
    bias = [change for change in rows if change.role == "bias"]
    if not bias:
        return "No enhanced model was measured on a bias benchmark: nothing to say about debiasing."
    total = f"of {len(bias)} comparisons (a factor on a bias benchmark)"
    if all(change.beyond is None for change in bias):
        closer = [change for change in bias if change.gain.low > 0]
        named = f": {_names(closer)}" if closer else ""
        return (
            "Debiasing is not judged: no random neurons were measured as a control. In "
            f"{len(closer)} {total} the metric came nearer to its best value, by 95 % intervals"
            f"{named}."
        )
    nearer = [change for change in bias if change.specific]
    away = [change for change in bias if change.gain.high < 0]
    come = "come nearer to its best value by more than random neurons move it"
    if nearer:
        sentences = [
            f"In {len(nearer)} {total} the metric did {come}, by 95 % intervals: {_names(nearer)}.",
            "With many comparisons some pass by chance; the intervals are not corrected for that.",
        ]
    else:
        sentences = [
            f"No debiasing is shown: in none {total} did the metric {come}, by 95 % intervals."
        ]
    if away:
        sentences.append(f"In {len(away)} it moved further away: {_names(away)}.")
    return " ".join(sentences)


def _names(rows: Sequence[Change]) -> str:
    names = [f"{change.condition} on {benchmark_title(change.benchmark)}" for change in rows]
    rest = len(names) - N_LISTED
    return ", ".join(names[:N_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def first_few(lines: Sequence[str]) -> list[str]:
    """The first lines, and the number of further ones."""
    rest = len(lines) - N_LISTED
    return [*lines[:N_LISTED], *([f"and {rest} more"] if rest > 0 else [])]


def damage_points(summary: pd.DataFrame) -> list[Point]:
    """The damage of each method to the language model: a sentence each.

    Args:
        summary: The result of `kb_lens.evaluation.comparison.summarize`.
    """
    methods = summary.query("role == 'method'")
    points: list[Point] = []
    for condition, rows in methods.groupby("condition", sort=False):
        verdicts = [f"{verdict} on {', '.join(keys)}" for verdict, keys in _damage(rows).items()]
        if verdicts:
            words = "; ".join(verdicts)
            sentence = f"{condition}, change of a token's mean log-probability: {words}."
            points.append((sentence, []))
    return points


def _damage(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Conclusion from the intervals -> its benchmarks."""
    verdicts: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        if not _in_nats(row["benchmark"], row["metric"]):
            continue
        verdict = "no change shown"
        if row["difference_high"] < 0:
            verdict = "damaged, which by itself pulls bias scores to the middle,"
        elif row["difference_low"] > 0:
            verdict = "the texts became likelier"
        ends = row["difference_low"], row["difference_high"]
        change = interval_text(row["difference"], *ends, CHANGE)
        verdicts.setdefault(verdict, []).append(f"{benchmark_title(row['benchmark'])} {change}")
    return verdicts


def _in_nats(key: str, metric: str) -> bool:
    """Whether a row of a summary is the mean log-probability per token."""
    benchmark = named_by(key)
    if benchmark is None:
        return False
    definition = formulas(*benchmark)
    # The rows about how items moved are not metrics of the benchmark.
    return metric in definition.info and definition.info[metric].unit == "nats a token"
