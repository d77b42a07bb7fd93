"""What results say, in words with their numbers: the summary of a report.

An effect is claimed only where its interval is clear of 0, and one of these neurons only where the
interval of what they do more than random neurons is so too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kb_lens.benchmarks.catalogue import formulas
from kb_lens.evaluation.comparison import gain
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.neurons import NeuronSet
from kb_lens.statistics import Metric

Point = tuple[str, Sequence[str]]
"""A sentence, and those below it."""
ABILITY = ("acc", "perplexity")
"""How the names of metrics begin that say what a model can do, not how biased it is."""
_FLUENCY = "logprob_per_token"
_NAMED = 6
"""At most so many cases are named in a sentence."""


def neuron_words(neurons: NeuronSet, sets: Mapping[str, NeuronSet], joined: str) -> str:
    """How many neurons there are, in all and per dimension."""
    total = neurons.n_layers * neurons.d_mlp
    thresholds = [(n, v) for n in ("tau", "beta") if (v := getattr(neurons, n)) is not None]
    at = "".join(f", {name} {100 * value:g} %" for name, value in thresholds)
    parts = ", ".join(f"{name} {len(one)}" for name, one in sets.items())
    return (
        f"{len(neurons)} of {total:,} neurons ({100 * len(neurons) / total:.2g} %) were selected "
        f"({joined} of the dimensions{at}): {parts}."
    )


def check_point(checks: pd.DataFrame) -> Point:
    """How the checks went, and what those say that did not pass."""
    rows = checks.to_dict("records")
    every = [str(row["status"]) for row in rows]
    counts = ", ".join(f"{every.count(status)} {status}" for status in dict.fromkeys(every))
    bad = [row for row in rows if row["status"] in ("failed", "warning")]
    said = [f"{row['check']} ({row['status']}): {row['finding']} {row['advice']}" for row in bad]
    return f"The doctor's {len(rows)} checks: {counts}.", [one.strip() for one in said]


def interval(value: float, low: float, high: float) -> str:
    """A change with the ends of its interval."""
    return f"{value:+z.2f} [{low:+z.2f}, {high:+z.2f}]"


# -- a run: base, enhanced, random -------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What a condition did to one metric of a benchmark."""

    condition: str
    """What was done to the model."""
    benchmark: str
    """The result's key."""
    metric: str
    """The benchmark's first metric that has a best value."""
    best: float
    """That value."""
    before: float
    """The metric of the base model."""
    after: float
    """The metric under the condition."""
    gain: Metric
    """How much nearer it came to its best value, with its paired interval."""
    beyond: Metric | None
    """The gain minus that of random neurons; None without such a control."""

    @property
    def specific(self) -> bool:
        """Whether it came nearer, and by more than under random neurons."""
        return self.gain.low > 0 and self.beyond is not None and self.beyond.low > 0

    @property
    def verdict(self) -> str:
        """What the intervals allow to be said."""
        if self.gain.high < 0:
            return "further from its best value"
        if self.gain.low <= 0:
            return "no change shown"
        if self.beyond is None:
            return "nearer to its best value, no random control"
        more = "more than random" if self.specific else "not shown to be more than random"
        return f"nearer to its best value, {more}"


def changes(results: Mapping[str, Sequence[EvaluationResult]], *, seed: int = 0) -> list[Change]:
    """What every condition did to each benchmark's first metric that has a best value.

    Args:
        results: Condition -> its results: ``base``, and beside a condition ``random <condition>``,
            its control.
        seed: Of the bootstraps.
    """
    base = {one.key: one for one in results.get("base", [])}
    found = []
    for name, several in results.items():
        if name == "base" or name.startswith("random "):
            continue
        controls = {one.key: one for one in results.get(f"random {name}", [])}
        for after in several:
            best = formulas(after.benchmark, after.protocol).headline
            judged = [m for m in best if best[m] is not None and m in after.metrics]
            if after.key in base and judged:
                pair = base[after.key], after, controls.get(after.key)
                found.append(_change(name, *pair, judged[0], best[judged[0]] or 0.0, seed))
    return found


def _change(
    name: str,
    before: EvaluationResult,
    after: EvaluationResult,
    control: EvaluationResult | None,
    metric: str,
    best: float,
    seed: int,
) -> Change:
    return Change(
        condition=name,
        benchmark=after.key,
        metric=metric,
        best=best,
        before=before.metrics[metric].value,
        after=after.metrics[metric].value,
        gain=gain(before, after, metric, seed=seed),
        beyond=None if control is None else gain(control, after, metric, seed=seed),
    )


def table(found: Iterable[Change]) -> pd.DataFrame:
    """One row a change; `gain` and `beyond` with the ends of their intervals."""
    nothing = Metric(*3 * [float("nan")], n=0)
    return pd.DataFrame(
        {
            **{name: getattr(one, name) for name in ("condition", "benchmark", "metric")},
            **{name: getattr(one, name) for name in ("verdict", "best", "before", "after")},
            **_ends("gain", one.gain),
            **_ends("beyond", one.beyond or nothing),
            "n": one.gain.n,
        }
        for one in found
    )


def _ends(name: str, metric: Metric) -> dict[str, float]:
    return {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}


def conclusion(found: Sequence[Change], knows: bool | None) -> str:
    """Whether debiasing is shown, in a sentence or two.

    Args:
        found: What `changes` found.
        knows: Whether the model knows the answers; None if that is not known.
    """
    bias = [one for one in found if not one.metric.startswith(ABILITY)]
    shown, away = [one for one in bias if one.specific], [one for one in bias if one.gain.high < 0]
    if not bias:
        return "No enhanced model was measured on a bias benchmark: nothing is said of debiasing."
    of = f"of {len(bias)} comparisons (a factor on a bias benchmark)"
    nearer = "come nearer to its best value by more than random neurons move it"
    said = [f"No debiasing is shown: in none {of} did the metric {nearer}, by 95 % intervals."]
    if shown:
        said = [
            f"In {len(shown)} {of} the metric did {nearer}, by 95 % intervals: {_named(shown)}."
        ]
        said += ["Some of many comparisons pass by chance; the intervals do not allow for that."]
    if away:
        said.append(f"In {len(away)} it moved further away: {_named(away)}.")
    if shown and knows is False:
        said.append("The model does not know the answers: this is no effect of knowing bias.")
    return " ".join(said)


def _named(found: Sequence[Change]) -> str:
    return _listed([f"{one.condition} on {one.benchmark}" for one in found])


def change_points(found: Sequence[Change], summary: pd.DataFrame) -> list[Point]:
    """What each condition changed, and what it did to the language model.

    Args:
        found: What `changes` found.
        summary: What `kb_lens.evaluation.comparison.summarize` found for the same results.
    """
    points: list[Point] = []
    for name in dict.fromkeys(one.condition for one in found):
        said = [_change_words(one) for one in found if one.condition == name]
        said += _damage_words(summary.query("metric == @_FLUENCY and condition == @name"))
        points.append((f"{name}, how much nearer each metric came to its best value (gain):", said))
    return points


def _change_words(one: Change) -> str:
    more = "" if one.beyond is None else f", minus that of random neurons {_written(one.beyond)}"
    return (
        f"{one.benchmark} {one.metric}: {one.verdict}. {one.before:.2f} to {one.after:.2f} (best "
        f"{one.best:g}), gain {_written(one.gain)}{more}; n = {one.gain.n}."
    )


def _written(metric: Metric) -> str:
    return interval(metric.value, metric.low, metric.high)


def _damage_words(rows: pd.DataFrame) -> Iterator[str]:
    """One sentence for every verdict, with the benchmarks that it is about."""
    verdicts: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        verdict = "no change shown"
        if row["difference_high"] < 0:
            verdict = "damaged, which by itself pulls bias scores to the middle"
        elif row["difference_low"] > 0:
            verdict = "the texts became likelier"
        changed = interval(*(row[f"difference{end}"] for end in ("", "_low", "_high")))
        verdicts.setdefault(verdict, []).append(f"{row['benchmark']} {changed}")
    for verdict, found in verdicts.items():
        yield (
            f"the language model: {verdict}. Change of a token's mean log-probability: "
            f"{'; '.join(found)}."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
