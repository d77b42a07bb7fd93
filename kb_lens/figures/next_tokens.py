"""The likeliest next tokens of a model, with a slider for the factor of some neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_count, check_texts
from kb_lens.checks.ablation_study import next_token
from kb_lens.checks.activations import check_lengths, token_text
from kb_lens.checks.neuron_effects import check_effects
from kb_lens.figures.layout import ROW
from kb_lens.figures.style import COLOURS, GREY, finish, literal, shown_model, shown_token
from kb_lens.interventions.positions import Positions
from kb_lens.interventions.scaling import scale_neurons
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel, model_name
from kb_lens.neurons.sets import Neurons, neurons_of

_LAMS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


@as_the_checkpoint
def next_tokens(
    model: HookedModel,
    neurons: Neurons,
    prompt: str,
    *,
    lams: Sequence[float] = _LAMS,
    positions: Positions = "all",
    k: int = 12,
) -> go.Figure:
    """The likeliest next tokens at each factor, with a slider for the factor.

    The slider is plotly's own: it works in a notebook and in an HTML page, without Python. It
    starts at the first factor that is not 1, which a static file shows.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, at its site, or names, ``["L26.N1371"]``, at site ``post``.
        prompt: Taken as it is: write a chat out as its template writes it.
        lams: The factors.
        positions: As in `scale_neurons`.
        k: Number of tokens: those with the largest probability at any factor.

    Raises:
        ValueError: If the set is empty or belongs to another model, a factor is not finite or given
            twice, `k` is below 1, or the prompt is empty or longer than the model's context.
    """
    members = neurons_of(model, neurons)
    check_effects(lams, None, model.cfg.dtype)
    check_count("k", k)
    check_texts([prompt])
    ids = token_ids(model.tokenizer, prompt)
    check_lengths(model, [ids], at_least=1)
    base = _probabilities(model, ids)
    changed: list[Tensor] = []
    for lam in lams:
        with scale_neurons(model, members, lam=lam, positions=positions):
            changed.append(_probabilities(model, ids))
    largest = torch.stack([base, *changed]).amax(0)
    chosen = largest.topk(min(k, len(largest))).indices
    chosen = chosen[base[chosen].argsort(descending=True)]
    names = [shown_token(token_text(model, token)) for token in chosen.tolist()]
    shown = next((nth for nth, lam in enumerate(lams) if lam != 1), 0)
    figure = _bars(lams, [each[chosen] for each in changed], base[chosen], shown)
    rows = [*range(len(names))]
    axis: dict[str, Any] = {"tickvals": rows, "ticktext": names, "ticks": ""}
    figure.update_yaxes(**axis, range=[len(rows) - 0.4, -0.6])
    figure.update_xaxes(title_text="P(next token), %", rangemode="tozero")
    what = members.neurons[0].name if len(members) == 1 else f"{len(members)} neurons"
    where = f"{shown_model(model_name(model))}, {what}, site {members.site}"
    return finish(
        figure,
        f"Effect of {what} on the next token",
        f"{where}. A dot is a space. After: …{literal(prompt[-70:])}",
        height=300 + ROW * len(rows),
        top=30,
        margin={"l": 110, "b": 60},
        sliders=[_slider(lams, shown)],
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
    )


def _bars(lams: Sequence[float], changed: Sequence[Tensor], base: Tensor, shown: int) -> go.Figure:
    """Bars for each factor, one of them visible, and the base model as marks."""
    figure = go.Figure()
    rows = [*range(len(base))]
    for nth, (lam, probabilities) in enumerate(zip(lams, changed, strict=True)):
        figure.add_bar(
            x=(100 * probabilities).tolist(),
            y=rows,
            orientation="h",
            name=f"times {lam:g}",
            marker_color=COLOURS[1],
            visible=nth == shown,
        )
    figure.add_scatter(
        x=(100 * base).tolist(),
        y=rows,
        mode="markers",
        name="base model",
        marker={"color": GREY, "symbol": "line-ns-open", "size": 14, "line_width": 3},
    )
    return figure


def _slider(lams: Sequence[float], shown: int) -> dict[str, Any]:
    """A step per factor, which shows its bars and the marks."""
    steps = [
        {
            "label": f"{lam:g}",
            "method": "update",
            "args": [{"visible": [*(other == nth for other in range(len(lams))), True]}],
        }
        for nth, lam in enumerate(lams)
    ]
    return {"active": shown, "steps": steps, "currentvalue_prefix": "factor: ", "pad_t": 50}


def _probabilities(model: HookedModel, ids: Sequence[int]) -> Float[Tensor, " d_vocab"]:
    """Probabilities of the next token, for the tokens of the tokenizer."""
    return next_token(model, ids).exp()[: len(model.tokenizer)]
