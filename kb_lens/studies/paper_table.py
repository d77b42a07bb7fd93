"""The paper's table, cell by cell: published values, the release's protocol, and ours.

Source: Pan et al., Knowing Bias, Doing Better (arXiv 2601.21864). `published.csv` gives each
value's source and how sure it is; a cell without a known value is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.evaluation.comparison import compare
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.intervals import interval_text
from kb_lens.rows import read_csv
from kb_lens.runs.folder import RunFolder

BASE, ENHANCED, CHANGE = "base", "know-bias", "change"
"""The unchanged model, the enhanced model, and the paired difference of the two."""
RELEASE = "release"
"""The protocol of the authors' code."""


@dataclass(frozen=True)
class Recipe:
    """The paper's setting for one of its models."""

    lam: float
    """The factor."""
    n_neurons: int
    """The number of neurons that the paper found."""


RECIPES = {
    "Llama-3.2-3B-Instruct": Recipe(2.0, 384),
    "Qwen3-4B": Recipe(3.5, 723),
    "Llama-3.1-8B-Instruct": Recipe(2.0, 138),
}
"""The last part of a model's name on the hub -> the paper's setting."""
DEFAULT_LAM = 2.0
"""The factor for every other model."""


@dataclass(frozen=True)
class Cell:
    """One number of the table."""

    benchmark: str
    """The benchmark."""
    metric: str
    """The metric."""
    label: str
    """Its name in the table."""


_BBQ = {"gender_identity": "gender", "race_ethnicity": "race", "religion": "religion"}
_BBQ_METRICS = {
    "acc_ambig": "accuracy, ambiguous",
    "acc_disambig": "accuracy, disambiguated",
    "s_AMB": "bias, ambiguous",
    "s_DIS": "bias, disambiguated",
    # An answer may name no option; the four metrics above use only the other answers.
    "unparsed": "answers that name no option",
}
_ABILITIES = {
    "copa": "COPA",
    "balanced_copa": "Balanced COPA",
    "openbookqa": "OpenBookQA",
    "arc_easy": "ARC easy",
    "arc_challenge": "ARC challenge",
}
CELLS = (
    *(
        Cell("stereoset", f"{metric}_{group}", f"StereoSet {metric}, {group}")
        for group in ("gender", "race", "religion")
        for metric in ("icat", "ss", "lms")
    ),
    *(
        Cell("crows_pairs", f"stereotype_share_{group}", f"CrowS-Pairs, {group}")
        for group in ("gender", "race-color", "religion")
    ),
    *(
        Cell(f"bbq_{category}", metric, f"BBQ {group}, {words}")
        for category, group in _BBQ.items()
        for metric, words in _BBQ_METRICS.items()
    ),
    *(Cell(name, "acc", label) for name, label in _ABILITIES.items()),
)
"""The table from top to bottom."""
_BENCHMARKS = tuple(dict.fromkeys(cell.benchmark for cell in CELLS))
_WITH_RELEASE = ("stereoset", "crows_pairs", *(f"bbq_{category}" for category in _BBQ))
BENCHMARKS = (*(f"{name}:{RELEASE}" for name in _WITH_RELEASE), *_BENCHMARKS)
"""The default benchmarks; those without a protocol are measured by the one in the settings."""

_DIFFERENCES = (
    "The release loads models in 4 bits (NF4) and computes in bfloat16; here the type is that of "
    "--dtype.",
    "It lists the options in one order, the anti-stereotype first; here they are scored without a "
    "list, or in every order (--protocol instructed).",
    "Its chat template is rendered with its defaults, which lets Qwen3 think before it answers; "
    "here thinking is off unless --template-option enable_thinking=true.",
    "Its code has no parser for BBQ's answers and no ability benchmarks: here answers must name "
    "one option, and abilities are those of lm-evaluation-harness.",
)
_STEPS = "It attributes with 20 equal steps; here the error is controlled."
_SPELLING = "Its answers are yes and no in lower case; here they are spelled as by the model."


def differences(arguments: Mapping[str, Any]) -> list[str]:
    """The reasons why a measured number may differ from a published one.

    Args:
        arguments: The settings of ``kb-lens paper``, as in ``run.json``.
    """
    said: list[str] = list(_DIFFERENCES)
    if not arguments.get("neurons"):  # otherwise nothing was attributed
        if arguments.get("rule") == "adaptive":
            said.append(_STEPS)
        if arguments.get("answer_style") == "model":
            said.append(_SPELLING)
    return said


def check_cells(benchmarks: Sequence[Benchmark]) -> None:
    """Refuse benchmarks without a cell in the table, and two benchmarks for the same cells.

    Raises:
        ValueError: If there are some; the message names them.
    """
    ours: dict[str, str] = {}
    for benchmark in benchmarks:
        if benchmark.name not in _BENCHMARKS or benchmark.dataset is not None:
            raise ValueError(
                f"the paper's table has no cell of {benchmark.key}: allowed are "
                f"{', '.join(_BENCHMARKS)}. `kb-lens run` measures others."
            )
        if benchmark.protocol == RELEASE:
            continue
        if benchmark.name in ours:
            raise ValueError(
                f"{ours[benchmark.name]} and {benchmark.key} have the same cells: give one of them "
                "here, and the other in a run with another --out."
            )
        ours[benchmark.name] = benchmark.key


def recipe_of(model: str) -> Recipe | None:
    """The paper's setting for a model of this name; None if the paper does not have it."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return next((recipe for name, recipe in RECIPES.items() if name.lower() == last), None)


def published() -> pd.DataFrame:
    """The published values: model, condition, benchmark, metric, value, sure, source."""
    rows = read_csv(Path(__file__).with_name("published.csv")).rows
    table = pd.DataFrame([dict(row) for _, row in rows])
    return table.assign(value=table["value"].astype(float))


def paper_table(
    results: Mapping[str, Sequence[EvaluationResult]], model: str, *, seed: int = 0
) -> pd.DataFrame:
    """Every cell that was measured, under each condition, and its change.

    Args:
        results: `BASE` and `ENHANCED` -> their results.
        model: The model's name, for its published values.
        seed: Seed of the paired intervals.

    Returns:
        Columns cell, benchmark, metric, condition; published, sure, source; for the release's
        protocol and for ours the value, ``_low``, ``_high``, ``_n``, ``_clusters``; and our
        protocol. Values that are unknown or not measured are empty.
    """
    measured = {
        (protocol, cell.benchmark): list(_conditions(results, cell.benchmark, protocol, seed))
        for cell in CELLS
        for protocol in ("release", "ours")
    }
    known = published().set_index(["condition", "benchmark", "metric"])
    rows: list[dict[str, Any]] = []
    for cell in CELLS:
        for condition in (BASE, ENHANCED, CHANGE):
            numbers: dict[str, Any] = {}
            for protocol in ("release", "ours"):
                for name, table, protocol_name in measured[protocol, cell.benchmark]:
                    if name == condition and cell.metric in table.index:
                        numbers |= _numbers(table.loc[cell.metric], protocol)
                        if protocol == "ours":
                            numbers["protocol"] = protocol_name
            if numbers:
                names = {"cell": cell.label, "benchmark": cell.benchmark, "metric": cell.metric}
                said = _published(known, model, condition, cell)
                rows.append({**names, "condition": condition, **said, **numbers})
    return pd.DataFrame(
        rows, columns=None if rows else ["cell", "benchmark", "metric", "condition"]
    )


def table_of(run: RunFolder) -> pd.DataFrame:
    """`paper_table` of a folder of ``kb-lens paper``."""
    arguments = run.record.get("arguments", {})
    model, seed = arguments.get("model", ""), arguments.get("seed", 0)
    return paper_table(run.results, model, seed=seed)


def brief_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table for readers: cell, condition, and each source's value with its interval."""
    columns: dict[str, Any] = {name: table[name] for name in ("cell", "condition")}
    if "published" in table:
        columns["published"] = ["" if pd.isna(v) else f"{v:g}" for v in table["published"]]
    for protocol in ("release", "ours"):
        if protocol in table:
            ends = (table[f"{protocol}{end}"] for end in ("", "_low", "_high"))
            columns[protocol] = [_in_words(*row) for row in zip(*ends, strict=True)]
    return pd.DataFrame(columns)


def _in_words(value: float, low: float, high: float) -> str:
    return "" if pd.isna(value) else interval_text(value, low, high, ".1f")


def _conditions(
    results: Mapping[str, Sequence[EvaluationResult]], benchmark: str, protocol: str, seed: int
) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Condition, its metrics (value, low, high, n, clusters), and the protocol's name."""
    found: dict[str, EvaluationResult] = {}
    for condition in (BASE, ENHANCED):
        for result in results.get(condition, ()):
            of_release = result.protocol == RELEASE
            if result.benchmark == benchmark and of_release == (protocol == "release"):
                found[condition] = result
    for condition, result in found.items():
        values = {name: vars(metric) for name, metric in result.metrics.items()}
        yield condition, pd.DataFrame.from_dict(values, orient="index"), result.protocol
    if len(found) == 2:
        changed = compare(found[BASE], found[ENHANCED], seed=seed).set_index("metric")
        renamed = changed.rename(columns={"difference": "value"})
        yield CHANGE, renamed, found[BASE].protocol


def _numbers(metric: pd.Series, protocol: str) -> dict[str, Any]:
    names = {"value": "", "low": "_low", "high": "_high", "n": "_n", "clusters": "_clusters"}
    return {f"{protocol}{suffix}": metric[name] for name, suffix in names.items()}


def _published(known: pd.DataFrame, model: str, condition: str, cell: Cell) -> dict[str, Any]:
    """The published value of a cell; a change is computed from two published values."""
    if condition == CHANGE:
        both = [_published(known, model, name, cell) for name in (BASE, ENHANCED)]
        if any("published" not in said for said in both):
            return {}
        return both[1] | {"published": both[1]["published"] - both[0]["published"]}
    key = (condition, cell.benchmark, cell.metric)
    if key not in known.index:
        return {}
    last = model.rstrip("/").rpartition("/")[2].lower()
    for _, row in known.loc[[key]].iterrows():
        # A value without a model's name holds for each of the paper's models, and for no other.
        if row["model"].lower() == last or (not row["model"] and recipe_of(model) is not None):
            return {"published": row["value"], "sure": row["sure"], "source": row["source"]}
    return {}
