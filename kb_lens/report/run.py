"""The parts of a report on a folder of ``kb-lens run``, ``identify`` or ``doctor``."""

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
from kb_lens.evaluation.results import ConditionInfo, EvaluationResult, conditions_of
from kb_lens.knowledge.verdict import Knowledge
from kb_lens.neurons.selection import overlap, saliency_counts
from kb_lens.neurons.sets import NeuronSet
from kb_lens.report import words as words
from kb_lens.report.page import Section, Table
from kb_lens.runs.folder import RunFolder
from kb_lens.studies.paper_table import brief_table, differences, table_of

Figures = Mapping[str, go.Figure]
_KNOWLEDGE = ("knowledge",)
_SPECIFICITY = ("specificity",)
_PAPER = ("paper",)
_ATTRIBUTIONS = ("attribution_heatmap", "attribution_by_question", "layer_profile", "completeness")
_NEURONS = ("neurons_per_layer", "layer_heatmap", "shared_per_layer", "overlap", "upset")
"""The figures of `kb_lens.figures.make_all` by section; all others are shown with the changes."""
# as many as fit in a row of a table
_N_TOKENS = 5
"""Tokens per neuron and side."""
_SCORES = (
    "Score: mean attribution over the questions, in percentage points of P(right answer). Salient: "
    "number of questions in which the score is above tau times the largest. Tokens: those that an "
    "activation above 0 makes likelier or less likely, read off the neuron's output weights. A "
    "score is a part of an integral over all neurons of the layer together: the effect of changing "
    "this neuron alone may differ, as the cards show, and in layer 0 it differs much."
)
_NO_TOKENS = (
    "The tokens that the neurons promote are not known: this folder has no tokens.csv. "
    "`kb-lens run` writes it."
)
_PROBABILITIES = {"p_yes": "P(yes)", "p_no": "P(no)", "p_right": "P(right)", "auc": "AUC"}
_GAIN = (
    "Each benchmark's first metric. Gain: how much nearer it came to its best value. Beyond: the "
    "gain minus the gain of random neurons; with several kinds of these the smallest difference, "
    "by its lower end. 95 % paired bootstrap intervals over clusters of items."
)
_PAIRED = (
    "Difference: from the base model, on the same items, with its 95 % paired bootstrap interval. "
    "The last metrics of a benchmark are the shares of items that moved, one metric per direction."
)
_GROUPS = (
    "Balanced accuracy (chance: 50), said yes and said no in percent. AUC of P(yes) (chance: 0.5). "
    "Both are of the questions counted, which were no lessons of the model, with 95 % intervals "
    "over concepts. Form: plain facts with both answers in every kind. Mass: the probability on "
    "all spellings of yes and no."
)
_CELLS = (
    "In percent; icat in points. Values with 95 % bootstrap intervals over clusters. Change: the "
    "paired difference, enhanced minus base. Empty: not known or not measured."
)
_ONE_DRAW = (
    "one draw each; `kb-lens experiment methods` draws 99 and says how often random neurons do as "
    "much"
)


def run_sections(run: RunFolder, figures: Figures) -> list[Section]:
    """The parts, in the order of the method's steps; a part is empty if the folder lacks it."""
    seed = _argument(run, "seed", 0)
    changes = words.changes(run.results, seed=seed)
    summary = summarize(run.results, seed=seed) if run.results else pd.DataFrame()
    return [
        _summary(run, changes, summary),
        Section("Method settings", facts=_settings(run)),
        _knowledge(run.knowledge, figures),
        Section("Attributions", figures=_chosen(figures, _ATTRIBUTIONS)),
        _neurons(run, figures),
        _specificity(run, figures),
        *_paper(run, figures),
        _changes(summary, figures),
        _checks(run),
    ]


def _paper(run: RunFolder, figures: Figures) -> list[Section]:
    """The paper's table, in a folder of ``kb-lens paper``."""
    if run.record.get("command") != "paper" or not run.results:
        return []
    table = table_of(run)
    brief = Table("Published, by the release's protocol, and by ours", brief_table(table), _CELLS)
    facts = {"What may differ": " ".join(differences(run.record["arguments"]))}
    if "source" in table:
        said = table.dropna(subset=["source"])
        facts |= {
            f"Published ({s})": str(t) for s, t in zip(said["sure"], said["source"], strict=True)
        }
    chosen = _chosen(figures, _PAPER)
    return [Section("The paper's table", tables=[brief], figures=chosen, facts=facts)]


def _summary(run: RunFolder, changes: Sequence[words.Change], summary: pd.DataFrame) -> Section:
    points: list[words.Point] = []
    answer = [words.conclusion(changes)]
    if run.knowledge is not None:
        answer += words.knowledge_words(run.knowledge.outcome)
        points.append((run.knowledge.verdict(), []))
    if run.neurons is not None:
        aggregation = _argument(run, "aggregation", "union")
        points.append((words.neuron_words(run.neurons, run.sets, aggregation), []))
    if len(summary):
        points += words.damage_points(summary)
    if run.checks is not None:
        points.append(words.check_point(run.checks))
    headline = None
    if changes:
        headline = Table("How much nearer to the best value", words.headline(changes), _GAIN)
    return Section("Summary", words=answer, headline=headline, points=points)


def _settings(run: RunFolder) -> dict[str, str]:
    facts: dict[str, str] = {}
    if run.knowledge is not None:
        facts["Questions"] = _counted(run.knowledge.table["dimension"])
        facts["Answers"] = f"{run.knowledge.spelling.yes!r} and {run.knowledge.spelling.no!r}"
    if run.attributions is not None:
        facts |= _attribution_facts(run.attributions)
    if run.neurons is not None:
        neurons = run.neurons
        found = neurons.tau is not None
        facts["Selection"] = (
            f"tau {neurons.tau}, beta {neurons.beta}: {neurons.origin}" if found else neurons.origin
        )
    else:
        thresholds = [f"{n} {v}" for n in ("tau", "beta") if (v := _argument(run, n, None))]
        if thresholds:
            facts["Thresholds"] = ", ".join(thresholds)
    # A run that was stopped may have a condition without results.
    measured = {name: results for name, results in run.results.items() if results}
    if measured:
        facts["Conditions"] = ", ".join(measured)
        first = next(iter(measured.values()))
        facts |= {f"Benchmark {result.key}": _result_facts(result) for result in first}
    infos = conditions_of(measured)
    facts |= {
        f"Method {name}": words
        for name, info in infos.items()
        if info.role == "method" and (words := _scaling_words(info))
    }
    controls = {name: info for name, info in infos.items() if info.role == "control"}
    facts |= {f"Control {name}": _control_facts(info) for name, info in controls.items()}
    if controls:
        facts["Controls"] = _ONE_DRAW
    return facts


def _scaling_words(info: ConditionInfo) -> str:
    """The factor of a method that scales neurons, and where; empty for another method."""
    change = info.intervention or {}
    if not {"lam", "positions", "site"} <= set(change):
        return ""
    return f"lambda {change['lam']:g}, site {change['site']}, positions: {change['positions']}"


def _control_facts(info: ConditionInfo) -> str:
    """How a control was drawn, and its factor."""
    change = info.intervention or {}
    drawn = str(change.get("origin", "")).partition(", for [")[0] or "origin not known"
    return f"{drawn}, lambda {change['lam']:.3g}" if "lam" in change else drawn


def _attribution_facts(attributions: Attributions) -> dict[str, str]:
    settings = attributions.settings
    template = settings.template
    precision = f"{settings.n_steps} steps" if settings.tol is None else f"tol {settings.tol:g}"
    gap = float(attributions.relative_gap.max())
    prompt = "as it is" if template is None else f"{template.system} | {template.instruction}"
    return {
        "Prompt": prompt,
        "Attributed": f"{settings.objective} of the right answer, site {settings.site}, "
        "last position",
        "Quadrature": f"{settings.rule}, {precision}; largest completeness gap {gap:.1e}",
    }


def _result_facts(result: EvaluationResult) -> str:
    return (
        f"{len(result.items)} items, protocol {result.protocol}, {Path(result.source).name}; "
        f"{result.n_bootstrap} resamples, seed {result.seed}"
    )


def _counted(values: Iterable[str]) -> str:
    counts = pd.Series(list(values)).value_counts(sort=False)
    return f"{counts.sum()}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _knowledge(knowledge: Knowledge | None, figures: Figures) -> Section:
    title = "What the model knows"
    if knowledge is None:
        return Section(title)
    summaries = [knowledge.summary(), *map(knowledge.summary, ("dimension", "kind"))]
    summaries.append(knowledge.form_summary())
    groups = pd.concat(summaries).rename_axis("questions").reset_index()
    columns = ["dimension", "kind", "text", "answer", "said", "right", "p_yes", "p_no", "mass"]
    answers = pd.DataFrame(knowledge.all_answers[columns])
    tables = [
        Table("Answers by group of questions", groups.rename(columns=_PROBABILITIES), _GROUPS),
        Table(f"The {len(answers)} questions", answers.rename(columns=_PROBABILITIES)),
    ]
    return Section(title, figures=_chosen(figures, _KNOWLEDGE), tables=tables)


def _neurons(run: RunFolder, figures: Figures) -> Section:
    if run.neurons is None:
        return Section("Neurons")
    lines = [_NO_TOKENS] if run.tokens is None else []
    tables = [Table(f"The {len(run.neurons)} neurons", _neuron_table(run, run.neurons), _SCORES)]
    if len(run.sets) > 1:
        tables.insert(0, Table("What the dimensions' neurons share", overlap(run.sets)))
    names = [*_NEURONS, *_cards(figures)]
    return Section("Neurons", words=lines, figures=_chosen(figures, names), tables=tables)


def _cards(figures: Figures) -> list[str]:
    """The names of the figures of single neurons."""
    return [name for name in figures if name.startswith("neuron_card")]


def _neuron_table(run: RunFolder, neurons: NeuronSet) -> pd.DataFrame:
    table = pd.DataFrame(neurons.neurons, columns=["layer", "neuron"])
    if run.sets:
        members = {dimension: set(selected) for dimension, selected in run.sets.items()}
        table["dimensions"] = [
            ", ".join(dimension for dimension, selected in members.items() if neuron in selected)
            for neuron in neurons
        ]
    if run.attributions is not None:
        table["score"] = _at(100 * run.attributions.scores.mean(0), neurons)
        if neurons.tau is not None:
            counts = _at(saliency_counts(run.attributions, neurons.tau), neurons)
            table["salient"] = [int(count) for count in counts]
    if run.tokens is not None:
        for side in ("promotes", "suppresses"):
            table[side] = _tokens(run.tokens, neurons, side)
    return table.sort_values("score", ascending=False) if "score" in table else table


def _at(values: Float[Tensor, "layer d_mlp"], neurons: NeuronSet) -> list[float]:
    return [float(values[neuron.layer, neuron.index]) for neuron in neurons]


def _tokens(tokens: pd.DataFrame, neurons: NeuronSet, side: str) -> list[tuple[str, ...]]:
    """Each neuron's first tokens on one side, by rank."""
    leading = tokens.query("side == @side and rank <= @_N_TOKENS").sort_values("rank")
    by_neuron: dict[tuple[int, int], list[str]] = {}
    for row in leading.to_dict("records"):
        by_neuron.setdefault((row["layer"], row["index"]), []).append(str(row["token"]))
    return [tuple(by_neuron.get((neuron.layer, neuron.index), ())) for neuron in neurons]


def _specificity(run: RunFolder, figures: Figures) -> Section:
    title = "What else selects these neurons"
    if run.specificity is None:
        return Section(title)
    return Section(
        title,
        figures=_chosen(figures, _SPECIFICITY),
        tables=[
            Table("Sets that should differ from the know-bias neurons", run.specificity.overlaps),
            Table(
                "Sets of random halves of the questions",
                run.specificity.stability,
                "Mean Jaccard of the two halves' sets, and the middle 95 % of the halves.",
            ),
        ],
    )


def _changes(summary: pd.DataFrame, figures: Figures) -> Section:
    elsewhere = (*_KNOWLEDGE, *_ATTRIBUTIONS, *_NEURONS, *_SPECIFICITY, *_PAPER, *_cards(figures))
    figures = _chosen(figures, [name for name in figures if name not in elsewhere])
    if summary.empty:
        return Section("What changed", figures=figures)
    # A condition's name already says whose control it is.
    brief = summary.drop(columns=["role", "control_of", "draw"])
    table = Table("Every headline metric", brief, _PAIRED)
    return Section("What changed", figures=figures, tables=[table])


def _checks(run: RunFolder) -> Section:
    title = "The doctor's checks"
    if run.checks is None:
        return Section(title, words=["This folder has no checks.json: `kb-lens doctor` makes it."])
    # More than a base, a method and its control: the doctor examines the first method.
    note = "Only the first of several factors is examined." if len(run.results) > 3 else ""
    title_of_table = "Should the results be believed?"
    return Section(title, tables=[Table(title_of_table, run.checks, note, marked="status")])


def _argument(run: RunFolder, name: str, default: Any) -> Any:
    return run.record.get("arguments", {}).get(name, default)


def _chosen(figures: Figures, names: Iterable[str]) -> Figures:
    return {name: figures[name] for name in names if name in figures}
