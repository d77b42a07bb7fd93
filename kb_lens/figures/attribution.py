"""Figures of the second step: the scores of neurons and layers."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.attribution.attributions import Attributions
from kb_lens.figures.marks import layer_axis
from kb_lens.figures.style import DIVERGING, INK, colour_bar, finish, shown_model, true_minus
from kb_lens.questions import Question

View = Literal["neurons", "questions"]


class Objective(NamedTuple):
    """The output that was differentiated, in words."""

    name: str
    """Its name."""
    unit: str
    """The unit of its changes."""
    scale: float
    """The number of units in 1."""


OBJECTIVES = {
    "probability": Objective("P(right answer)", "percentage points", 100.0),
    "log_probability": Objective("log P(right answer)", "nats", 1.0),
    "logit_difference": Objective("logit of the right answer minus the wrong one's", "logits", 1.0),
}
"""The objective in the settings -> its words."""
# Each about twice the one before, which is evenly spaced after a square root. The largest positive
# score is 100; a negative one may be far larger.
_PERCENTS = (1, 5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200)
"""Possible ticks of a colour bar in percent."""
_MOST_ANSWERS = 2
"""Most answers of a group that are named; completions may have a target each."""
_TICK_DISTANCE = 0.12
"""Least distance of ticks, as a share of half the colour bar; a label is about 0.1 high."""
_RANKS = [2**power for power in range(11)]
"""Ticks of an axis of ranks, equally spaced on a log axis."""


def attribution_heatmap(
    attributions: Attributions, *, view: View = "neurons", n_ranks: int = 64
) -> go.Figure:
    """A heatmap of the scores: the neurons of each layer, or each layer's effect by question.

    Args:
        attributions: Scores of every neuron for some questions.
        view: ``neurons``: the highest and the lowest neurons of each layer by their mean score over
            the questions; the colour is the score in percent of the largest one, on a square-root
            scale, so that small scores are visible. ``questions``: the colour is
            `Attributions.output_change`, the sum of the layer's scores, for each question.
        n_ranks: Neurons at either end of a layer's ranking (``neurons`` only).

    Raises:
        ValueError: If the view is unknown, there are no questions, or the scores are not finite or
            all 0.
    """
    if view not in get_args(View):
        raise ValueError(f"view is {view!r}: allowed are {', '.join(get_args(View))}.")
    if not isinstance(n_ranks, int) or n_ranks < 1:
        raise ValueError(f"n_ranks is {n_ranks!r}: allowed are integers from 1.")
    check_scores(attributions)
    return _by_rank(attributions, n_ranks) if view == "neurons" else _by_question(attributions)


def check_scores(attributions: Attributions) -> None:
    """Raise `ValueError` if there are no questions, or the scores are not finite or all 0."""
    if not len(attributions):
        raise ValueError("the attributions hold no questions: there is nothing to draw.")
    for name in ("scores", "output_change", "completeness_gap"):
        if not bool(getattr(attributions, name).isfinite().all()):
            raise ValueError(f"{name} is not finite: the model overflowed. Load it in float32.")
    if not bool(attributions.scores.any()):
        raise ValueError("all scores are 0: there is nothing to draw.")


def rests_on(attributions: Attributions) -> str:
    """The beginning of every note."""
    settings = attributions.settings
    what = attributions.origin.partition(" on ")[0]
    return f"{shown_model(settings.model)}, site {settings.site}, {what}"


def answer_of(attributions: Attributions) -> str:
    """The answer of the scores, in words: right answers, or the targets of completions."""
    answer = "the right answer" if attributions.of_questions else "the target"
    return f"{answer} less another one" if attributions.minus else answer


def objective_of(attributions: Attributions) -> Objective:
    """The output that was differentiated, in words for questions or completions."""
    objective = OBJECTIVES[attributions.settings.objective]
    name = objective.name
    if not attributions.of_questions:
        name = name.replace("right answer", "target").replace("wrong one", "foil")
    return objective._replace(name=f"difference of {name}" if attributions.minus else name)


# -- neurons by rank --------------------------------------------------------------------------


def _by_rank(attributions: Attributions, n_ranks: int) -> go.Figure:
    mean = attributions.scores.double().mean(0).numpy()
    n_layers, d_mlp = mean.shape
    layer, neuron = np.unravel_index(mean.argmax(), mean.shape)
    largest = mean[layer, neuron]
    if largest <= 0:
        largest = np.abs(mean).max()  # no score is positive: in percent of the most negative one
    ranking = np.argsort(-mean, axis=1, kind="stable")
    # at most half of the layer at either end, so that no neuron is shown twice
    highest = ranking[:, : min(n_ranks, math.ceil(d_mlp / 2))]
    lowest = ranking[:, ::-1][:, : min(n_ranks, d_mlp // 2)]
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.08)
    figure.add_trace(_rank_heatmap(mean, highest, largest), 1, 1)
    figure.add_trace(_rank_heatmap(mean, lowest, largest), 1, 2)
    from_top = _rank_axis(highest.shape[1])
    from_bottom = _rank_axis(lowest.shape[1])
    from_bottom["range"].reverse()
    figure.update_xaxes(title_text="Rank from the top", col=1, **from_top)
    figure.update_xaxes(title_text="Rank from the bottom", col=2, **from_bottom)
    figure.update_yaxes(**layer_axis(n_layers), showgrid=False)
    figure.update_yaxes(title_text="Layer", col=1)
    figure.update_layout(coloraxis=_percent_colours(100 * np.abs(mean).max() / largest))
    objective = objective_of(attributions)
    return finish(
        figure,
        f"Which neurons add to {answer_of(attributions)}, and which take away from it",
        f"{rests_on(attributions)}. Mean score of each layer's highest and lowest neurons in "
        f"percent of the largest: {objective.scale * largest:.3g} {objective.unit} of "
        f"{objective.name}, layer {layer}, neuron {neuron}. Root colour scale.",
        height=460,
    )


def _rank_heatmap(mean: np.ndarray, neurons: np.ndarray, largest: float) -> go.Heatmap:
    """Mean scores [layer, rank] of each layer's `neurons`, in percent of the largest."""
    n_layers, n_ranks = neurons.shape
    scores = np.take_along_axis(mean, neurons, axis=1)
    percent = 100 * scores / largest
    edges = np.arange(n_ranks + 1) + 0.5  # a log axis needs the cells' edges
    heatmap = go.Heatmap(z=_signed_root(percent), x=edges, y=np.arange(n_layers))
    heatmap.update(coloraxis="coloraxis")
    heatmap.update(customdata=np.stack([neurons, scores, percent], axis=-1))
    return heatmap.update(
        hovertemplate="layer %{y}, neuron %{customdata[0]}<br>mean score %{customdata[1]:.3g}"
        "<br>%{customdata[2]:.1f} % of the largest<extra></extra>"
    )


def _signed_root(values: Any) -> np.ndarray:
    return np.sign(values) * np.sqrt(np.abs(values))


def _rank_axis(n_ranks: int) -> dict[str, Any]:
    ticks = [rank for rank in _RANKS if rank <= n_ranks]
    end = max(n_ranks, 1) + 0.5  # a layer with one neuron has no lowest neurons
    span = [math.log10(0.5), math.log10(end)]
    labels = list(map(str, ticks))
    labelled = {"tickvals": ticks, "ticktext": labels}
    return {"type": "log", "range": span, "showgrid": False, **labelled}


def _percent_colours(widest: float) -> dict[str, Any]:
    """A colour axis for signed square roots, labelled in percent."""
    ticks = _percent_ticks(widest)
    values = [-tick for tick in reversed(ticks)] + [0, *ticks]
    heights = _signed_root(values).tolist()
    words = [true_minus(f"{value:+d}") if value else "0" for value in values]
    bar = colour_bar("% of the<br>largest", tickvals=heights, ticktext=words)
    end = np.sqrt(widest)
    return {"colorscale": DIVERGING, "cmin": -end, "cmax": end, "colorbar": bar}


def _percent_ticks(widest: float) -> list[int]:
    """Percents up to `widest` whose labels do not touch on the square-root scale."""
    distance = _TICK_DISTANCE * np.sqrt(widest)
    above = np.inf
    ticks: list[int] = []
    for percent in reversed(_PERCENTS):
        root = np.sqrt(percent)
        inside = percent <= 1.001 * widest  # the largest is 100 up to rounding
        if inside and distance <= root <= above - distance:
            above = root
            ticks.insert(0, percent)
    return ticks


# -- layers by question -----------------------------------------------------------------------


def _by_question(attributions: Attributions) -> go.Figure:
    objective = objective_of(attributions)
    groups = _question_groups(attributions)
    order = [row for rows in groups.values() for row in rows]
    change = objective.scale * attributions.output_change[order].double().numpy()
    n_layers = change.shape[1]
    widest = np.abs(change).max() or 1.0  # a scale needs two different ends
    heatmap = go.Heatmap(z=change, x=np.arange(n_layers), y=np.arange(len(order)))
    heatmap.update(colorscale=DIVERGING, zmin=-widest, zmax=widest)
    heatmap.update(colorbar=colour_bar(objective.unit.replace(" ", "<br>")))
    words = [_question_words(attributions, row) for row in order]
    hover = f"%{{text}}<br>layer %{{x}}: %{{z:.2f}} {objective.unit}<extra></extra>"
    heatmap.update(text=[[text] * n_layers for text in words], hovertemplate=hover)
    figure = go.Figure(heatmap)
    _group_axis(figure, groups)
    figure.update_xaxes(title_text="Layer", showgrid=False, **layer_axis(n_layers))
    return finish(
        figure,
        f"What each layer contributes to {answer_of(attributions)}, question by question",
        f"{rests_on(attributions)}. Colour: change of {objective.name} when the layer's MLP "
        f"neurons at the last position go from 0 to their values, in {objective.unit}. In "
        f"brackets: {answer_of(attributions)}.",
        height=460,
    )


def _question_groups(attributions: Attributions) -> dict[tuple[str, str], list[int]]:
    """Dimension and kind of its questions -> their rows, in the order of first appearance."""
    cell = ["dimension", "kind"]
    columns = [*cell, "answer"]
    rows = [[getattr(question, name) for name in columns] for question in attributions.questions]
    table = pd.DataFrame(rows, columns=columns)
    for name in cell:
        # a category keeps the order of appearance; text would be sorted
        table[name] = pd.Categorical(table[name], table[name].unique())
    groups: dict[tuple[str, str], list[int]] = {}
    for _, members in table.groupby(cell, observed=True):
        dimension, kind = members[cell].iloc[0]
        answers = members["answer"].unique()
        words = kind.replace("_", " ")
        if len(answers) <= _MOST_ANSWERS:
            words = f"{words} ({'/'.join(answers)})"
        groups[dimension, words] = members.index.tolist()
    return groups


def _question_words(attributions: Attributions, row: int) -> str:
    question = attributions.questions[row]
    objective = objective_of(attributions)
    value = float(attributions.answer_prob[row])
    name = "right answer" if isinstance(question, Question) else "target"
    answer = f"{name}: {question.answer}; {objective.name}: {value:.3g}"
    return f"{question.text}<br>{answer}"


def _group_axis(figure: go.Figure, groups: dict[tuple[str, str], list[int]]) -> None:
    """A name in the middle of each group; lines between groups, bold lines between dimensions."""
    sizes = np.array([len(rows) for rows in groups.values()])
    ends = sizes.cumsum()
    names = [f"{dimension}: {words}" for dimension, words in groups]
    span = [ends[-1] - 0.5, -0.5]
    middles = ends - (sizes + 1) / 2
    figure.update_yaxes(tickvals=middles, ticktext=names, range=span, showgrid=False, ticks="")
    dimensions = [dimension for dimension, _ in groups]
    for end, above, below in zip(ends, dimensions, dimensions[1:], strict=False):  # no last line
        width = 0.5 if above == below else 1.5
        figure.add_hline(y=end - 0.5, line={"color": INK, "width": width})
