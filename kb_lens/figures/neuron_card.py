"""One neuron on one page: its tokens, its dose-response, and the texts that activate it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kb_lens.checks.neuron_cards import CARD_LAMS, NeuronCards, read_cards
from kb_lens.figures.activations import (
    Tokens,
    block_height,
    count_lines,
    draw_tokens,
    letters_of,
    token_axes,
)
from kb_lens.figures.column import WHOLE_PAGE
from kb_lens.figures.layout import WIDTH
from kb_lens.figures.marks import THIN, band, panel_title
from kb_lens.figures.style import COLOURS, METHOD, faint, finish, shown_model, shown_token
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.names import Neuron, NeuronName
from kb_lens.neurons.sets import NeuronSet, neurons_of
from kb_lens.questions import Question

_TOP = 215
"""Pixels of the upper panels."""
_LEFT, _RIGHT, _BETWEEN = 80, 14, 84
"""Pixels: the margins, and the gap between the upper panels and the texts."""


def neuron_card(
    model: HookedModel,
    neuron: NeuronName | NeuronSet,
    *,
    texts: Sequence[str] | None = None,
    questions: Sequence[Question] | None = None,
    lams: Sequence[float] = CARD_LAMS,
    k: int = 8,
    n_texts: int = 5,
    progress: bool = True,
) -> go.Figure:
    """Promoted and suppressed tokens, the dose-response, and the texts of the largest activations.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neuron: ``"L26.N1371"``, ``(26, 1371)``, or a set of one, at its site.
        texts: Texts in which to look for its largest activations, by size; default the bank's
            questions and the passages of plain text.
        questions: Questions of the dose-response; default nine of the bank.
        lams: The factors of the dose-response, at the last position.
        k: Tokens per side.
        n_texts: Number of texts to show.
        progress: Whether to show progress bars.

    Raises:
        ValueError: As `kb_lens.checks.neuron_meaning.promoted_tokens` and `neuron_effects`, or if
            there is not exactly one neuron.
    """
    members = neurons_of(model, neuron if isinstance(neuron, NeuronSet) else [neuron])
    if len(members) != 1:
        raise ValueError(f"a card shows one neuron, but there are {len(members)}: give one.")
    cards = read_cards(
        model,
        members,
        texts=texts,
        questions=questions,
        lams=lams,
        k=k,
        n_texts=n_texts,
        progress=progress,
    )
    return drawn_card(cards, *members)


def drawn_card(cards: NeuronCards, neuron: Neuron) -> go.Figure:
    """The card of one of the neurons of `read_cards`."""
    tokens, excerpts, doses = (
        table.loc[table["layer"].eq(neuron.layer) & table["index"].eq(neuron.index)]
        for table in (cards.tokens, cards.excerpts, cards.effects.dose_response())
    )
    blocks = [_block(rows) for _, rows in excerpts.groupby("rank")]
    largest = float(excerpts.loc[excerpts["position"].gt(0), "activation"].abs().max())

    letters = letters_of(WIDTH - _LEFT - _RIGHT)
    n_lines = count_lines(blocks, letters)
    low = block_height(n_lines)
    figure = make_subplots(
        2,
        3,
        specs=[[{}, {}, {}], [{"colspan": 3}, None, None]],
        row_heights=[_TOP, low],
        vertical_spacing=_BETWEEN / (_TOP + low + _BETWEEN),
        horizontal_spacing=0.12,
    )
    _tokens(figure, tokens, max(1, int(tokens["rank"].max())))
    _dose(figure, doses)
    draw_tokens(figure, blocks, [largest] * len(blocks), letters, row=2, col=1)
    token_axes(figure, n_lines, letters, row=2, col=1)
    by_size = ", by size" if cards.by_size else ""  # older files have the most positive ones
    shown = f"Texts with the largest activations{by_size}: up to the peak and a few tokens more"
    panel_title(figure, shown, 2, 1)
    settings = cards.effects.settings
    note = (
        f"{shown_model(settings.model)}, site {settings.site}. Tokens: its output through the "
        "unembedding; a dot is a space. Answer: "
        f"{len(cards.effects.questions)} questions, last position, 95 % bootstrap band. "
        f"Texts: {cards.texts}; orange is above 0, blue below, the darkest {largest:.3g} in size."
    )
    return finish(
        figure,
        f"Neuron {neuron.name}",
        note,
        height=_TOP + low + _BETWEEN + 130,
        top=26,
        margin={"l": _LEFT, "r": _RIGHT, "b": 14},
        showlegend=False,
        meta={"column": WHOLE_PAGE},  # lines of text are broken for this width
    )


def _tokens(figure: go.Figure, written: pd.DataFrame, k: int) -> None:
    """The likelier and the less likely tokens."""
    for column, (side, colour) in enumerate(
        (("promotes", COLOURS[1]), ("suppresses", COLOURS[0])), 1
    ):
        rows = written[written["side"] == side]
        figure.add_bar(
            x=rows["logit"],
            y=[*range(len(rows))],
            orientation="h",
            marker_color=colour,
            row=1,
            col=column,
        )
        named: dict[str, Any] = {
            "tickvals": [*range(len(rows))],
            "ticktext": [shown_token(str(token)) for token in rows["token"]],
        }
        figure.update_yaxes(**named, ticks="", range=[k - 0.4, -0.6], row=1, col=column)
        panel_title(figure, f"Tokens that it {side}", 1, column)
    figure.update_xaxes(title_text="logit a unit", row=1)


def _dose(figure: go.Figure, table: pd.DataFrame) -> None:
    """The mean change of P(right answer) by factor."""
    change, low, high = 100 * table[["prob_change", "low", "high"]].to_numpy(float).T
    lam = table["lam"].to_numpy(float)
    place: dict[str, Any] = {"row": 1, "col": 3}
    figure.add_trace(band(lam, low, high, faint(METHOD)), **place)
    line = {"color": METHOD, "width": 2}
    figure.add_scatter(x=lam, y=change, mode="lines+markers", line=line, **place)
    figure.add_hline(y=0, line=THIN, **place)
    figure.update_xaxes(title_text="factor", **place)
    panel_title(figure, "Change of P(right), points", 1, 3)


def _block(rows: pd.DataFrame) -> Tokens:
    """A text around its peak."""
    # the first token's activation differs in size and would be the darkest
    behind = rows["position"].to_numpy() > 0
    values = np.where(behind, rows["activation"].to_numpy(float), 0.0)
    return Tokens(f"{rows['peak'].iloc[0]:+.3g}", [*rows["token"]], values.tolist())
