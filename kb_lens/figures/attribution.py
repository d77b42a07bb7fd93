"""Figures of the second step: where the scores are, and how exact they are."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.figures.marks import layer_axis
from kb_lens.figures.style import COLOURS, DIVERGING, INK, MINUS, colour_bar, finish
from kb_lens.questions import Question

View = Literal["neurons", "questions"]
LEAST_GAP = 1e-10
"""A completeness gap of nothing has no place on a log axis; it is drawn here."""
OBJECTIVES = {
    "probability": ("P(right answer)", "percentage points", 100.0),
    "log_probability": ("log P(right answer)", "nats", 1.0),
    "logit_difference": ("logit of the right answer minus the wrong one's", "logits", 1.0),
}
"""What was differentiated -> its name, its unit, and how many of these are 1."""
_PERCENTS = (1, 5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200)


def attribution_heatmap(
    attributions: Attributions, *, view: View = "neurons", n_ranks: int = 64
) -> go.Figure:
    """Where the scores are: the neurons of each layer, or each layer's effect by question.

    Args:
        attributions: Scores of every neuron for some questions.
        view: ``neurons``: each layer's neurons from both ends, ranked by their mean score over the
            questions; colour is that score in percent of the largest one (its square root, so that
            small ones show too). ``questions``: colour is `Attributions.output_change`, what the
            layer's scores sum to, for each question.
        n_ranks: Neurons at either end of a layer's ranking (``neurons`` only).

    Raises:
        ValueError: For an unknown view, no questions, or scores that are not finite or all 0.
    """
    if view not in get_args(View):
        raise ValueError(f"view is {view!r}: allowed are {', '.join(get_args(View))}.")
    if not isinstance(n_ranks, int) or n_ranks < 1:
        raise ValueError(f"n_ranks is {n_ranks!r}: allowed are integers from 1.")
    check_scores(attributions)
    return _by_rank(attributions, n_ranks) if view == "neurons" else _by_question(attributions)


def completeness(attributions: Attributions) -> go.Figure:
    """How exact the integrals are: each layer's completeness gap, and the nodes spent on it.

    The gap is relative to the question's largest |F(h) - F(0)| over the layers; a gap below
    `LEAST_GAP` is drawn there.

    Raises:
        ValueError: For no questions, or scores that are not finite or all 0.
    """
    check_scores(attributions)
    change = attributions.output_change.abs().amax(1, keepdim=True)
    gap = (attributions.completeness_gap.abs() / change.clamp_min(1e-30)).double().numpy()
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.07)
    for name, values, colour, symbol in (
        ("worst question", gap.max(0), COLOURS[1], "triangle-up"),
        ("median question", np.median(gap, 0), COLOURS[0], "circle"),
    ):
        _add_gaps(figure, name, values, colour, symbol)
    _add_nodes(figure, attributions.nodes.numpy())
    figure.update_yaxes(title_text="Completeness gap", row=1, col=1, **_decades(gap))
    figure.update_yaxes(title_text="Nodes a question", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(**layer_axis(gap.shape[1]))
    figure.update_xaxes(title_text="Layer", row=2, col=1)
    settings = attributions.settings
    rule = f"tolerance {settings.tol:g}" if settings.tol else f"{settings.n_steps} nodes"
    return finish(
        figure,
        "How far each layer's scores are from the sum they should have",
        f"{rests_on(attributions)}; rule: {settings.rule}, {rule}. Gap: |sum of the layer's "
        f"scores {MINUS} (F(h) {MINUS} F(0))| over the question's largest |F(h) {MINUS} F(0)|. "
        "Nodes: mean, and from fewest to most.",
        height=480,
        top=30,
    )


def check_scores(attributions: Attributions) -> None:
    """Raise `ValueError` for no questions, or scores that are not finite or all 0."""
    if not len(attributions):
        raise ValueError("the attributions hold no questions: there is nothing to draw.")
    for name in ("scores", "output_change", "completeness_gap"):
        if not bool(getattr(attributions, name).isfinite().all()):
            raise ValueError(f"{name} is not finite: the model overflowed. Load it in float32.")
    if not bool(attributions.scores.any()):
        raise ValueError("all scores are 0: there is nothing to draw.")


def rests_on(attributions: Attributions) -> str:
    """What every note begins with."""
    settings = attributions.settings
    return f"{settings.model}, site {settings.site}, {len(attributions)} questions"


# -- neurons by rank --------------------------------------------------------------------------


def _by_rank(attributions: Attributions, n_ranks: int) -> go.Figure:
    mean = attributions.scores.double().mean(0).numpy()
    best = np.unravel_index(mean.argmax(), mean.shape)
    largest = mean[best] if mean[best] > 0 else np.abs(mean).max()
    order = np.argsort(-mean, axis=1, kind="stable")
    n_high, n_low = min(n_ranks, -(-mean.shape[1] // 2)), min(n_ranks, mean.shape[1] // 2)
    ends = [order[:, :n_high], order[:, ::-1][:, :n_low]]
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.08)
    for column, chosen in enumerate(ends, 1):
        figure.add_trace(_rank_heatmap(mean, chosen, largest), 1, column)
    _rank_axes(figure, n_high, n_low, mean.shape[0])
    figure.update_layout(coloraxis=_percent_colours(100 * np.abs(mean).max() / largest))
    objective, unit, scale = OBJECTIVES[attributions.settings.objective]
    return finish(
        figure,
        "Which neurons add to the right answer, and which take away from it",
        f"{rests_on(attributions)}. Mean score of each layer's highest and lowest neurons in "
        f"percent of the largest: {scale * largest:.3g} {unit} of {objective}, layer {best[0]}, "
        f"neuron {best[1]}. Root colour scale.",
        height=460,
    )


def _rank_heatmap(mean: np.ndarray, chosen: np.ndarray, largest: float) -> go.Heatmap:
    scores = np.take_along_axis(mean, chosen, axis=1)
    percent = 100 * scores / largest
    return go.Heatmap(
        z=np.sign(percent) * np.sqrt(np.abs(percent)),
        x=np.arange(chosen.shape[1] + 1) + 0.5,  # cell edges: a log axis needs them
        y=np.arange(chosen.shape[0]),
        customdata=np.stack([chosen, scores, percent], axis=-1),
        hovertemplate="layer %{y}, neuron %{customdata[0]}<br>mean score %{customdata[1]:.3g}"
        "<br>%{customdata[2]:.1f} % of the largest<extra></extra>",
        coloraxis="coloraxis",
    )


def _rank_axes(figure: go.Figure, n_high: int, n_low: int, n_layers: int) -> None:
    for column, n_ranks, words in (
        (1, n_high, "Rank from the top"),
        (2, n_low, "Rank from the bottom"),
    ):
        ends = np.log10([0.5, max(n_ranks, 1) + 0.5])
        ticks = [rank for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if rank <= n_ranks]
        figure.update_xaxes(
            title_text=words,
            type="log",
            range=ends if column == 1 else ends[::-1],
            tickvals=ticks,
            ticktext=[str(rank) for rank in ticks],
            showgrid=False,
            col=column,
        )
    figure.update_yaxes(**layer_axis(n_layers), showgrid=False)
    figure.update_yaxes(title_text="Layer", col=1)


def _percent_colours(widest: float) -> dict[str, Any]:
    """A colour axis for signed square roots, labelled with the percents themselves."""
    ticks = _percent_ticks(widest)
    values = [-tick for tick in reversed(ticks)] + [0, *ticks]
    return {
        "colorscale": DIVERGING,
        "cmin": -np.sqrt(widest),
        "cmax": np.sqrt(widest),
        "colorbar": colour_bar(
            "% of the<br>largest",
            tickvals=[np.sign(value) * np.sqrt(abs(value)) for value in values],
            ticktext=[f"{value:+d}".replace("-", MINUS) if value else "0" for value in values],
        ),
    }


def _percent_ticks(widest: float) -> list[int]:
    """Percents up to `widest` whose square roots are so far apart that the labels have room."""
    apart, above, chosen = 0.12 * np.sqrt(widest), np.inf, []
    for percent in reversed(_PERCENTS):
        if percent <= 1.001 * widest and apart <= np.sqrt(percent) <= above - apart:
            above = np.sqrt(percent)
            chosen.insert(0, percent)
    return chosen


# -- layers by question -----------------------------------------------------------------------


def _by_question(attributions: Attributions) -> go.Figure:
    objective, unit, scale = OBJECTIVES[attributions.settings.objective]
    groups = _grouped(attributions.questions)
    rows = [row for _, members in groups for row in members]
    change = scale * attributions.output_change[rows].double().numpy()
    widest = np.abs(change).max() or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=change,
            x=np.arange(change.shape[1]),
            y=np.arange(len(rows)),
            text=[[_hover(attributions, row)] * change.shape[1] for row in rows],
            hovertemplate="%{text}<br>layer %{x}: %{z:.2f} " + unit + "<extra></extra>",
            colorscale=DIVERGING,
            zmin=-widest,
            zmax=widest,
            colorbar=colour_bar(unit.replace(" ", "<br>")),
        )
    )
    _group_axis(figure, groups)
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(change.shape[1]))
    return finish(
        figure,
        "What each layer contributes to the right answer, question by question",
        f"{rests_on(attributions)}. Colour: change of {objective} when the layer's MLP neurons at "
        f"the last position go from 0 to what they are, in {unit}. In brackets: the right answer.",
        height=460,
    )


def _grouped(questions: tuple[Question, ...]) -> list[tuple[str, list[int]]]:
    """Rows by dimension and kind, both in the order in which they first appear."""
    dimensions = list(dict.fromkeys(question.dimension for question in questions))
    kinds = list(dict.fromkeys(question.kind for question in questions))

    def place(row: int) -> tuple[int, int]:
        return dimensions.index(questions[row].dimension), kinds.index(questions[row].kind)

    found = groupby(sorted(range(len(questions)), key=place), key=place)
    groups = []
    for (dimension, kind), members in ((cell, list(members)) for cell, members in found):
        answers = "/".join(dict.fromkeys(questions[row].answer for row in members))
        name = f"{dimensions[dimension]}: {kinds[kind].replace('_', ' ')} ({answers})"
        groups.append((name, members))
    return groups


def _hover(attributions: Attributions, row: int) -> str:
    question = attributions.questions[row]
    objective, _, _ = OBJECTIVES[attributions.settings.objective]
    return (
        f"{question.text}<br>right answer: {question.answer}; {objective}: "
        f"{float(attributions.answer_prob[row]):.3g}"
    )


def _group_axis(figure: go.Figure, groups: list[tuple[str, list[int]]]) -> None:
    ends = np.cumsum([len(members) for _, members in groups])
    starts = ends - [len(members) for _, members in groups]
    names = [name for name, _ in groups]
    figure.update_yaxes(
        tickvals=(starts + ends - 1) / 2,
        ticktext=names,
        range=[ends[-1] - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    for end, name, following in zip(ends, names, names[1:], strict=False):
        new_dimension = name.split(": ")[0] != following.split(": ")[0]
        figure.add_hline(y=end - 0.5, line={"color": INK, "width": 1.5 if new_dimension else 0.5})


# -- completeness -----------------------------------------------------------------------------


def _add_gaps(figure: go.Figure, name: str, values: np.ndarray, colour: str, symbol: str) -> None:
    figure.add_scatter(
        x=np.arange(len(values)),
        y=np.maximum(values, LEAST_GAP),
        name=name,
        mode="lines+markers",
        marker={"color": colour, "symbol": symbol, "size": 7},
        hovertemplate=f"layer %{{x}}, {name}: %{{y:.1e}}<extra></extra>",
        row=1,
        col=1,
    )


def _decades(gap: np.ndarray) -> dict[str, Any]:
    """A log axis over whole powers of ten, at least one."""
    low = np.floor(np.log10(max(np.median(gap, 0).min(), LEAST_GAP)) - 0.05)
    high = np.ceil(np.log10(max(gap.max(), LEAST_GAP)) + 0.05)
    return {"type": "log", "range": [low, high], "dtick": 1, "exponentformat": "power"}


def _add_nodes(figure: go.Figure, nodes: np.ndarray) -> None:
    mean, least, most = nodes.mean(0), nodes.min(0), nodes.max(0)
    figure.add_bar(
        x=np.arange(nodes.shape[1]),
        y=mean,
        showlegend=False,
        marker_color=COLOURS[0],
        error_y={"array": most - mean, "arrayminus": mean - least, "color": INK, "width": 0},
        hovertemplate="layer %{x}: %{y:.0f} nodes on average<extra></extra>",
        row=2,
        col=1,
    )
