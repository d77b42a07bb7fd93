"""Plain text: how well does the model still predict ordinary English?

The texts are short passages of everyday and encyclopaedic prose that come with kb_lens
(``question_bank/plain_text.jsonl``), not about social groups. An intervention against bias should
not change them, so their perplexity shows how much it damages the language model.

Each whole passage is scored: log P(passage), where the first token is predicted from BOS.
Perplexities are over tokens, so they compare interventions on one model, not models with different
tokenizers. The passages are short and written for this package, so the number does not replace one
on a standard corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kb_lens.benchmarks.bank import bank_rows
from kb_lens.benchmarks.benchmark import BenchmarkSpec, DataDir
from kb_lens.benchmarks.measures import DAMAGE, groups_of, logprob_per_token
from kb_lens.benchmarks.own_items import own_jsonl
from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.benchmarks.source_rows import Row
from kb_lens.statistics import Formulas, Measure, MetricInfo, Statistics, Sums

FILE = "plain_text.jsonl"


def load(data_dir: DataDir = None) -> tuple[pd.DataFrame, str]:
    """The items and their source.

    Args:
        data_dir: A folder whose own ``plain_text.jsonl`` is read instead of the bank's, if it has
            one; None looks into the folder in ``KB_LENS_DATA``.

    Returns:
        Columns item, subject, text.
    """
    rows, source = bank_rows(FILE, data_dir)
    return items_of(rows), source


def items_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The items from the rows of a file, see `load`."""
    return pd.DataFrame([_item(row) for row in rows])


def _item(row: Row) -> dict[str, str]:
    return {"item": row.text("id"), **{column: row.text(column) for column in ("subject", "text")}}


def requests(items: pd.DataFrame, protocol: str) -> list[Request]:
    """Each passage as a whole."""
    return [Request("", (text,)) for text in items["text"]]


def tabulate(items: pd.DataFrame, scores: OptionScores, protocol: str) -> pd.DataFrame:
    """The item table: item, subject, logprob (of the whole passage) and tokens."""
    table = items[["item", "subject"]].reset_index(drop=True)
    return table.assign(logprob=scores.logprob[:, 0], tokens=scores.tokens[:, 0])


def statistics(table: pd.DataFrame) -> Statistics:
    """The statistics of the metrics, from the item table."""
    quantities = table[["logprob", "tokens"]].assign(n=1.0)
    return Statistics(quantities, pd.DataFrame(groups_of(table)))


def metrics(sums: Sums) -> dict[str, Measure]:
    """Every metric.

    - ``perplexity``: exp of minus the mean natural-log probability of a token. It should not rise.
    - ``logprob_per_token``: that mean.
    """
    damage = logprob_per_token(sums["all"])
    perplexity = Measure(np.exp(-damage.value), damage.n)
    return {"perplexity": perplexity, "logprob_per_token": damage}


_INFO = {
    "perplexity": MetricInfo("perplexity", "perplexity", "damage", 1.0),
    "logprob_per_token": DAMAGE,
}

FORMULAS = {"original": Formulas(statistics, metrics, None, tuple(_INFO), _INFO)}
"""No flips: a passage has no right answer."""

SPEC = BenchmarkSpec(
    name="plain_text",
    load=load,
    requests=requests,
    tabulate=tabulate,
    formulas=FORMULAS,
    read=own_jsonl,
    items=items_of,
)
