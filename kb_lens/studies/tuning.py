"""Choose lambda on some items, and measure what it does on others.

The best of several factors looks better than it is on the items that it was chosen by. So the
items are split: the sweep sees the development part alone, and what the chosen factor does is
measured on the test part, which had no say.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.comparison import compare, flip_names, gain, headline
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.files import write_text
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Positions, Scaling, check_factor
from kb_lens.neurons import NeuronSet
from kb_lens.runs.measure import measure
from kb_lens.statistics import Metric

LAMS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""The factors that are tried unless told otherwise."""

Results = Mapping[str, EvaluationResult]
"""Benchmark's key -> result."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """Which lambda was chosen, why, and what it does on items that had no part in the choice."""

    lam: float
    """The chosen factor; 1, the model as it is, if none is worth choosing."""
    verdict: str
    """The choice and its test in words."""
    development: pd.DataFrame
    """One row a factor: lam; gain, low, high (of the bias metric towards its best value, paired
    95 % interval) and n; capability_change, capability_low, capability_high and capability_n;
    admissible. All on the development items."""
    test: pd.DataFrame
    """One row a benchmark and metric, on the test items: benchmark, metric, base, other,
    difference, low, high, n. The metric ``gain`` is how much nearer the first headline metric came
    to its best value; its base is 0. No rows where no factor was chosen."""
    settings: Mapping[str, Any]
    """The model, neurons, benchmarks, metrics and rules behind it, as JSON data."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``development.csv``, ``test.csv`` and ``tuning.json``."""
        for name in _TABLES:
            write_text(Path(folder) / f"{name}.csv", getattr(self, name).to_csv(index=False))
        content = {"lam": self.lam, "verdict": self.verdict, "settings": dict(self.settings)}
        write_text(Path(folder) / "tuning.json", json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Tuning:
        """Read what `save` wrote.

        Raises:
            ValueError: If a file is missing or something else.
        """
        try:
            content = json.loads((Path(folder) / "tuning.json").read_text(encoding="utf-8"))
            development, test = (pd.read_csv(Path(folder) / f"{name}.csv") for name in _TABLES)
            return cls(development=development, test=test, **content)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"'{os.fspath(folder)}' has no tuning of kb_lens: {error}") from error


_TABLES, _ROLES = ("development", "test"), ("bias", "capability")


def tune_lambda(
    model: Any,
    neurons: NeuronSet,
    bias: Benchmark,
    capability: Benchmark,
    *,
    lams: Sequence[float] = LAMS,
    bound: float = 5.0,
    share: float = 0.5,
    seed: int = 0,
    positions: Positions = "all",
    folder: str | os.PathLike[str] | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Tuning:
    """Choose the factor on one part of the items and test it on the other.

    A factor is admissible if the lower end of the paired interval of the capability's change is
    above minus the bound; of the admissible ones that with the largest gain is chosen, of equal
    ones the smallest. A benchmark is judged by its first headline metric, and a change counts
    towards that metric's best value, so a rise of accuracy is positive.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        neurons: What is enhanced.
        bias: What is to come nearer to its best value.
        capability: What may not be lost; may be `bias` itself.
        lams: The factors that are tried.
        bound: The loss of capability that is not accepted, in the unit of its metric.
        share: Of the items, for the choice; the others are for the test.
        seed: Of the split and the bootstraps.
        positions: Where the neurons are scaled, see `scale_neurons`.
        folder: Where every result is kept as soon as it is there, in ``development/<condition>``
            and ``test/<condition>``, and found again; None keeps nothing.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: For bad arguments, before the model runs; for neurons of another model; or as
            `evaluate` and, with a folder, `kb_lens.runs.measure.measure`.
    """
    lams = check_choice(lams, bound)
    parts = _parts(bias, capability, share, seed)
    options = {"seed": seed, "batch_tokens": batch_tokens, "progress": progress}
    measured = partial(_measured, model, folder, **options)
    base = Condition("base")
    scaled = {lam: Condition(f"lambda {lam:g}", Scaling(neurons, lam, positions)) for lam in lams}
    tried = {lam: measured("development", parts, one) for lam, one in scaled.items()}
    before = measured("development", parts, base)  # last: scaling refuses neurons that do not fit
    keys = bias.key, capability.key
    rows = [_row(lam, before, after, keys, bound, seed) for lam, after in tried.items()]
    development = pd.DataFrame(rows)
    lam = _choice(development)
    pair = () if lam == 1 else (base, scaled[lam])
    test = _test_table([measured("test", parts, one) for one in pair], seed)
    settings = {
        **{name: getattr(neurons, name) for name in ("model", "fingerprint", "site", "origin")},
        "n_neurons": len(neurons),
        "positions": positions,
        "bias": bias.key,
        "bias_metric": _metric(before[bias.key]),
        "capability": capability.key,
        "capability_metric": _metric(before[capability.key]),
        "bound": bound,
        "share": share,
        "seed": seed,
    }
    return Tuning(lam, _verdict(lam, development, test, settings), development, test, settings)


def check_choice(lams: Sequence[float], bound: float) -> list[float]:
    """The factors, the smallest first; `ValueError` for what `tune_lambda` does not take."""
    for lam in lams:
        check_factor(lam)
    if not len(lams) or len({f"{lam:g}" for lam in lams}) < len(lams):
        raise ValueError(f"lams is {list(lams)}: give at least one factor, and none twice.")
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"bound is {bound}: allowed is any finite number above 0, in points.")
    return sorted(float(lam) for lam in lams)


def _parts(
    bias: Benchmark, capability: Benchmark, share: float, seed: int
) -> dict[str, list[Benchmark]]:
    """The benchmarks' development and test parts; one benchmark each if they are the same."""
    benchmarks = list({one.key: one for one in (bias, capability)}.values())
    if len(benchmarks) == 1 and bias.digest != capability.digest:
        raise ValueError(
            f"bias and capability are both {bias.key!r}, but on other items. Give the same "
            "benchmark for both, or another for the capability."
        )
    splits = [one.split(share, seed) for one in benchmarks]
    return {name: [split[k] for split in splits] for k, name in enumerate(_TABLES)}


def _measured(
    model: Any,
    folder: str | os.PathLike[str] | None,
    part: str,
    parts: Mapping[str, Sequence[Benchmark]],
    condition: Condition,
    **options: Any,
) -> Results:
    if folder is not None:
        place = Path(folder) / part / condition.name
        found = measure(model, condition, parts[part], place, **options)
    else:
        with condition.applied(model):
            found = [evaluate(model, condition.asked(one), **options) for one in parts[part]]
    return {one.key: one for one in found}


def _row(
    lam: float, base: Results, other: Results, keys: tuple[str, str], bound: float, seed: int
) -> dict[str, Any]:
    """A factor's row of the development table."""
    gained, changed = (_gain(base[key], other[key], seed) for key in keys)
    return {
        "lam": lam,
        "gain": gained.value,
        "low": gained.low,
        "high": gained.high,
        "n": gained.n,
        "capability_change": changed.value,
        "capability_low": changed.low,
        "capability_high": changed.high,
        "capability_n": changed.n,
        "admissible": changed.low > -bound,
    }


def _metric(result: EvaluationResult) -> str:
    return headline(result)[0]


def _gain(base: EvaluationResult, other: EvaluationResult, seed: int) -> Metric:
    return gain(base, other, _metric(base), seed=seed)


def _choice(development: pd.DataFrame) -> float:
    """The admissible factor with the largest gain; 1 if there is none."""
    worth = development.round({"gain": 9}).query("admissible and gain > 0")
    return float(worth.nlargest(1, "gain")["lam"].iloc[0]) if len(worth) else 1.0


def _test_table(pair: Sequence[Results], seed: int) -> pd.DataFrame:
    """What changed in every benchmark: the gain, the headline metrics and how items moved."""
    columns = ["benchmark", "metric", "base", "other", "difference", "low", "high", "n"]
    if not pair:
        return pd.DataFrame(columns=columns)
    base, other = pair
    tables = [_changes(base[key], other[key], seed) for key in base]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


def _changes(base: EvaluationResult, other: EvaluationResult, seed: int) -> pd.DataFrame:
    gained = _gain(base, other, seed)
    row = {"metric": "gain", "base": 0.0, "other": gained.value, "difference": gained.value}
    row |= {"low": gained.low, "high": gained.high, "n": gained.n}
    shown = [*headline(base), *flip_names(base)]
    changes = compare(base, other, seed=seed)
    changes = changes[changes["metric"].isin(shown)]
    return pd.concat([pd.DataFrame([row]), changes]).assign(benchmark=base.key)


def _verdict(
    lam: float, development: pd.DataFrame, test: pd.DataFrame, settings: Mapping[str, Any]
) -> str:
    bias, capability = (f"{settings[one]} {settings[f'{one}_metric']}" for one in _ROLES)
    tried, allowed = len(development), int(development["admissible"].to_numpy().sum())
    bound = settings["bound"]
    if not allowed:
        return (
            f"None of the {tried} lambdas is admissible: under each of them the interval of "
            f"{capability} reaches {-bound:g}. Leave the model as it is (lambda 1)."
        )
    if lam == 1:
        return (
            f"None of the {allowed} admissible lambdas (of {tried}) brings {bias} nearer to its "
            "best value on the development items. Leave the model as it is (lambda 1)."
        )
    rows = test.set_index(["benchmark", "metric"])
    gained: Any = rows.loc[(settings["bias"], "gain")]
    changed: Any = rows.loc[(settings["capability"], "gain")]
    sign = "a gain" if gained["low"] > 0 else "a loss" if gained["high"] < 0 else "maybe none"
    kept = "within" if changed["low"] > -bound else "not surely within"
    return (
        f"Lambda {lam:g} has the largest gain of {bias} of {allowed} admissible lambdas (of "
        f"{tried}). On the {gained['n']:.0f} test items, which had no part in the choice, the gain "
        f"is {_number(gained)}: {sign}. {capability} changes by {_number(changed)} there, {kept} "
        f"the bound of {bound:g}."
    )


def _number(row: Any) -> str:
    return f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]"
