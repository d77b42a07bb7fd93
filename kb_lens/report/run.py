"""The parts of a report on what ``kb-lens run``, ``identify`` or ``doctor`` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from kb_lens.attribution.attributions import Attributions
from kb_lens.evaluation.comparison import summarize
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.knowledge import Knowledge
from kb_lens.neurons import NeuronSet, overlap, saliency_counts
from kb_lens.report import words as words
from kb_lens.report.page import Section, Table
from kb_lens.runs.folder import RunFolder

Figures = Mapping[str, go.Figure]
_KNOWS, _ELSE = ("knowledge",), ("specificity",)
_LOOKED = ("attribution_heatmap", "attribution_by_question", "layer_profile", "completeness")
_FOUND = ("neurons_per_layer", "shared_per_layer", "overlap", "upset")
"""The figures of `kb_lens.figures.make_all` by section; the others are with the changes."""
_N_TOKENS = 5
"""Tokens of a neuron that are shown, a side."""
_SCORES = (
    "Score: mean attribution over the questions, in percentage points of P(right answer). Salient: "
    "in how many questions the score is above tau times the largest. The tokens are those that an "
    "activation above 0 makes likelier and less likely, read off the neuron's output weights."
)
_NO_TOKENS = (
    "Which tokens the neurons promote is not known: this folder has no tokens.csv, which "
    "`kb-lens run` writes."
)
_PROBABILITIES = {"p_yes": "P(yes)", "p_no": "P(no)", "p_right": "P(right)", "auc": "AUC"}
_GAIN = (
    "Each benchmark's first metric. Gain: how much nearer it came to its best value; beyond: the "
    "gain minus that of random neurons. 95 % paired bootstrap intervals over n items."
)
_PAIRED = (
    "Difference: from the base model, on the same items, with its 95 % paired bootstrap interval. "
    "The last metrics of a benchmark are shares of items that moved, each way by itself."
)
_GROUPS = (
    "Balanced accuracy, said yes and said no in percent (balanced accuracy of chance: 50); AUC of "
    "P(yes), chance 0.5; mass: the probability on all spellings of yes and no."
)
_WEAK = (
    "one draw of as many neurons in the same layers. Such neurons do less to a text than selected "
    "ones, so this control is weak; `kb-lens experiment methods` draws many, matched in influence."
)


def run_sections(run: RunFolder, figures: Figures) -> list[Section]:
    """The parts, in the order of the method's steps; what the folder has not is left empty."""
    seed = _argument(run, "seed", 0)
    changes = words.changes(run.results, seed=seed)
    summary = summarize(run.results, seed=seed) if run.results else pd.DataFrame()
    return [
        _summary(run, changes, summary),
        Section("Method settings", facts=_settings(run)),
        _knowledge(run.knowledge, figures),
        Section("Attributions", figures=_some(figures, _LOOKED)),
        _neurons(run, figures),
        _specificity(run, figures),
        _changes(changes, summary, figures),
        _checks(run),
    ]


def _summary(run: RunFolder, changes: Sequence[words.Change], summary: pd.DataFrame) -> Section:
    points: list[words.Point] = []
    if run.knowledge is not None:
        points.append((run.knowledge.verdict(), []))
    if run.neurons is not None:
        joined = _argument(run, "aggregation", "union")
        points.append((words.neuron_words(run.neurons, run.sets, joined), []))
    points += words.change_points(changes, summary)
    if run.checks is not None:
        points.append(words.check_point(run.checks))
    knows = None if run.knowledge is None else run.knowledge.knows
    return Section("Summary", words=[words.conclusion(changes, knows)], points=points)


def _settings(run: RunFolder) -> dict[str, str]:
    facts: dict[str, str] = {}
    scores, neurons = run.attributions, run.neurons
    if run.knowledge is not None:
        facts["Questions"] = _counted(run.knowledge.table["dimension"])
        facts["Answers"] = f"{run.knowledge.spelling.yes!r} and {run.knowledge.spelling.no!r}"
    if scores is not None:
        facts |= _attribution_facts(scores)
    if neurons is not None:
        facts["Selection"] = f"tau {neurons.tau}, beta {neurons.beta}: {neurons.origin}"
    elif thresholds := [f"{n} {v}" for n in ("tau", "beta") if (v := _argument(run, n, None))]:
        facts["Thresholds"] = ", ".join(thresholds)
    conditions = {name: several for name, several in run.results.items() if several}
    if conditions:
        facts["Conditions"] = ", ".join(conditions)
        facts |= {f"Benchmark {one.key}": _measured(one) for one in next(iter(conditions.values()))}
    if any(name.startswith("random ") for name in conditions):
        facts["Random control"] = _WEAK
    return facts


def _attribution_facts(scores: Attributions) -> dict[str, str]:
    how = scores.settings
    precision = f"tol {how.tol:g}" if how.tol is not None else f"{how.n_steps} steps"
    gap = float(scores.relative_gap.max())
    return {
        "Prompt": f"{how.template.system} | {how.template.instruction}",
        "Attributed": f"{how.objective} of the right answer, site {how.site}, last position",
        "Quadrature": f"{how.rule}, {precision}; largest completeness gap {gap:.1e}",
    }


def _measured(one: EvaluationResult) -> str:
    return (
        f"{len(one.items)} items, protocol {one.protocol}, {Path(one.source).name}; "
        f"{one.n_bootstrap} resamples, seed {one.seed}"
    )


def _counted(values: Iterable[str]) -> str:
    counts = pd.Series(list(values)).value_counts(sort=False)
    return f"{counts.sum()}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _knowledge(found: Knowledge | None, figures: Figures) -> Section:
    title = "What the model knows"
    if found is None:
        return Section(title)
    parts = [found.summary(), found.summary("dimension"), found.summary("kind")]
    groups = pd.concat(parts).rename_axis("questions").reset_index()
    columns = ["dimension", "kind", "text", "answer", "said", "right", "p_yes", "p_no", "mass"]
    every: Any = found.table[columns]
    shown = [one.rename(columns=_PROBABILITIES) for one in (groups, every)]
    tables = [
        Table("Answers by group of questions", shown[0], _GROUPS),
        Table(f"The {len(every)} questions", shown[1]),
    ]
    return Section(title, figures=_some(figures, _KNOWS), tables=tables)


def _neurons(run: RunFolder, figures: Figures) -> Section:
    if run.neurons is None:
        return Section("Neurons")
    said = [] if run.tokens is not None else [_NO_TOKENS]
    tables = [Table(f"The {len(run.neurons)} neurons", _neuron_table(run, run.neurons), _SCORES)]
    if len(run.sets) > 1:
        tables.insert(0, Table("What the dimensions' neurons share", overlap(run.sets)))
    return Section("Neurons", words=said, figures=_some(figures, _FOUND), tables=tables)


def _neuron_table(run: RunFolder, neurons: NeuronSet) -> pd.DataFrame:
    members = {name: set(one) for name, one in run.sets.items()}
    found = [", ".join(name for name, own in members.items() if one in own) for one in neurons]
    table = pd.DataFrame({"layer": [one.layer for one in neurons]})
    table["neuron"] = [one.index for one in neurons]
    if members:
        table["dimensions"] = found
    if run.attributions is not None:
        table["score"] = _at(100 * run.attributions.scores.mean(0), neurons)
        if neurons.tau is not None:
            counts = saliency_counts(run.attributions, neurons.tau)
            table["salient"] = [int(n) for n in _at(counts, neurons)]
    if run.tokens is not None:
        for side in ("promotes", "suppresses"):
            table[side] = _tokens(run.tokens, neurons, side)
    return table


def _at(values: Float[Tensor, "layer d_mlp"], neurons: NeuronSet) -> list[float]:
    return [float(values[one.layer, one.index]) for one in neurons]


def _tokens(tokens: pd.DataFrame, neurons: NeuronSet, side: str) -> list[tuple[str, ...]]:
    found: dict[tuple[int, int], list[str]] = {}
    for row in sorted(tokens.to_dict("records"), key=lambda one: one["rank"]):
        if row["side"] == side and row["rank"] <= _N_TOKENS:
            found.setdefault((row["layer"], row["index"]), []).append(str(row["token"]))
    return [tuple(found.get((one.layer, one.index), ())) for one in neurons]


def _specificity(run: RunFolder, figures: Figures) -> Section:
    title = "What else selects these neurons"
    if run.specificity is None:
        return Section(title)
    return Section(
        title,
        figures=_some(figures, _ELSE),
        tables=[
            Table("Sets that should differ from the know-bias neurons", run.specificity.overlaps),
            Table(
                "Sets of random halves of the questions",
                run.specificity.stability,
                "Mean Jaccard of the two halves' sets, and the middle 95 % of the halves.",
            ),
        ],
    )


def _changes(changes: Sequence[words.Change], summary: pd.DataFrame, figures: Figures) -> Section:
    elsewhere = (*_KNOWS, *_LOOKED, *_FOUND, *_ELSE)
    shown = _some(figures, [name for name in figures if name not in elsewhere])
    tables = [Table("Every headline metric", summary, _PAIRED)] if len(summary) else []
    if changes:
        tables.insert(0, Table("How much nearer to the best value", words.table(changes), _GAIN))
    return Section("What changed", figures=shown, tables=tables)


def _checks(run: RunFolder) -> Section:
    title = "The doctor's checks"
    if run.checks is None:
        return Section(title, words=["This folder has no checks.json: `kb-lens doctor` makes it."])
    note = "Of several factors the first is examined." if len(run.results) > 3 else ""
    asked = "Should the results be believed?"
    return Section(title, tables=[Table(asked, run.checks, note, marked="status")])


def _argument(run: RunFolder, name: str, otherwise: Any) -> Any:
    return run.record.get("arguments", {}).get(name, otherwise)


def _some(figures: Figures, names: Iterable[str]) -> Figures:
    return {name: figures[name] for name in names if name in figures}
