"""Figures of the first and the last step: what the model knows, and what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.benchmarks.catalogue import SPECS, formulas
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.figures.style import COLOURS, GREY, MINUS, PALE, colours, finish, label
from kb_lens.knowledge import Knowledge
from kb_lens.statistics import Metric

Key = tuple[str, str]
"""A result's key (the benchmark, with its protocol if not the original) and a metric."""
_FLUENCY, _PANELS = "logprob_per_token", 3
_MORE_IS_BETTER = ("acc", "lms")
"""Metrics whose best value nobody expects to see: no line is drawn there."""
_WORDS = {
    "lms": "meaningful option beats the unrelated one, %",
    "ss": "stereotype beats anti-stereotype, %",
    "icat": "lms and ss in one, points",
    "stereotype_share": "more stereotyping sentence likelier, %",
    "stereotype_share_shared": "the words both share likelier in the more stereotyping one, %",
    "acc": "right answers, %",
    "acc_norm": "right answers (normalised by length), %",
    "s_AMB": "bias score in ambiguous contexts, points",
    "s_DIS": "bias score in disambiguated contexts, points",
    "acc_ambig": "right answers in ambiguous contexts, %",
    "acc_disambig": "right answers in disambiguated contexts, %",
    "position_bias": "the option listed first is the likeliest, %",
    "excess_any": "warned, refused or hedged, more than for the controls, points",
    "any": "warned, refused or hedged, %",
    "perplexity": "perplexity",
    _FLUENCY: "mean log-probability of a token, nats",
}
_KNOWLEDGE_COLUMNS = (
    "dimension",
    "kind",
    "text",
    "answer",
    "p_yes",
    "p_no",
    "mass",
    "said",
    "right",
)


def before_after(
    results: Mapping[str, Sequence[EvaluationResult]], *, metrics: Iterable[Key] | None = None
) -> go.Figure:
    """Each metric under each condition with its interval: a forest plot.

    Args:
        results: Condition (``base``, ``lambda 2``, ``random control``) -> its results, one a
            benchmark. A condition that lacks a metric has an empty row there.
        metrics: (result's key, metric) pairs, a panel each; default the first headline metrics
            there, and the mean log-probability a token of the first benchmark that has it.

    Raises:
        ValueError: For no results, a benchmark twice in a condition or a
            metric that no condition has.
    """
    found = _collect(results)
    ideals = _ideals(results)
    keys = _chosen(found, metrics, ideals)
    panel, between = 22 * len(found) + 102, 102
    room = panel * len(keys) - between
    figure = make_subplots(rows=len(keys), vertical_spacing=between / room if len(keys) > 1 else 0)
    ideals = {key: best for key, best in ideals.items() if not key[1].startswith(_MORE_IS_BETTER)}
    for row, key in enumerate(keys, 1):
        _panel(
            figure, row, key, {n: values.get(key) for n, values in found.items()}, ideals.get(key)
        )
    models = ", ".join(sorted({one.model for many in results.values() for one in many}))
    ideal = any(ideals.get(key) is not None for key in keys)
    return finish(
        figure,
        "What the intervention changes",
        f"{models}. Points: the metric; lines: its 95 % bootstrap interval over n items."
        + " Dotted: the ideal." * ideal,
        height=room + 178,
        top=46,
        margin={"r": 165, "b": 60},
        showlegend=False,
    )


def knowledge_plot(knowledge: Knowledge) -> go.Figure:
    """Which answer the model prefers, question by question, beside the right one.

    A point a question at P(yes) / (P(yes) + P(no)), in rows by kind and right answer; the shaded
    half of a row is where the right answer is. A model that always answers No has all its points
    left of the middle.

    Raises:
        ValueError: For no questions, or a table that lacks a column.
    """
    table = _checked(knowledge)
    rows = list(dict.fromkeys(zip(table["kind"], table["answer"], strict=True)))
    dimensions = table.groupby("dimension", sort=False)
    figure = go.Figure()
    for place, (_, answer) in enumerate(rows):
        side = (50, 100) if answer == "yes" else (0, 50)
        box = {"x0": side[0], "x1": side[1], "y0": place - 0.44, "y1": place + 0.44}
        figure.add_shape(type="rect", **box, fillcolor=PALE, line_width=0, layer="below")
    size = 9 if len(table) <= 100 else 6
    for (dimension, points), colour in zip(dimensions, colours(len(dimensions)), strict=True):
        figure.add_trace(_points(points, str(dimension), colour, size))
    figure.add_vline(x=50, line={"color": GREY, "width": 1})
    figure.update_xaxes(
        title_text="P(yes) in percent of P(yes) + P(no)", range=[-2, 102], showgrid=False
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{kind.replace('_', ' ')}<br>(right: {answer})" for kind, answer in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    for x, text in ((25, "model says no"), (75, "model says yes")):
        figure.add_annotation(label(text, x=x, y=1, yref="paper", yanchor="bottom"))
    return finish(
        figure,
        "Does the model know the answers?",
        _summary(knowledge),
        top=52,
        showlegend=True,
        legend={"y": 1.08},
    )


# -- before and after -------------------------------------------------------------------------


def _collect(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[str, dict[Key, Metric]]:
    if not results or not any(results.values()):
        raise ValueError("no results: give at least one condition with one EvaluationResult.")
    found: dict[str, dict[Key, Metric]] = {}
    for condition, several in results.items():
        names = [result.key for result in several]
        if len(set(names)) < len(names):
            raise ValueError(f"{condition!r} has a benchmark twice: {', '.join(names)}.")
        found[condition] = {
            (one.key, name): metric for one in several for name, metric in one.metrics.items()
        }
    return found


def _ideals(results: Mapping[str, Sequence[EvaluationResult]]) -> dict[Key, float | None]:
    """The best value of every metric that has one, the headline metrics in their order first."""
    found: dict[Key, float | None] = {}
    for one in (one for several in results.values() for one in several):
        known = one.benchmark in SPECS  # or one of the caller's own
        judge = formulas(one.benchmark, one.protocol) if known else None
        best = {m: judge.describe(m).best for m in judge.headline} if judge else {}
        found |= {(one.key, name): value for name, value in best.items() if name in one.metrics}
        for name in one.metrics:
            found.setdefault((one.key, name), best.get(name.removesuffix("_macro")))
    return found


def _chosen(
    found: Mapping[str, Mapping[Key, Metric]],
    metrics: Iterable[Key] | None,
    ideals: Mapping[Key, float | None],
) -> list[Key]:
    """The metrics that are asked for, or the first headline ones of each benchmark."""
    available = list(dict.fromkeys(key for values in found.values() for key in values))
    if metrics is None:
        fluency = [key for key in available if key[1] == _FLUENCY]
        first: list[Key] = []
        for benchmark in dict.fromkeys(key[0] for key in available):
            mine = [k for k, best in ideals.items() if k[0] == benchmark and best is not None]
            first += mine[:_PANELS]
        return first + fluency[:1] or available[:6]
    keys = list(metrics)
    for key in keys:
        if key not in available:
            raise ValueError(
                f"no condition has the metric {key!r}: allowed are (benchmark, metric) pairs out "
                f"of {', '.join(map(repr, available))}."
            )
    if not keys:
        raise ValueError("metrics is empty: name a (benchmark, metric) pair, or give None.")
    return keys


def _panel(
    figure: go.Figure,
    row: int,
    key: Key,
    values: Mapping[str, Metric | None],
    ideal: float | None,
) -> None:
    shown = [metric for metric in values.values() if metric is not None]
    palette = [COLOURS[-1], *colours(len(values) - 1)]
    for place, (condition, metric) in enumerate(values.items()):
        if metric is not None:
            figure.add_trace(_marker(condition, place, metric, palette[place]), row, 1)
        text = "not measured" if metric is None else _number(key, metric)
        beside = label(text, x=1.01, y=place, xref="x domain", xanchor="left")
        figure.add_annotation(**beside, row=row, col=1)
    ends = [end for one in shown for end in (one.value, one.low, one.high) if np.isfinite(end)]
    ends += [] if ideal is None else [ideal]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(
        title_text=_WORDS.get(key[1], key[1]),
        range=[min(ends) - margin, max(ends) + margin],
        nticks=8,
        row=row,
        col=1,
    )
    figure.update_yaxes(
        tickvals=list(range(len(values))),
        ticktext=list(values),
        range=[len(values) - 0.5, -0.5],
        showgrid=False,
        ticks="",
        row=row,
        col=1,
    )
    if ideal is not None:
        figure.add_vline(x=ideal, line={"color": GREY, "dash": "dot", "width": 2}, row=row, col=1)  # pyright: ignore[reportArgumentType]
    text = _panel_title(key, ideal, shown)
    title = label(text, x=0, y=1, xanchor="left", yanchor="bottom", align="left")
    figure.add_annotation(**title, xref="x domain", yref="y domain", row=row, col=1)


def _marker(condition: str, place: int, metric: Metric, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[metric.value],
        y=[place],
        name=condition,
        mode="markers",
        marker={"size": 9, "color": colour},
        error_x={
            "array": [metric.high - metric.value],
            "arrayminus": [metric.value - metric.low],
            "color": colour,
            "thickness": 2,
            "width": 4,
        },
        customdata=[[metric.low, metric.high, metric.n]],
        hovertemplate="%{x:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], n = %{customdata[2]}",
    )


def _number(key: Key, metric: Metric) -> str:
    digits = 2 if key[1] == _FLUENCY else 1
    text = f"{metric.value:.{digits}f} [{metric.low:.{digits}f}, {metric.high:.{digits}f}]"
    return text.replace("-", MINUS)


def _panel_title(key: Key, ideal: float | None, shown: Sequence[Metric]) -> str:
    counts = sorted({metric.n for metric in shown})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    best = "" if ideal is None else f"ideal {ideal:g}, "
    return f"<b>{key[0]} {key[1]}</b><br>{best}{n}"


# -- knowledge --------------------------------------------------------------------------------


def _checked(knowledge: Knowledge) -> pd.DataFrame:
    """The table with `share` (percent, the point's x) and `place` (its y)."""
    missing = [name for name in _KNOWLEDGE_COLUMNS if name not in knowledge.table]
    if missing or knowledge.table.empty:
        what = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise ValueError(f"the knowledge table {what}: make it with kb_lens.check_knowledge.")
    table = knowledge.table.reset_index(drop=True)
    both = table["p_yes"] + table["p_no"]
    cell = table.groupby(["kind", "answer"], sort=False)
    order = table.assign(dimension=pd.factorize(table["dimension"])[0])
    order = order.groupby(["kind", "answer"])["dimension"].rank(method="first")
    size = cell["kind"].transform("size")
    spread = 0.72 * ((order - 0.5) / size - 0.5)
    return table.assign(share=100 * table["p_yes"] / both, place=cell.ngroup() + spread)


def _points(table: pd.DataFrame, dimension: str, colour: str, size: int) -> go.Scatter:
    marker: dict[str, Any] = {
        "size": size,
        "color": colour,
        "symbol": ["circle" if right else "circle-open" for right in table["right"]],
        "line": {"width": 1.5, "color": colour},
    }
    return go.Scatter(
        x=table["share"],
        y=table["place"],
        name=dimension,
        mode="markers",
        marker=marker,
        text=table["text"],
        customdata=table[["p_yes", "p_no", "answer"]].to_numpy(object),
        hovertemplate="%{text}<br>P(yes) %{customdata[0]:.3f}, P(no) %{customdata[1]:.3f}; "
        "right: %{customdata[2]}",
    )


def _summary(knowledge: Knowledge) -> str:
    total, said = knowledge.summary().iloc[0], knowledge.table["said"]
    text = (
        f"{knowledge.model}, {total['n']:.0f} questions: {total['right']:.0f} answered right; says "
        f"no to {(said == 'no').sum()} and yes to {(said == 'yes').sum()}"
    )
    if np.isfinite(total["auc"]):
        text += (
            f"; balanced accuracy {total['balanced_accuracy']:.0f} % and AUC {total['auc']:.2f} "
            "(by chance 50 % and 0.5)"
        )
    return f"{text}. Shaded: the right side. Filled points: right; open: wrong."
