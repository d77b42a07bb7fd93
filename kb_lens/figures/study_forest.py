"""The forest plot of a study: a row per case, its difference from the base model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kb_lens.figures.layout import ROW, TWO_LINE_ROW, count_lines
from kb_lens.figures.study_panels import (
    PAIRED,
    Metric,
    Panel,
    Position,
    difference_axis,
    difference_bars,
    grids,
    shared_rows,
)
from kb_lens.figures.style import BACKGROUND, CONTROL, GLUE, METHOD, NOTE, SMALL, label
from kb_lens.intervals import interval
from kb_lens.studies.methods import CONTROLS

_ROWS = {
    "aggregation": "{aggregation}",
    "methods": "{method}",
    "quadrature": "{rule}, {spelling} spelling",
    "question-types": "{questions}",
    "right-answers": "{set}",
    "site": "{site}, positions: {at}",
    "transfer": "{source}",
}
"""Studies whose cases are the rows of a forest plot, and the name of a row."""
_LETTERS = 32
"""Letters per line of a row's name, so that the panels keep half of the figure."""


def forest(name: str, metrics: Sequence[Metric], rests: str) -> dict[str, go.Figure]:
    """A forest plot: a row per case, a panel per metric; `rests` begins the note."""
    tables = [_rows(metric.cases, _ROWS[name]) for metric in metrics]
    rows = pd.concat(tables)
    rows = rows[~rows.index.duplicated()]
    names = [
        "<br>".join(textwrap.wrap(text, _LETTERS, break_on_hyphens=False)) for text in rows["label"]
    ]
    note = f"{rests} Points: difference from the base model; lines: its {PAIRED}."
    note += " In brackets: neurons. Dotted: the best value, where it is in reach."
    if True in rows["random"].tolist():
        note += " Grey: random neurons, the mean of the sets and their 2.5 to 97.5 percentiles."
    panels: list[Panel] = []
    for metric, table in zip(metrics, tables, strict=True):
        draw = partial(_forest_panel, metric, table.reindex(rows.index), names)
        panels.append((metric.title, draw))
    row_height = TWO_LINE_ROW if count_lines(*names) > 1 else ROW
    return grids(name, panels, note, height=row_height * len(names) + 10, apart=0.05)


def _rows(cases: pd.DataFrame, template: str) -> pd.DataFrame:
    """By name: a row per method, and one row for all its random draws of a kind."""
    # The method's name is added only if several methods have draws of that kind.
    kinds = cases["control"].replace(CONTROLS).fillna("random")
    n_methods = cases["control_of"].groupby(kinds).nunique().to_dict()
    groups: dict[str, list[dict[str, Any]]] = {}
    for case, kind in zip(cases.to_dict("records"), kinds, strict=True):
        name = template.format(**case).replace("_", " ")
        if case["role"] == "control":
            name = f"{kind}, like {case['control_of']}" if n_methods[kind] > 1 else kind
        groups.setdefault(name, []).append(case)
    rows = {name: _row(name, pd.DataFrame(group)) for name, group in groups.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _row(name: str, group: pd.DataFrame) -> dict[str, Any]:
    first = group.iloc[0]
    low, high = first["difference_low"], first["difference_high"]
    n_neurons = float(first["n_neurons"])
    # A method without neurons, such as a prompt, has no size.
    size = [] if math.isnan(n_neurons) else [f"{n_neurons:.0f}"]
    is_control = "control" in group["role"].tolist()
    # A single set's interval is over items; the interval of random sets is over the sets.
    if is_control:
        low, high = interval(group["difference"].to_numpy())
        size.append(f"{len(group)} sets")
    return {
        "label": f"{name} ({', '.join(size).replace(' ', GLUE)})" if size else name,
        "random": is_control,
        "difference": group["difference"].mean(),
        "difference_low": low,
        "difference_high": high,
    }


def _forest_panel(
    metric: Metric, table: pd.DataFrame, names: Sequence[str], figure: go.Figure, position: Position
) -> None:
    table = table.assign(row=range(len(table)))
    for random, rows in table.dropna().groupby("random"):
        colour = CONTROL if random else METHOD
        marker = {"size": 9, "color": colour, "symbol": "square" if random else "circle"}
        points = go.Scatter(x=rows["difference"], y=rows["row"], mode="markers", marker=marker)
        figure.add_trace(points.update(error_x=difference_bars(rows, colour)), **position)
    difference_axis(metric, table, figure, "x", position)
    for row in table.loc[table["label"].isna(), "row"]:
        text = label("not measured", x=0.5, y=row, font={"size": SMALL, "color": NOTE})
        figure.add_annotation(**text, xref="x domain", bgcolor=BACKGROUND, **position)
    shared_rows(figure, names, position)
