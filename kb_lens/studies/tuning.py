"""Choose lambda on some items, and measure its effect on others.

The best of several factors looks too good on the items that chose it. So the items are split: the
factors are compared on the development part, and the chosen factor is measured on the test part.

A factor is admissible if the lower end of the paired interval of the capability's change is above
minus the bound. The admissible factor with the largest gain is chosen, and the smallest of equal
ones. A benchmark is judged by its first headline metric. A change towards the metric's best value
is positive.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kb_lens.arguments import check_seed
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.comparison import compare, flip_names, gain, headline
from kb_lens.evaluation.entries import SUFFIX
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import interval_text
from kb_lens.interventions.conditions import Condition
from kb_lens.interventions.scaling import Positions, Scaling, check_factor
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import NeuronSet
from kb_lens.runs.measure import measure_all
from kb_lens.statistics import Metric
from kb_lens.store import Store
from kb_lens.studies.tuned import TABLES, Tuning

LAMS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""The default factors: the paper's 2 to 3.5, and some on either side."""

Results = Mapping[str, EvaluationResult]
"""Benchmark's key -> result."""
Halves = Mapping[str, Sequence[Benchmark]]
"""``development`` and ``test`` -> the benchmarks with the items of that half."""


def tune_lambda(
    model: HookedModel,
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
    """Choose the factor on one half of the items and test it on the other.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        neurons: The neurons to enhance.
        bias: The benchmark to bring nearer to its best value.
        capability: The benchmark that may not get worse; may be `bias` itself.
        lams: The factors to try.
        bound: The loss of capability that is not accepted, in the unit of its metric.
        share: Share of the items for the choice; the others are for the test.
        seed: Seed of the split and the bootstraps.
        positions: The positions at which neurons are scaled, see `scale_neurons`.
        folder: The folder in which results are kept; None keeps nothing.
        batch_tokens: At most this many tokens in one forward pass; default by device.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If an argument is not allowed or the neurons are of another model; raised before
            the model runs.
    """
    check_seed(seed)
    lams = check_choice(lams, bound, model.cfg.dtype)
    halves = _halves(bias, capability, share, seed)
    measure_half = partial(_measured, model, folder, halves)
    measured = partial(measure_half, seed=seed, batch_tokens=batch_tokens, progress=progress)
    base = Condition("base")
    scaled = {lam: Condition(f"lambda {lam:g}", Scaling(neurons, lam, positions)) for lam in lams}
    # The base comes last, so that neurons that do not fit are refused before any measurement.
    *tried, before = measured("development", [*scaled.values(), base])
    settings = _settings(neurons, before, (bias.key, capability.key))
    settings |= {"positions": positions, "bound": bound, "share": share, "seed": seed}
    rows = [_row(lam, before, after, settings) for lam, after in zip(scaled, tried, strict=True)]
    development = pd.DataFrame(rows)
    lam = _choice(development)
    pair = [] if lam == 1 else [base, scaled[lam]]
    test = _test_table(measured("test", pair), seed)
    return Tuning(lam, _verdict(lam, development, test, settings), development, test, settings)


def _settings(neurons: NeuronSet, before: Results, keys: tuple[str, str]) -> dict[str, Any]:
    """The neurons, and the metrics of the choice."""
    bias, capability = keys
    return {
        "model": neurons.model,
        "fingerprint": neurons.fingerprint,
        "site": neurons.site,
        "origin": neurons.origin,
        "n_neurons": len(neurons),
        "bias": bias,
        "bias_metric": headline(before[bias])[0],
        "capability": capability,
        "capability_metric": headline(before[capability])[0],
    }


def check_choice(
    lams: Sequence[float], bound: float, dtype: torch.dtype | str | None = None
) -> list[float]:
    """The factors, the smallest first; `ValueError` for factors or a bound that are not allowed."""
    for lam in lams:
        check_factor(lam, dtype)
    # Compared as they are written: they name conditions and folders.
    if not len(lams) or len({f"{lam:g}" for lam in lams}) < len(lams):
        raise ValueError(f"lams is {list(lams)}: give at least one factor, each once.")
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"bound is {bound}: allowed is any finite number above 0, in points.")
    return sorted(float(lam) for lam in lams)


def _halves(bias: Benchmark, capability: Benchmark, share: float, seed: int) -> Halves:
    """The benchmarks' development and test items; a single benchmark if they are the same."""
    benchmarks = {benchmark.key: benchmark for benchmark in (bias, capability)}
    # StereoSet measures both: icat is to improve, lms may not get worse.
    if len(benchmarks) == 1 and bias.digest != capability.digest:
        raise ValueError(
            f"bias and capability are both {bias.key!r}, but on other items. Give the same "
            "benchmark for both, or another for the capability."
        )
    splits = [benchmark.split(share, seed) for benchmark in benchmarks.values()]
    return dict(zip(TABLES, zip(*splits, strict=True), strict=True))


def _measured(
    model: HookedModel,
    folder: str | os.PathLike[str] | None,
    halves: Halves,
    half: str,
    conditions: Sequence[Condition],
    **options: Any,
) -> list[Results]:
    """Conditions on one half of the items."""
    if folder is None:
        measured = [
            _evaluated(model, condition, halves[half], **options) for condition in conditions
        ]
    else:
        folders = {Path(folder) / half / condition.name: condition for condition in conditions}
        store = Store(Path(folder) / "store", SUFFIX)
        by_name = measure_all(model, folders, halves[half], store, **options)
        measured = [by_name[condition.name] for condition in conditions]
    return [{result.key: result for result in results} for results in measured]


def _evaluated(
    model: HookedModel, condition: Condition, benchmarks: Sequence[Benchmark], **options: Any
) -> list[EvaluationResult]:
    with condition.applied(model) as changed:
        return [evaluate(changed, condition.asked(each), **options) for each in benchmarks]


def _row(
    lam: float, before: Results, after: Results, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """A factor's row of the development table."""
    bias, capability = (
        _gain(before[settings[name]], after[settings[name]], settings["seed"])
        for name in ("bias", "capability")
    )
    return {
        "lam": lam,
        "gain": bias.value,
        "low": bias.low,
        "high": bias.high,
        "n": bias.n,
        "capability_change": capability.value,
        "capability_low": capability.low,
        "capability_high": capability.high,
        "capability_n": capability.n,
        "admissible": capability.low > -settings["bound"],
    }


def _gain(base: EvaluationResult, other: EvaluationResult, seed: int) -> Metric:
    return gain(base, other, headline(base)[0], seed=seed)


def _choice(development: pd.DataFrame) -> float:
    """The admissible factor with the largest gain; 1 if there is none."""
    # Gains that differ only by rounding count as equal, so that the smallest factor is taken.
    worthwhile = development.round({"gain": 9}).query("admissible and gain > 0")
    if worthwhile.empty:
        return 1.0
    return float(worthwhile.nlargest(1, "gain")["lam"].iloc[0])


def _test_table(pair: Sequence[Results], seed: int) -> pd.DataFrame:
    """The changes in every benchmark: the gain, the headline metrics and how items moved."""
    columns = ["benchmark", "metric", "base", "other", "difference", "low", "high", "n"]
    if not pair:
        return pd.DataFrame(columns=columns)
    base, other = pair
    tables = [_changes(base[key], other[key], seed) for key in base]
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


def _changes(base: EvaluationResult, other: EvaluationResult, seed: int) -> pd.DataFrame:
    change = _gain(base, other, seed)
    row = {"metric": "gain", "base": 0.0, "other": change.value, "difference": change.value}
    row |= {"low": change.low, "high": change.high, "n": change.n}
    metrics = [*headline(base), *flip_names(base)]
    changes = compare(base, other, seed=seed)
    changes = changes[changes["metric"].isin(metrics)]
    return pd.concat([pd.DataFrame([row]), changes]).assign(benchmark=base.key)


def _verdict(
    lam: float, development: pd.DataFrame, test: pd.DataFrame, settings: Mapping[str, Any]
) -> str:
    bias = f"{settings['bias']} {settings['bias_metric']}"
    capability = f"{settings['capability']} {settings['capability_metric']}"
    n_tried = len(development)
    n_admissible = int(development["admissible"].to_numpy().sum())
    bound = settings["bound"]
    if not n_admissible:
        return (
            f"None of the {n_tried} lambdas is admissible: for each of them the interval of the "
            f"change of {capability} reaches {-bound:g}. Leave the model as it is (lambda 1)."
        )
    if lam == 1:
        return (
            f"None of the {n_admissible} admissible lambdas (of {n_tried}) brings {bias} nearer to "
            "its best value on the development items. Leave the model as it is (lambda 1)."
        )
    rows = test.set_index(["benchmark", "metric"])
    gained: Any = rows.loc[(settings["bias"], "gain")]
    changed: Any = rows.loc[(settings["capability"], "gain")]
    within = "within" if changed["low"] > -bound else "not clearly within"
    return (
        f"Lambda {lam:g} has the largest gain of {bias} among {n_admissible} admissible lambdas "
        f"(of {n_tried}). On the {gained['n']:.0f} test items, which were not used for the choice, "
        f"the gain is {_change_text(gained)}: {_sign(gained)}. {capability} changes by "
        f"{_change_text(changed)} there, {within} the bound of {bound:g}."
    )


def _sign(row: Any) -> str:
    """The conclusion from the interval of a gain."""
    if row["low"] > 0:
        return "a gain"
    return "a loss" if row["high"] < 0 else "no clear gain"


def _change_text(row: Any) -> str:
    return interval_text(row["difference"], row["low"], row["high"], "+.3g")
