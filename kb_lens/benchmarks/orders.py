"""Options that a prompt lists: in which orders, and what the order does to them.

A model that is asked to choose from a list prefers places of the list. Cyclic orders give every
option every place, but they keep who follows whom: of two neighbours one is listed before the
other in two of three orders. That decides results (SmolLM2-135M, 60 items of StereoSet, means over
orders: ss is 62 with the three cyclic orders, 42 with the three reversed ones; no item moves the
other way). All orders balance both, so they are what the instructed protocols of pairs and triples
ask for.
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

    The first is the options' own order; the rows ascend.
    """
    return np.array(list(permutations(range(n_options))))


def rotations(n_options: int) -> Int[np.ndarray, "order place"]:
    """The cyclic orders of a list of options: entry [r, k] is the option that is k-th in order r.

    Every option is in every place once, so what a place adds to an option's log-probability is
    the same for all options once it is averaged over the orders.
    """
    return (np.arange(n_options)[None, :] + np.arange(n_options)[:, None]) % n_options


def listed(
    head: str, options: tuple[str, ...], orders: Int[np.ndarray, "order place"]
) -> list[Request]:
    """A chat an order: the head and, a line each, the options in that order.

    The options to score stay in their own order, so a column is the same option in every order.
    """
    texts = ["\n".join((head, *(options[int(k)] for k in order))) for order in orders]
    return [Request(text, options, chat=True) for text in texts]


def over_orders(
    scores: OptionScores, n_items: int, options: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """What was scored with a request an order, put together item by item.

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
    """Statistics with `order_quantities` of the columns that `over_orders` made."""
    columns = [[f"logprob_{option}_{r}" for option in options] for r in range(len(orders))]
    logprob = np.stack([table[names].to_numpy() for names in columns], axis=1)
    quantities = statistics.quantities.assign(**order_quantities(logprob, orders))
    return replace(statistics, quantities=quantities)


def order_quantities(
    logprob: Float[np.ndarray, "item order option"], orders: Int[np.ndarray, "order place"]
) -> dict[str, Float[np.ndarray, " item"]]:
    """What the order does, item by item.

    - ``by_order``: share of the orders in which the first option beats the second.
    - ``more_first``, ``less_first``: the same over the orders that list the first option before
      the second, and after it.
    - ``position``: share of the orders whose first listed option is the likeliest of all; of
      equally likely ones each counts its part. If the likeliest option is the same in all orders
      it is 1 / (number of options), whichever that is.
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
    """1 where the first is larger, 0 where it is smaller, one half where they are equal."""
    return (np.sign(first - second) + 1) / 2
