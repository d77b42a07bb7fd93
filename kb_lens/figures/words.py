"""Figure of the words whose probabilities an intervention changes in CrowS-Pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.evaluation.results import EvaluationResult
from kb_lens.evaluation.word_changes import WHOLE, word_changes
from kb_lens.figures.layout import AXIS, ROW, panel_title_height
from kb_lens.figures.marks import ZERO_LINE, error_bars, interval_hover, panel_title, rows_axis
from kb_lens.figures.style import COLOURS, GLUE, finish, shown_model

_TITLES = ("log P(more) \N{MINUS SIGN} log P(less)", "Share, these words alone")
_AXES = ("change in nats a pair", "change in points")


def token_changes(
    base: EvaluationResult, enhanced: EvaluationResult, *, n_bootstrap: int = 10_000, seed: int = 0
) -> go.Figure:
    """The changes by an intervention in the sentences of CrowS-Pairs, by class of words.

    Left: the change of log P(more stereotyping sentence) - log P(less), mean over all pairs; the
    classes add up to the whole sentence. Right: the change of the percentage of pairs whose more
    stereotyping sentence is likelier, if only this class's words changed.

    Args:
        base: The base model's result, of the original protocol.
        enhanced: The result with the intervention, on the same pairs.
        n_bootstrap: Resamples for the 95 % intervals.
        seed: Seed of the resampling.

    Raises:
        ValueError: As `kb_lens.evaluation.word_changes.word_changes`.
    """
    table = word_changes(base, enhanced, n_bootstrap=n_bootstrap, seed=seed)
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    panels = (("nats", "low", "high"), ("share", "share_low", "share_high"))
    for col, (columns, title, axis) in enumerate(zip(panels, _TITLES, _AXES, strict=True), start=1):
        figure.add_trace(_points(*(table[column].to_numpy() for column in columns)), 1, col)
        figure.update_xaxes(title_text=axis, nticks=6, **ZERO_LINE, row=1, col=col)
        panel_title(figure, f"<b>{title}</b>", 1, col)
    names = [_row_name(row) for row in table.to_dict("records")]
    figure.update_yaxes(**rows_axis(names))
    figure.update_yaxes(showticklabels=False, row=1, col=2)
    condition = enhanced.condition.name or "the intervention"
    note = (
        f"{shown_model(base.model)}, CrowS-Pairs, {condition}, n = {len(base.items)} pairs; in "
        f"brackets, pairs with such words. Left:{GLUE}the{GLUE}classes add up to the whole "
        "sentence. Lines: paired 95 % bootstrap intervals over writers."
    )
    height = ROW * len(names) + AXIS + 120
    top = panel_title_height(*_TITLES)
    return finish(figure, "Which words move", note, height=height, top=top, showlegend=False)


def _row_name(row: Mapping[Any, Any]) -> str:
    return f"<b>{WHOLE}</b>" if row["words"] == WHOLE else f"{row['words']} ({row['pairs']})"


def _points(change: np.ndarray, low: np.ndarray, high: np.ndarray) -> go.Scatter:
    """A point per class with its interval."""
    points = go.Scatter(x=change, y=list(range(len(change))), mode="markers")
    points.update(marker_size=9, marker_color=COLOURS[0])
    points.update(error_x=error_bars(change, low, high, COLOURS[0]))
    points.update(customdata=list(zip(low, high, strict=True)))
    return points.update(hovertemplate=f"{interval_hover('x')}<extra></extra>")
