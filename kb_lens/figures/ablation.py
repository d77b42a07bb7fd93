"""The figure of an ablation study: every neuron, and all together; a panel per measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.checks.ablation_study import AblationStudy
from kb_lens.figures.layout import ROW
from kb_lens.figures.marks import THIN, error_bars, interval_hover, rows_axis
from kb_lens.figures.style import colours, finish

_MOST_PANELS = 3
_APART = 0.16
"""Rows between the points of two factors."""


def ablation_figure(study: AblationStudy, measures: Sequence[str] | None = None) -> go.Figure:
    """The effects of changing each neuron, with intervals: a row per neuron, a panel per measure.

    Args:
        study: What `kb_lens.ablation_study` returned.
        measures: Measures of its table; default the first three of ``study.labels``.

    Raises:
        ValueError: If the study does not have a measure.
    """
    chosen = list(measures or [*study.labels][:_MOST_PANELS])
    there = {*study.table["measure"]}
    unknown = [measure for measure in chosen if measure not in there]
    if unknown:
        raise ValueError(f"no measure {unknown[0]!r}: the study has {', '.join(sorted(there))}.")
    names = [*dict.fromkeys(study.table["neuron"])]
    lams = [*dict.fromkeys(study.table["lam"])]
    figure = make_subplots(1, len(chosen), shared_yaxes=True, horizontal_spacing=0.05)
    for column, measure in enumerate(chosen, 1):
        rows = study.table.loc[study.table["measure"] == measure]
        for nth, (lam, colour) in enumerate(zip(lams, colours(len(lams)), strict=True)):
            of_lam = rows.loc[rows["lam"] == lam].set_index("neuron").loc[names]
            value, low, high = of_lam[["value", "low", "high"]].to_numpy(float).T
            offset = _APART * (nth - (len(lams) - 1) / 2)
            figure.add_scatter(
                x=value,
                y=[row + offset for row in range(len(names))],
                mode="markers",
                name=f"times {lam:g}" if lam else "ablated (times 0)",
                legendgroup=lam,
                showlegend=column == 1,
                marker={"color": colour, "size": 7},
                error_x=error_bars(value, low, high, colour, width=0),
                customdata=of_lam[["low", "high"]].to_numpy(float),
                hovertemplate=interval_hover("x", ".3g"),
                row=1,
                col=column,
            )
        place: dict[str, Any] = {"row": 1, "col": column}
        figure.add_vline(x=0, line=THIN, **place)
        title = study.labels.get(measure, f"Change of {measure}")
        figure.update_xaxes(title_text=_in_lines(title), **place)
        figure.update_yaxes(**rows_axis(names), **place)
    note = f"{study.rests_on}. Lines: 95 % bootstrap intervals over prompts and clusters of items."
    return finish(
        figure,
        "What each neuron does, alone and together",
        note,
        height=190 + ROW * len(names),
        top=30,
        margin={"l": 90, "b": 70},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "title_text": ""},
    )


def _in_lines(title: str) -> str:
    """The title broken into lines, since a panel is narrow."""
    words, lines = title.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 26:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)
