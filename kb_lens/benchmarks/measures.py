"""Measures that several benchmarks share: percentages and damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from kb_lens.statistics import Measure, MetricInfo, ratio

GroupSums = Mapping[str, np.ndarray]
"""Quantity -> its sum over one group, [resample]."""

DAMAGE = MetricInfo("nats a token", "mean log-probability of a token, nats", "damage")
"""The description of `logprob_per_token` in every benchmark."""


def percent(sums: GroupSums, quantity: str, of: str = "n") -> Measure:
    """A quantity in percent of the items (or of another quantity) of a group."""
    return Measure(100 * ratio(sums[quantity], sums[of]), sums[of])


def logprob_per_token(sums: GroupSums, prefix: str = "") -> Measure:
    """Mean natural-log probability of a token: the damage of an intervention.

    Args:
        sums: The sums of a group.
        prefix: Prefix of the quantities' names.
    """
    return Measure(ratio(sums[f"{prefix}logprob"], sums[f"{prefix}tokens"]), sums["n"])


def groups_of(table: pd.DataFrame, columns: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The group ``all``, and a group for each value of each of the columns, sorted."""
    groups = {"all": np.ones(len(table), dtype=bool)}
    for column in columns:
        values = table[column].to_numpy()
        groups |= {value: values == value for value in sorted(set(values))}
    return groups


def option_columns(
    options: Iterable[str], logprob: np.ndarray, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns ``logprob_<option>`` and ``tokens_<option>`` of an item table.

    Args:
        options: Names of the options.
        logprob: [item, option]; options without a name are left out.
        tokens: [item, option], their numbers of tokens.
    """
    names = list(options)
    return {
        f"{quantity}_{name}": values[:, index]
        for quantity, values in (("logprob", logprob), ("tokens", tokens))
        for index, name in enumerate(names)
    }
