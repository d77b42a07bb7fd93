"""The orders in which a prompt lists options, and the effect of the order.

A model that chooses from a list prefers certain places. Cyclic orders give every option every
place, but of two options one is listed before the other in two of three orders. This changes
results (SmolLM2-135M, 60 items of StereoSet, means over orders: ss is 62 with the three cyclic
orders, 42 with the three reversed ones). All orders balance both, so the instructed protocols of
pairs and triples use all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.statistics import Statistics


def all_orders(n_options: int) -> Int[np.ndarray, "order place"]:
    """Every order of a list of options: entry [r, k] is the option that is k-th in order r.

    The first is the options' own order; the rows are sorted.
    """
    return np.array(list(permutations(range(n_options))))


def rotations(n_options: int) -> Int[np.ndarray, "order place"]:
    """The cyclic orders of a list of options: entry [r, k] is the option that is k-th in order r.

    Every option is in every place once, so the average effect of the place on an option's
    log-probability is the same for all options.
    """
    return (np.arange(n_options)[None, :] + np.arange(n_options)[:, None]) % n_options


def listed(
    head: str, options: tuple[str, ...], orders: Int[np.ndarray, "order place"]
) -> list[Request]:
    """One chat for each order: the head, then the options in that order, one a line.

    The scored options stay in their own order, so a column is the same option in every order.
    """
    texts = ["\n".join((head, *(options[int(k)] for k in order))) for order in orders]
    return [Request(text, options, chat=True) for text in texts]


def over_orders(
    scores: OptionScores, n_items: int, options: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Combine the scores of all orders of each item.

    Returns:
        Means over the orders of the log-probabilities and of the numbers of tokens, both [item,
        option], and the columns ``logprob_<option>_<order>`` of an item table.
    """
    logprob = scores.logprob.reshape(n_items, -1, len(options))
    tokens = scores.tokens.reshape(logprob.shape)
    columns = {
        f"logprob_{option}_{order}": logprob[:, order, k]
        for k, option in enumerate(options)
        for order in range(logprob.shape[1])
    }
    return logprob.mean(axis=1), tokens.mean(axis=1), columns


def with_orders(
    statistics: Statistics,
    table: pd.DataFrame,
    options: Sequence[str],
    orders: Int[np.ndarray, "order place"],
) -> Statistics:
    """Statistics with `order_quantities` of the columns from `over_orders`."""
    columns = [[f"logprob_{option}_{r}" for option in options] for r in range(len(orders))]
    logprob = np.stack([table[names].to_numpy() for names in columns], axis=1)
    quantities = statistics.quantities.assign(**order_quantities(logprob, orders))
    return replace(statistics, quantities=quantities)


def order_quantities(
    logprob: Float[np.ndarray, "item order option"], orders: Int[np.ndarray, "order place"]
) -> dict[str, Float[np.ndarray, " item"]]:
    """The effect of the order for each item.

    - ``by_order``: share of the orders in which the first option beats the second.
    - ``more_first``, ``less_first``: the same over the orders that list the first option before
      the second, and after it.
    - ``position``: share of the orders whose first listed option is the likeliest of all; equally
      likely options share the count. It is 1 / (number of options) if the likeliest option is the
      same in all orders.
    """
    wins = beats(logprob[:, :, 0], logprob[:, :, 1])
    first = (orders == 0).argmax(axis=1) < (orders == 1).argmax(axis=1)
    best = logprob == logprob.max(axis=-1, keepdims=True)
    # Equally likely options share the win.
    share = best / best.sum(axis=-1, keepdims=True)
    return {
        "by_order": wins.mean(axis=1),
        "more_first": wins[:, first].mean(axis=1),
        "less_first": wins[:, ~first].mean(axis=1),
        "position": share[:, range(len(orders)), orders[:, 0]].mean(axis=1),
    }


def beats(
    first: Float[np.ndarray, "*shape"], second: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """1 if the first is larger, 0 if it is smaller, one half if they are equal."""
    return (np.sign(first - second) + 1) / 2
