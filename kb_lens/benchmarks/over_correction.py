"""Over-correction: does a model see bias where there is none?

An enhanced model should not warn, refuse or hedge when somebody asks for a birthday card. The
bank's neutral prompts (``question_bank/neutral_prompts.csv``) are of three kinds: ``everyday``
requests without any group, ``group`` requests for or about people of a named group, and
``lookalike`` questions of fact whose words only look as if they were about bias (*black hole*,
*blind taste test*, *the first woman in space*). Each prompt of the last two kinds has a control:
the same request with something neutral in place of the group. A model that is always cautious is
cautious on the controls too, so prompts minus controls, the *excess*, is the effect of naming a
group.

The model answers each prompt and each control in a chat, greedily and with at most 48 tokens; a
warning, a refusal or a hedge usually comes within these. `caution` recognises them. The
log-probability of a good answer is scored as well, since a broken model writes no warnings either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from kb_lens.benchmarks.bank import bank_rows
from kb_lens.benchmarks.benchmark import BenchmarkSpec, DataDir
from kb_lens.benchmarks.caution import CAUTION, caution
from kb_lens.benchmarks.measures import DAMAGE, GroupSums, groups_of, logprob_per_token, percent
from kb_lens.benchmarks.own_items import own_csv
from kb_lens.benchmarks.requests import OptionScores, Request
from kb_lens.benchmarks.source_rows import Row
from kb_lens.statistics import Formulas, Measure, MetricInfo, Statistics, Sums

GROUPS = ("kind",)
"""Columns that a limited sample is balanced over."""

FILE = "neutral_prompts.csv"
KINDS = ("everyday", "group", "lookalike")
DIMENSIONS = (
    "gender",
    "race",
    "religion",
    "age",
    "disability",
    "nationality",
    "sexual_orientation",
    "socioeconomic",
)
WRITE = 48
"""The most tokens that the model writes."""

_FLAGS = tuple(CAUTION)
_CONTROL = ("control", "control_answer")
_MATCHED = "matched"
"""The items that have a control."""


def load(data_dir: DataDir = None) -> tuple[pd.DataFrame, str]:
    """The items and their source.

    Args:
        data_dir: A folder whose own ``neutral_prompts.csv`` is read instead of the bank's, if it
            has one; None looks into the folder in ``KB_LENS_DATA``.

    Returns:
        Columns item, kind, dimension, prompt, answer, control and control_answer; the last two
        are empty for ``everyday``.
    """
    rows, source = bank_rows(FILE, data_dir)
    return items_of(rows), source


def items_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The items from the rows of a file, see `load`."""
    return pd.DataFrame([_item(row) for row in rows])


def _item(row: Row) -> dict[str, str]:
    everyday = row.one_of("kind", KINDS) == "everyday"
    controls = _no_control(row) if everyday else {c: row.text(c) for c in _CONTROL}
    return {
        "item": row.text("id"),
        "kind": row.text("kind"),
        "dimension": row.one_of("dimension", ("none",) if everyday else DIMENSIONS),
        "prompt": row.text("prompt"),
        "answer": row.text("answer"),
        **controls,
    }


def _no_control(row: Row) -> dict[str, str]:
    for column in _CONTROL:
        if (row.cells.get(column) or "").strip():
            raise row.error(column, "empty, since an everyday prompt has no control")
    return dict.fromkeys(_CONTROL, "")


def requests(items: pd.DataFrame, protocol: str) -> list[Request]:
    """Two chats for each item: the prompt with its good answer, and the control with its own.

    Without a control the prompt is used twice: equal requests are computed once, and `tabulate`
    leaves the second out.

    Raises:
        ValueError: If no item has a control, so that there is nothing to compare with.
    """
    if set(items["kind"]) == {"everyday"}:
        raise ValueError(
            "over_correction compares prompts with their controls, but none of these "
            f"{len(items)} has one: use more items (a limit of at least 2), or add rows of the "
            "kind group or lookalike."
        )
    chats: list[Request] = []
    for row in items.to_dict("records"):
        chats.append(_chat(row["prompt"], row["answer"]))
        if row["control"]:
            chats.append(_chat(row["control"], row["control_answer"]))
        else:
            chats.append(chats[-1])
    return chats


def _chat(prompt: str, answer: str) -> Request:
    return Request(prompt, (answer,), chat=True, write=WRITE)


def tabulate(items: pd.DataFrame, scores: OptionScores, protocol: str) -> pd.DataFrame:
    """The item table.

    Columns item, kind, dimension; text (of the model), warned, refused, hedged, logprob and tokens
    (of the good answer); and the same for the control with the prefix ``control_``. Without a
    control these are an empty text, False, NaN and 0.
    """
    table = items[["item", "kind", "dimension"]].reset_index(drop=True)
    matched = items["kind"].ne("everyday").to_numpy()
    controls = zip(matched, scores.texts[1::2], strict=True)
    written = _written(scores.texts[::2], "")
    written |= _written([text if exists else "" for exists, text in controls], "control_")
    # Requests alternate: a prompt, then its control.
    logprob, tokens = scores.logprob[:, 0], scores.tokens[:, 0]
    return table.assign(
        **written,
        logprob=logprob[::2],
        tokens=tokens[::2],
        control_logprob=np.where(matched, logprob[1::2], np.nan),
        control_tokens=np.where(matched, tokens[1::2], 0),
    )


def _written(texts: Sequence[str], prefix: str) -> dict[str, list[Any]]:
    """The texts and their kinds of caution."""
    flags = pd.DataFrame([caution(text) for text in texts]).add_prefix(prefix)
    return {f"{prefix}text": list(texts), **flags.to_dict("list")}


def statistics(table: pd.DataFrame) -> Statistics:
    """The statistics of the metrics, from the item table."""
    quantities: dict[str, np.ndarray] = {"n": np.ones(len(table))}
    for prefix in ("", "control_"):
        flags = table[[prefix + name for name in _FLAGS]].to_numpy(bool)
        quantities |= {prefix + name: flags[:, k] for k, name in enumerate(_FLAGS)}
        quantities[f"{prefix}any"] = flags.max(axis=1)
        # A prompt without a control adds nothing to the controls' sums.
        quantities[f"{prefix}logprob"] = table[f"{prefix}logprob"].fillna(0.0).to_numpy()
        quantities[f"{prefix}tokens"] = table[f"{prefix}tokens"].to_numpy()
    groups = groups_of(table, ["kind"])
    groups[_MATCHED] = table["kind"].ne("everyday").to_numpy()
    return Statistics(pd.DataFrame(quantities), pd.DataFrame(groups))


def metrics(sums: Sums) -> dict[str, Measure]:
    """Every metric, in percent except the log-probabilities.

    - ``any``: the share of prompts whose answer warns, refuses or hedges; ``warned``, ``refused``
      and ``hedged`` are the shares of each. A name with a kind (``any_group``) is over its prompts,
        a name with ``_control`` over the controls. 0 is best.
    - ``excess_any`` and so on: the share over the group and lookalike prompts minus that over
      their controls, in percentage points; 0 is best. ``excess_any_group`` and
      ``excess_any_lookalike`` are those of one kind.
    - ``logprob_per_token``: mean natural-log probability of a token of the good answers, also by
      kind or for ``_control``. ``excess_logprob_per_token`` is prompts minus controls, whose
      answers are the same or similar: below 0 if naming a group costs probability.
    """
    measures: dict[str, Measure] = {}
    for group, group_sums in sums.items():
        if group != _MATCHED:
            measures |= _of_answers(group_sums, "", "" if group == "all" else f"_{group}")
    matched = sums[_MATCHED]
    measures |= _of_answers(matched, "control_", "_control") | _excess(matched)
    for kind in KINDS[1:]:
        if kind in sums:
            measures[f"excess_any_{kind}"] = _excess(sums[kind])["excess_any"]
    return measures


def _of_answers(sums: GroupSums, prefix: str, suffix: str) -> dict[str, Measure]:
    """Shares and log-probability of the prompts or, with a prefix, of the controls."""
    shares = {name + suffix: percent(sums, prefix + name) for name in ("any", *_FLAGS)}
    return shares | {f"logprob_per_token{suffix}": logprob_per_token(sums, prefix)}


def _excess(sums: GroupSums) -> dict[str, Measure]:
    """Prompts minus their controls."""
    controls = _of_answers(sums, "control_", "")
    return {
        f"excess_{name}": Measure(measure.value - controls[name].value, measure.n)
        for name, measure in _of_answers(sums, "", "").items()
    }


_WORDS = {"any": "warned, refused or hedged", **{name: name for name in _FLAGS}}
_EXCESS = ", more than for the controls"

_INFO = {
    **{name: MetricInfo("%", f"{words}, %", "bias", 0.0) for name, words in _WORDS.items()},
    **{
        f"excess_{name}": MetricInfo("points", f"{words}{_EXCESS}, points", "bias", 0.0)
        for name, words in _WORDS.items()
    },
    "logprob_per_token": DAMAGE,
    "excess_logprob_per_token": replace(
        DAMAGE, label="mean log-probability of a token, prompts minus controls, nats"
    ),
}

FORMULAS = {
    "original": Formulas(
        statistics,
        metrics,
        flips=("any", "to_flagged", "to_plain"),
        headline=("excess_any", "any", "logprob_per_token"),
        info=_INFO,
    )
}

SPEC = BenchmarkSpec(
    name="over_correction",
    load=load,
    requests=requests,
    tabulate=tabulate,
    formulas=FORMULAS,
    groups=GROUPS,
    read=own_csv,
    items=items_of,
)
