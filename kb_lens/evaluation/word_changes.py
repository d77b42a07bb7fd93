"""Which words of CrowS-Pairs' sentences an intervention changes.

The log-probability of a sentence is the sum over its tokens, and every token is of one class.
Either both sentences of a pair share its word, before or after their first difference, or they
differ in it: the name of a group, a pronoun, a proper name, another word. So the difference between
the sentences, log P(more stereotyping) - log P(less), is a sum over classes, and so is its change.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from kb_lens.benchmarks.catalogue import formulas
from kb_lens.benchmarks.crows_pairs_metrics import OPTIONS
from kb_lens.benchmarks.measures import groups_of
from kb_lens.benchmarks.orders import beats
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.resampling import means
from kb_lens.statistics import (
    DEFAULT_RESAMPLES,
    Statistics,
    paired_bootstrap,
    ratio,
)

WHOLE = "whole sentence"
_BEFORE, _AFTER = "shared, before a difference", "shared, after a difference"
_DIFFER = {"group": "names of groups", "pronoun": "pronouns", "name": "proper names"}
_OTHER = "other words that differ"
WORDS = (WHOLE, _BEFORE, _AFTER, *_DIFFER.values(), _OTHER)
"""The classes, and before them their sum."""


def word_changes(
    base: EvaluationResult,
    other: EvaluationResult,
    *,
    n_bootstrap: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The change from one result of CrowS-Pairs to another, by class of words.

    A token in words of several classes counts as another word that differs.

    Args:
        base: The result before.
        other: The result after, on the same pairs in any order.
        n_bootstrap: Resamples for the intervals.
        seed: Of the resampling.

    Returns:
        A row for each of `WORDS`: words; pairs and tokens (both sentences'), how many there are;
        token, the mean change of a token's log-probability in nats; nats, the mean over all pairs
        of the change of log P(more) - log P(less), with low and high: the classes' add up to the
        whole sentence's; share, by how much the percentage of pairs whose more stereotyping
        sentence is likelier would change if these words alone changed, with share_low and
        share_high.

    Raises:
        ValueError: If the results are not of the original protocol of CrowS-Pairs and of the same
            pairs, or an earlier version measured them.
    """
    tables = [_items(result, base) for result in (base, other)]
    more, less = (
        np.stack([_by_class(table, f"logprob_{option}") for table in tables]) for option in OPTIONS
    )
    tokens = np.add(*(_by_class(tables[0], f"tokens_{option}") for option in OPTIONS))
    total = tokens.sum(axis=0)
    clusters = formulas(base.benchmark, base.protocol).summarize(tables[0]).clusters
    before, after = (_statistics((more - less)[0], margin, clusters) for margin in more - less)
    changed = paired_bootstrap(before, after, means, n_bootstrap=n_bootstrap, seed=seed)
    ends = changed[["difference", "low", "high"]].to_numpy().reshape(len(WORDS), -1)
    names = ("nats", "low", "high", "share", "share_low", "share_high")
    return pd.DataFrame(
        {
            "words": WORDS,
            "pairs": (tokens > 0).sum(axis=0),
            "tokens": total.astype(int),
            "token": ratio(np.diff(more + less, axis=0)[0].sum(axis=0), total),
            **dict(zip(names, ends.T, strict=True)),
        }
    )


def _items(result: EvaluationResult, base: EvaluationResult) -> pd.DataFrame:
    """The items in the order of the base's."""
    if (result.benchmark, result.protocol) != ("crows_pairs", "original"):
        raise ValueError(
            f"only results of crows_pairs have classes of words; this is one of {result.key!r}."
        )
    if "logprob_more_before" not in result.items.columns:
        raise ValueError(
            "the items have no column 'logprob_more_before': they were saved by an earlier "
            "version. Measure again."
        )
    if set(result.items["item"]) != set(base.items["item"]):
        raise ValueError(
            f"only results on the same items can be compared, got {len(base.items)} and "
            f"{len(result.items)} that differ. Evaluate both with the same limit and seed."
        )
    return result.items.set_index("item").loc[base.items["item"]]


def _by_class(table: pd.DataFrame, column: str) -> np.ndarray:
    """[item, class] The parts of a column of the whole sentence, in the order of `WORDS`."""
    whole, shared, before = (table[column + end] for end in ("", "_shared", "_before"))
    differ = [table[f"{column}_{name}"] for name in _DIFFER]
    other = whole - shared - sum(differ)
    return np.stack([whole, before, shared - before, *differ, other], axis=1).astype(np.float64)


def _statistics(base: np.ndarray, margin: np.ndarray, clusters: np.ndarray | None) -> Statistics:
    """For each class the difference of the sentences, and which is likelier if only it changes."""
    whole = base[:, :1] + margin - base
    quantities = pd.DataFrame({"n": np.ones(len(base))})
    for k, name in enumerate(WORDS):
        quantities[f"nats {name}"] = margin[:, k]
        quantities[f"share {name}"] = 100 * beats(whole[:, k], np.zeros(len(base)))
    return Statistics(quantities, pd.DataFrame(groups_of(quantities)), clusters)
