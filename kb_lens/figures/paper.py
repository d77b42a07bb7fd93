"""Figure of the paper's table: published values, the release's protocol, and ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.figures.marks import error_bars, interval_hover, panel_title, rows_axis
from kb_lens.figures.style import COLOURS, finish
from kb_lens.studies.paper_table import BASE, CHANGE, ENHANCED

_SOURCES = {"published": COLOURS[-1], "release": COLOURS[1], "ours": COLOURS[0]}
"""Column of the table -> its colour."""
_NAMES = {"published": "published", "release": "release's protocol", "ours": "our protocol"}
_PANELS = {
    "StereoSet": ("stereoset",),
    "CrowS-Pairs": ("crows_pairs",),
    "BBQ": ("bbq_gender_identity", "bbq_race_ethnicity", "bbq_religion"),
    "Ability": ("copa", "balanced_copa", "openbookqa", "arc_easy", "arc_challenge"),
}
"""Title of a panel -> the benchmarks whose cells it shows."""
_ROW, _BETWEEN = 46, 70
"""Pixels of a row, and between two panels."""
_OFFSETS = {BASE: -0.07, ENHANCED: 0.07}
_BETWEEN_SOURCES = 0.29
"""Positions of points in a row of height 1: by condition, and the distance between sources."""


def paper_figure(table: pd.DataFrame) -> go.Figure:
    """Each cell of the paper's table as a row; hollow the base model, filled the enhanced one.

    Args:
        table: What `kb_lens.studies.paper_table.paper_table` returned.

    Raises:
        ValueError: If it has no rows.
    """
    if table.empty:
        raise ValueError("the paper's table has no rows: none of its cells was measured.")
    measured = table.query(f"condition != {CHANGE!r}")
    by_title = {t: measured.query(f"benchmark in {names!r}") for t, names in _PANELS.items()}
    panels = {title: rows for title, rows in by_title.items() if len(rows)}
    heights = [_ROW * len(set(rows["cell"])) for rows in panels.values()]
    plot = sum(heights) + _BETWEEN * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        row_heights=heights,
        vertical_spacing=_BETWEEN / plot if len(panels) > 1 else 0,
    )
    shown: set[str] = set()
    for row, (title, cells) in enumerate(panels.items(), 1):
        names = list(dict.fromkeys(cells["cell"]))
        for trace in _traces(cells, names):
            trace.update(showlegend=trace.name not in shown)
            shown.add(str(trace.name))
            figure.add_trace(trace, row, 1)
        figure.update_yaxes(rows_axis(names), row=row, col=1)
        panel_title(figure, f"<b>{title}</b>", row)
    return finish(
        figure,
        "The paper's table",
        "Hollow: the base model; filled: with the know-bias neurons enhanced. Lines: 95 % "
        "intervals over clusters. Published values have no interval.",
        height=plot + 230,
        top=90,
        margin={"l": 190},
        showlegend=True,
        legend={"x": -0.3, "y": 1 + 30 / plot},
    )


def _traces(cells: pd.DataFrame, names: list[str]) -> Iterator[go.Scatter]:
    """A trace per source and condition that has values."""
    sources = [name for name in _SOURCES if name in cells and len(cells.dropna(subset=[name]))]
    for number, source in enumerate(sources):
        # The existing sources are placed around the middle of the row.
        middle = _BETWEEN_SOURCES * (number - (len(sources) - 1) / 2)
        colour = _SOURCES[source]
        for condition, offset in _OFFSETS.items():
            rows = cells.query(f"condition == {condition!r}").dropna(subset=[source])
            if rows.empty:
                continue
            values = np.asarray(rows[source], dtype=float)
            places = [names.index(cell) for cell in rows["cell"]]
            trace = go.Scatter(x=values, y=np.array(places) + offset + middle)
            trace.update(mode="markers", name=f"{_NAMES[source]}, {condition}")
            symbol = "diamond" if source == "published" else "circle"
            trace.update(marker_symbol=symbol if condition == ENHANCED else f"{symbol}-open")
            trace.update(marker_size=8, marker_color=colour)
            trace.update(marker_line={"width": 2, "color": colour})
            trace.update(hovertemplate="%{x:.1f}")
            if source != "published":
                ends = (f"{source}_low", f"{source}_high")
                low, high = (np.asarray(rows[end], dtype=float) for end in ends)
                trace.update(error_x=error_bars(values, low, high, colour, thickness=1.5, width=0))
                trace.update(customdata=np.column_stack([low, high]))
                trace.update(hovertemplate=interval_hover("x", ".1f"))
            yield trace
