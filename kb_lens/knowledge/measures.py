"""Balanced accuracy and AUC of a table of answers, with intervals over concepts.

Both are the probability that a question whose answer is yes scores above one whose answer is no,
where a tie counts one half. With the score P(yes) / (P(yes) + P(no)) this is the AUC. With the
score "said yes", 1 or 0, it is the mean of the two shares of right answers: the balanced accuracy.

The three questions about a concept are not independent, so the bootstrap resamples concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from kb_lens.intervals import CONFIDENCE, interval
from kb_lens.resampling import ratio
from kb_lens.statistics import Metric

RESAMPLES = 2_000
"""With so many resamples the ends move by about 1 % of the width from seed to seed."""
_SEED = 0
_TAIL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard deviations to an end of a 95 % interval."""


def answer_measures(table: pd.DataFrame, *, within_kinds: bool = False) -> tuple[Metric, Metric]:
    """Balanced accuracy in percent and AUC from 0 to 1, each with its 95 % interval.

    An interval is the wider of two: the percentile bootstrap over concepts, without resamples that
    lack an answer, and Newcombe's score interval (Statistics in Medicine 25, 2006, 559-573, method
    5). The bootstrap alone has no width for few or perfect answers.

    Args:
        table: One row a question: dimension, answer, p_yes, p_no, said; kind and concept, if known.
        within_kinds: Measure within each kind and take the mean over kinds, so that a model that
            answers by the form of a question is at chance.

    Returns:
        Both; NaN if there are no rows, a kind lacks an answer, or a probability is not known.
    """
    ratios = (table["p_yes"] / (table["p_yes"] + table["p_no"])).to_numpy(np.float64)
    said_yes = table["said"].eq("yes").to_numpy(np.float64)
    is_yes = table["answer"].eq("yes").to_numpy()
    kinds = table["kind"] if within_kinds else pd.Series("all", table.index)
    groups = [kinds.eq(kind).to_numpy() for kind in kinds.unique()]
    if (
        table.empty
        or not np.isfinite(ratios).all()
        or any(len(set(is_yes[group])) < 2 for group in groups)
    ):
        unknown = Metric(*3 * [float("nan")], n=len(table))
        return unknown, unknown
    clusters = _clusters(table)
    accuracy = _measure(said_yes, is_yes, groups, clusters)
    percent = (100 * end for end in (accuracy.value, accuracy.low, accuracy.high))
    in_percent = Metric(*percent, n=accuracy.n, clusters=accuracy.clusters)
    return in_percent, _measure(ratios, is_yes, groups, clusters)


def not_taught(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of questions that the model was not taught; older tables do not name lessons."""
    if "lesson" not in table:
        return table
    return table.loc[~table["lesson"].astype(bool)].reset_index(drop=True)


def _clusters(table: pd.DataFrame) -> Int[np.ndarray, " question"]:
    """The number of each question's concept."""
    concepts = table["concept"] if "concept" in table else pd.Series("", table.index)
    # a question without a concept is a cluster of its own
    alone = np.where(concepts.eq(""), np.arange(len(table)), -1)
    return table.groupby([table["dimension"], concepts, alone]).ngroup().to_numpy()


def _weights(clusters: Int[np.ndarray, " question"]) -> Int[np.ndarray, "resample question"]:
    """How often each resample draws each question, together with the others of its concept."""
    n_clusters = int(clusters.max()) + 1
    shares = np.full(n_clusters, 1 / n_clusters)
    draws = np.random.default_rng(_SEED).multinomial(n_clusters, shares, size=RESAMPLES)
    return draws[:, clusters]


def _measure(
    score: Float[np.ndarray, " question"],
    is_yes: Bool[np.ndarray, " question"],
    groups: Sequence[Bool[np.ndarray, " question"]],
    clusters: Int[np.ndarray, " question"],
) -> Metric:
    """The mean over the groups of the AUC within each."""
    weights = _weights(clusters)
    once = np.ones((1, len(score)))
    values = np.array([float(_auc(score[g], is_yes[g], once[:, g])[0]) for g in groups])
    resampled = np.mean([_auc(score[g], is_yes[g], weights[:, g]) for g in groups], axis=0)
    ends = [
        _score_interval(value, int(is_yes[g].sum()), int((~is_yes[g]).sum()))
        for value, g in zip(values, groups, strict=True)
    ]
    # The groups are independent, so the squared distances to their ends add up.
    below, above = np.sqrt(((np.array(ends) - values[:, None]) ** 2).sum(0)) / len(groups)
    value = float(values.mean())
    low, high = interval(resampled)
    low, high = min(low, value - float(below)), max(high, value + float(above))
    return Metric(value, low, high, n=len(score), clusters=len(np.unique(clusters)))


def _auc(
    score: Float[np.ndarray, " question"],
    is_yes: Bool[np.ndarray, " question"],
    weights: Float[np.ndarray, "resample question"] | Int[np.ndarray, "resample question"],
) -> Float[np.ndarray, " resample"]:
    """The share of (yes, no) pairs in the right order; NaN if an answer is absent."""
    in_order = (1 + np.sign(score[is_yes][:, None] - score[~is_yes])) / 2
    yes, no = weights[:, is_yes].astype(np.float64), weights[:, ~is_yes]
    return ratio(((yes @ in_order) * no).sum(1), yes.sum(1) * no.sum(1))


def _score_interval(value: float, n_yes: int, n_no: int) -> tuple[float, float]:
    """Newcombe's score interval of a measured AUC."""
    auc = np.linspace(0, 1, 10_001)
    spread = (1 - auc) / (2 - auc) + auc / (1 + auc)
    variance = auc * (1 - auc) * (1 + ((n_yes + n_no) / 2 - 1) * spread) / (n_yes * n_no)
    allowed = auc[(value - auc) ** 2 <= _TAIL**2 * variance]
    return float(allowed.min(initial=value)), float(allowed.max(initial=value))
