"""Figure of the first step: what the model knows, question by question."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kb_lens.figures.marks import THIN, rows_axis, shade
from kb_lens.figures.style import HEIGHT, dimension_colours, finish, label, shown_model
from kb_lens.knowledge.verdict import Knowledge, measures_text

_COLUMNS = ["dimension", "kind", "text", "answer", "p_yes", "p_no", "mass", "said", "right"]
"""Required columns of the table."""
_SHADED, _SPREAD = 0.44, 0.72
"""Shares of a row: half the height of its shaded area; the height over which points are spread."""
_ROWS, _ROW_HEIGHT = 4, 40
"""Rows that fit in the usual height; pixels for each further row."""
_MANY = 100
"""Number of questions from which points of the usual size would touch."""


def knowledge_plot(knowledge: Knowledge) -> go.Figure:
    """The answer that the model prefers and the right answer, question by question.

    A point per question at P(yes) / (P(yes) + P(no)), in rows by kind and right answer. The shaded
    half of a row is the side of the right answer. A model that always answers No has all points
    left of the middle. The lower rows are the form questions, plain facts in the same words: if the
    model answers by the form, both rows of a kind are on one side.

    Raises:
        ValueError: If there are no questions, or the table lacks a column.
    """
    table = _with_positions(knowledge)
    rows = list(dict.fromkeys(zip(table["kind"], table["answer"], strict=True)))
    figure = go.Figure()
    for row, (_, answer) in enumerate(rows):
        half = (50, 100) if answer == "yes" else (0, 50)
        shade(figure, half, (row - _SHADED, row + _SHADED))
    size = 9 if len(table) <= _MANY else 6
    dimensions = table.groupby("dimension", sort=False)
    palette = dimension_colours(str(name) for name, _ in dimensions)
    for (dimension, questions), colour in zip(dimensions, palette, strict=True):
        figure.add_trace(_points(questions, str(dimension), colour, size))
    figure.add_vline(x=50, line=THIN)
    title = "P(yes) in percent of P(yes) + P(no)"
    figure.update_xaxes(title_text=title, range=[-2, 102], showgrid=False)
    names = [f"{kind.replace('_', ' ')}<br>(right: {answer})" for kind, answer in rows]
    figure.update_yaxes(rows_axis(names), ticks="outside")
    for x, text in ((25, "model says no"), (75, "model says yes")):
        figure.add_annotation(label(text, x=x, y=1, yref="paper", yanchor="bottom"))
    return finish(
        figure,
        "Does the model know the answers?",
        _summary(knowledge),
        height=HEIGHT + _ROW_HEIGHT * max(0, len(rows) - _ROWS),
        top=52,
        showlegend=True,
        legend={"y": 1.08},
    )


def _with_positions(knowledge: Knowledge) -> pd.DataFrame:
    """The table with `percent` (the point's x) and `row` (its y), a row's dimensions in order."""
    missing = [name for name in _COLUMNS if name not in knowledge.table]
    if missing or knowledge.table.empty:
        fault = f"lacks {', '.join(missing)}" if missing else "has no rows"
        raise ValueError(f"the knowledge table {fault}: make it with kb_lens.check_knowledge.")
    table = knowledge.all_answers
    # The form questions have the same kinds, but rows of their own.
    form = table.index >= len(knowledge.table)
    table["kind"] = table["kind"].where(~form, "plain " + table["kind"])
    percent = 100 * table["p_yes"] / (table["p_yes"] + table["p_no"])
    cell = [table["kind"], table["answer"]]
    rows = table.groupby(cell, sort=False)
    dimensions = pd.Series(pd.factorize(table["dimension"])[0], table.index)
    order = dimensions.groupby(cell, sort=False).rank(method="first")
    # spread the points of a row vertically
    offset = _SPREAD * ((order - 0.5) / rows["kind"].transform("size") - 0.5)
    return table.assign(percent=percent, row=rows.ngroup() + offset)


def _points(table: pd.DataFrame, dimension: str, colour: str, size: int) -> go.Scatter:
    points = go.Scatter(x=table["percent"], y=table["row"], name=dimension, mode="markers")
    symbols = ["circle" if right else "circle-open" for right in table["right"]]
    points.update(marker_size=size, marker_color=colour, marker_symbol=symbols)
    points.update(marker_line_width=1.5, marker_line_color=colour)
    customdata = table[["p_yes", "p_no", "answer"]].to_numpy(object)
    points.update(text=table["text"], customdata=customdata)
    return points.update(
        hovertemplate="%{text}<br>P(yes) %{customdata[0]:.3f}, P(no) %{customdata[1]:.3f}; "
        "right: %{customdata[2]}"
    )


def _summary(knowledge: Knowledge) -> str:
    total = knowledge.summary().iloc[0]
    answers = knowledge.table["said"].value_counts()
    text = (
        f"{knowledge.outcome}. {shown_model(knowledge.model)}, {total['n']:.0f} questions: "
        f"{total['right']:.0f} answered right; says no to {answers.get('no', 0)} and yes to "
        f"{answers.get('yes', 0)}. {measures_text(knowledge.balanced_accuracy, knowledge.auc)}"
    )
    if knowledge.form_balanced_accuracy and knowledge.form_auc:
        form = measures_text(knowledge.form_balanced_accuracy, knowledge.form_auc)
        text += f" Within forms, on plain questions: {form}"
    return f"{text} Shaded: the right side. Filled points: right; open: wrong."
