"""How often a 95 % interval contains the true value: a simulation of StereoSet's numbers.

    python examples/coverage_of_intervals.py     # the table of docs/statistics.md, about an hour
    python examples/coverage_of_intervals.py --repeats 200 --items 200

Each repetition draws a StereoSet with known shares of stereotypes and of meaningful options, and
measures it with the package's formulas. `kb_lens` is the interval of the package's results.
`percentile` is the plain one: the middle 95 % of the metric in resamples of items.

The base model prefers the stereotype with a probability that is drawn for each target (a beta
distribution whose intraclass correlation is `CORRELATION`), or equal for all items if they are
independent. The other model has the same preferences, except for some that flip: the share `FLIPS`
of the anti-stereotypes, and as many stereotypes as its own share needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from kb_lens.benchmarks.stereoset_metrics import FORMULAS
from kb_lens.intervals import difference_interval, interval, measure_interval, nearness
from kb_lens.resampling import Measure, resample

SHARES = (50.0, 52.0, 55.0, 60.0)
ITEMS = (200, 600, 4229)
CLUSTERS = (0, 50, 25)
"""Numbers of targets; 0 for independent items. 25 is the number of templates of a BBQ category."""
CORRELATION = 0.05
FLIPS = 0.08
MEANINGFUL = (82.0, 80.0)
"""lms of the base model and of the other model."""
METRICS = {"ss": 50.0, "icat": 100.0, "icat_macro": 100.0}
"""Metric -> its best value."""


@dataclass(frozen=True)
class Scene:
    """The true values of a base model and of another one, and the number of items."""

    base: float
    """ss of the base model, in percent."""
    other: float
    """ss of the other model, in percent."""
    n_items: int
    """Items."""
    n_clusters: int
    """Number of targets; 0 for independent items."""

    def truth(self, metric: str) -> tuple[float, float]:
        """The metric's true values, of the base model and of the other model."""
        pairs = zip((self.base, self.other), MEANINGFUL, strict=True)
        icat = [lms * min(ss, 100 - ss) / 50 for ss, lms in pairs]
        return (self.base, self.other) if metric == "ss" else (icat[0], icat[1])

    def draw(self, generator: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The item tables of both models."""
        share = self.base / 100
        if self.n_clusters:
            strength = 1 / CORRELATION - 1
            target = np.arange(self.n_items) % self.n_clusters
            of_target = generator.beta(share * strength, (1 - share) * strength, self.n_clusters)
            probability = of_target[target]
        else:
            target = np.arange(self.n_items)
            probability = np.full(self.n_items, share)
        before = generator.random(self.n_items) < probability
        # the flips in the other direction that give the other model its share
        back = (share + (1 - share) * FLIPS - self.other / 100) / share
        after = np.where(
            before,
            generator.random(self.n_items) >= back,
            generator.random(self.n_items) < FLIPS,
        )
        tables = [
            _table(prefers, generator.random((self.n_items, 2)) < lms / 100, target)
            for prefers, lms in zip((before, after), MEANINGFUL, strict=True)
        ]
        return tables[0], tables[1]


def _table(prefers: np.ndarray, meaningful: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    """An item table with these preferences.

    Args:
        prefers: [item] whether the stereotype beats the anti-stereotype.
        meaningful: [item, 2] whether a meaningful option beats the unrelated one; 0, 1 or 2 do.
        target: [item] the cluster.
    """
    beaten = meaningful.sum(axis=1)
    logprob = {
        "stereotype": np.where(prefers, -1.0, -2.0),
        "anti_stereotype": np.where(prefers, -2.0, -1.0),
        # above both, between them, below both
        "unrelated": np.choose(beaten, [-0.5, -1.5, -2.5]),
    }
    columns = {f"logprob_{option}": values for option, values in logprob.items()}
    columns |= {f"tokens_{option}": 1 for option in logprob}
    names = {"item": np.arange(len(target)), "kind": "intrasentence", "bias_type": "race"}
    return pd.DataFrame({**names, "target": target, **columns})


def measured(
    scene: Scene, generator: np.random.Generator, n_bootstrap: int
) -> Iterator[dict[str, Any]]:
    """A row per metric, quantity (value, difference, gain) and interval: low and high."""
    definition = FORMULAS["original"]
    whole = [definition.summarize(table) for table in scene.draw(generator)]
    # without the metrics of single groups
    samples = [replace(sample, groups=sample.groups[["all"]]) for sample in whole]
    alone = [replace(sample, clusters=None) for sample in samples]
    seed = int(generator.integers(2**31))
    by_cluster = resample(samples, definition.metrics, n_bootstrap, seed)
    by_item = resample(alone, definition.metrics, n_bootstrap, seed)
    n = scene.n_clusters or scene.n_items
    for metric, best in METRICS.items():
        before, after = (metrics[metric] for metrics in by_cluster)
        ends = {
            "value": measure_interval(before, n),
            "gain": difference_interval(nearness(before, best), nearness(after, best), n),
        }
        base, other = (metrics[metric].value for metrics in by_item)
        plain = {
            "value": interval(base),
            "gain": interval(_nearness(other, best) - _nearness(base, best)),
        }
        for quantity, (name, intervals) in product(
            ends, {"kb_lens": ends, "percentile": plain}.items()
        ):
            low, high = intervals[quantity]
            yield {
                "metric": metric,
                "quantity": quantity,
                "interval": name,
                "low": low,
                "high": high,
            }


def _nearness(values: np.ndarray, best: float) -> np.ndarray:
    return nearness(Measure(values, values), best).value


def coverage(scene: Scene, repeats: int, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """A row per metric, quantity and interval: percent that contain the truth, and mean width."""
    generator = np.random.default_rng([seed, *map(ord, repr(scene))])
    rows = [row for _ in range(repeats) for row in measured(scene, generator, n_bootstrap)]
    table = pd.DataFrame(rows)
    truth = {(m, q): _true(scene, m, q) for m in METRICS for q in ("value", "gain")}
    true = np.array([truth[key] for key in zip(table["metric"], table["quantity"], strict=True)])
    table["coverage"] = 100.0 * ((table["low"] <= true + 1e-9) & (true - 1e-9 <= table["high"]))
    table["width"] = table["high"] - table["low"]
    keys = ["metric", "quantity", "interval"]
    table["true"] = true
    means = table.groupby(keys, sort=False).agg(
        true=("true", "mean"), coverage=("coverage", "mean"), width=("width", "mean")
    )
    return means.reset_index()


def _true(scene: Scene, metric: str, quantity: str) -> float:
    base, other = scene.truth(metric)
    best = METRICS[metric]
    return base if quantity == "value" else abs(base - best) - abs(other - best)


def main() -> None:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--n-bootstrap", type=int, default=1000)
    parser.add_argument("--items", type=int, nargs="+", default=list(ITEMS))
    parser.add_argument("--clusters", type=int, nargs="+", default=list(CLUSTERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a CSV file; scenes in it are not done again")
    arguments = parser.parse_args()
    # The other model is fair or nearly fair.
    pairs = [(base, other) for base in SHARES for other in (50.0, 52.0) if other <= base]
    scenes = [
        Scene(base, other, n_items, n_clusters)
        for n_items, n_clusters in product(arguments.items, arguments.clusters)
        for base, other in pairs
    ]
    settings = {name: getattr(arguments, name) for name in ("repeats", "n_bootstrap", "seed")}
    whole = pd.read_csv(arguments.out) if arguments.out and arguments.out.exists() else None
    for scene in tqdm(scenes, desc="scenes"):
        labels = {**vars(scene), **settings}
        if whole is not None and len(whole.merge(pd.DataFrame([labels]))):
            continue
        table = coverage(scene, **settings).assign(**labels)
        whole = table if whole is None else pd.concat([whole, table], ignore_index=True)
        if arguments.out:  # after each scene, which takes minutes
            whole.to_csv(arguments.out, index=False)
    assert whole is not None  # there are scenes
    sys.stdout.write(whole.round(2).to_string(index=False) + "\n")


if __name__ == "__main__":
    main()
