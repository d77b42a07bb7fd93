"""The meaning of a neuron: the tokens that it promotes, and the texts that activate it.

The output of a neuron: the direction that it writes, read through the unembedding, gives the tokens
that it makes likelier (direct logit attribution, which leaves out the effect of later layers). Its
input: the tokens of real text at which its activation is largest, or most negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kb_lens.arguments import check_count, check_texts
from kb_lens.benchmarks import plain_text
from kb_lens.checks.activations import batched, check_lengths, read, token_text
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel, block_of, model_name, site_hooks
from kb_lens.models.offloaded import at_hand, output_weights
from kb_lens.neurons.sets import Neurons, NeuronSet, neurons_of
from kb_lens.progress import progress_bar
from kb_lens.questions import load_questions


class _Text(NamedTuple):
    """A text that activations are read on."""

    source: str
    """Its source."""
    text: str
    """The text."""
    ids: list[int]
    """Its tokens."""


class _Peaks(NamedTuple):
    """Each text's largest activation, and its largest negated activation."""

    value: Float[Tensor, "2 text neuron"]
    """Their size."""
    position: Int[Tensor, "2 text neuron"]
    """Their token's position."""
    size: Float[Tensor, " neuron"]
    """Absolute activations over all texts: their sum or their mean."""


def output_directions(model: HookedModel, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The vector that each post-activation neuron of a layer writes, per unit of activation.

    These are the rows of W_out. Where a family normalises the output of the down projection before
    the residual stream (Gemma 2 and 3, OLMo 2), they are the directions before that norm.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        layer: The block, from 0.

    Raises:
        ValueError: If the layer does not exist, the model has no MLP neurons, or its weights are
            packed (quantized).
    """
    n_layers = len(site_hooks(model, "post"))
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer is {layer}: {model_name(model)} has layers 0 to {n_layers - 1}.")
    try:
        return output_weights(block_of(model, layer).mlp, model.cfg.dtype)
    except (AttributeError, RuntimeError) as error:
        raise ValueError(
            f"cannot read the down projection of layer {layer} of {model_name(model)}: "
            f"{str(error).rstrip('.')}. Load the checkpoint that is not quantized."
        ) from error


@as_the_checkpoint
@torch.no_grad()
def promoted_tokens(model: HookedModel, neurons: Neurons, k: int = 10) -> pd.DataFrame:
    """The tokens that each neuron makes likelier, and those that it makes less likely.

    Direct logit attribution: the neuron's output direction, times the weights of the norm between
    MLP and residual stream if there is one, times the final norm's weights (centred if it is a
    LayerNorm), times the unembedding. A norm's divisor depends on the text and is taken as 1: in a
    residual stream of size 4 (root mean square) an activation of 1 adds a quarter of `logit`. That
    changes no ranks. A final soft cap is left out.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set (one of site ``pre`` is read after the activation function) or names.
        k: Tokens per neuron and side.

    Returns:
        layer, index, side (what an activation above 0 does: ``promotes`` or ``suppresses``; one
        below 0 does the opposite), rank (from 1), token (unprintable characters escaped), token_id
        and logit (per unit of activation).

    Raises:
        ValueError: If the set is empty or belongs to another model, or `k` is below 1.
    """
    neurons = _checked(model, neurons, k)
    with at_hand(cast(Any, model).unembed):
        # [d_model, d_vocab]; ids beyond the tokenizer's belong to no token
        unembedding: Tensor = cast(Any, model).W_U[:, : len(model.tokenizer)].float()
    rows: list[tuple[Any, ...]] = []
    for layer, indices in neurons.by_layer().items():
        directions = _at_unembedding(model, layer, output_directions(model, layer)[indices])
        for index, logits in zip(
            indices, directions.to(unembedding.device) @ unembedding, strict=True
        ):
            for side, sign in (("promotes", 1), ("suppresses", -1)):
                ids = (sign * logits).topk(min(k, len(logits))).indices.tolist()
                for rank, token_id in enumerate(ids, 1):
                    token = token_text(model, token_id)
                    rows.append(
                        (layer, index, side, rank, token, token_id, float(logits[token_id]))
                    )
    columns = ["layer", "index", "side", "rank", "token", "token_id", "logit"]
    return pd.DataFrame(rows, columns=columns)


def _at_unembedding(
    model: HookedModel, layer: int, directions: Float[Tensor, "neuron d_model"]
) -> Float[Tensor, "neuron d_model"]:
    """The directions as the unembedding reads them, if norms divide by 1."""
    after = getattr(block_of(model, layer), "ln2_post", None)
    if after is not None:
        directions = directions * _weights(model, after).to(directions.device)
    directions = directions.float()
    if str(model.cfg.normalization_type).startswith("LN"):
        directions = directions - directions.mean(-1, keepdim=True)
    return directions * _weights(model, cast(Any, model).ln_final).to(directions.device)


def _weights(model: HookedModel, norm: Any) -> Float[Tensor, " d_model"]:
    """A norm's weights, read off its output because families store them differently.

    The input alternates 1 and -1: it has mean 0 and size 1, so the norm only multiplies it.
    """
    signs = torch.ones(1, 1, model.cfg.d_model, dtype=model.cfg.dtype)
    signs[..., 1::2] = -1
    with at_hand(norm):
        signs = signs.to(next((weight.device for weight in norm.parameters()), model.cfg.device))
        return ((norm(signs) - norm(-signs)) / 2 * signs)[0, 0].float()


@as_the_checkpoint
def top_prompts(
    model: HookedModel,
    neurons: Neurons,
    texts: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    k: int = 5,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """The texts, and the token in each, with the most extreme activations of every neuron.

    A text's first token is left out: it is an attention sink, and its activations differ in size
    from all others.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, read at its site, or names, at site ``post``.
        texts: Texts, or source -> texts; default the bank's questions on the paper's dimensions,
            without instruction or chat template, and its passages of plain text.
        k: Texts per neuron and side.
        progress: Whether to show a progress bar.

    Returns:
        layer, index, side (``largest``, or ``smallest``: the most negative), rank (from 1),
        activation, token (unprintable characters escaped), position (of the token, from 0, a BOS
        included), text, source and mean_abs_activation (of the neuron, over all tokens read).

    Raises:
        ValueError: If the set is empty or belongs to another model, `k` is below 1, no text has
            two tokens, or one is longer than the model's context.
    """
    neurons = _checked(model, neurons, k)
    check_texts(texts)
    texts = _default_texts() if texts is None else texts
    by_source = texts if isinstance(texts, Mapping) else {"": texts}
    encoded = [
        _Text(source, text, token_ids(model.tokenizer, text))
        for source, group in by_source.items()
        for text in group
    ]
    readable = [text for text in encoded if len(text.ids) > 1]
    readable.sort(key=lambda text: len(text.ids))  # little padding in a batch
    peaks = _peaks(model, neurons, [text.ids for text in readable], progress)
    columns = ["layer", "index", "side", "rank", "activation", "token", "position", "text"]
    columns += ["source", "mean_abs_activation"]
    return pd.DataFrame(_peak_rows(model, neurons, readable, peaks, k), columns=columns)


def _peak_rows(
    model: HookedModel, neurons: NeuronSet, texts: Sequence[_Text], peaks: _Peaks, k: int
) -> Iterator[tuple[Any, ...]]:
    """The rows of `top_prompts`: per neuron and side the `k` texts with the highest peaks."""
    best, chosen = peaks.value.topk(min(k, len(texts)), dim=1)  # [side, rank, neuron]
    for column, neuron in enumerate(neurons):
        mean_size = float(peaks.size[column])
        for side, (name, sign) in enumerate((("largest", 1), ("smallest", -1))):
            for rank, row in enumerate(chosen[side, :, column].tolist()):
                source, text, ids = texts[row]
                position = int(peaks.position[side, row, column])
                activation = sign * float(best[side, rank, column])
                token = token_text(model, ids[position])
                peak = (name, rank + 1, activation, token, position)
                yield (*neuron, *peak, text, source, mean_size)


def _default_texts() -> dict[str, list[str]]:
    passages, _ = plain_text.load()
    questions = [question.text for question in load_questions(None)]
    return {"question bank": questions, "plain text": passages["text"].tolist()}


def _peaks(
    model: HookedModel, neurons: NeuronSet, texts: Sequence[Sequence[int]], progress: bool
) -> _Peaks:
    """`_extremes` of all texts (shortest first), and each neuron's mean absolute activation."""
    check_lengths(model, texts, at_least=2)
    batches = progress_bar(batched(texts), desc="reading activations", shown=progress)
    values, positions, sizes = zip(
        *(_extremes(model, neurons, batch) for batch in batches), strict=True
    )
    n_tokens = sum(len(ids) - 1 for ids in texts)
    return _Peaks(
        torch.cat(values, 1), torch.cat(positions, 1), torch.stack(sizes).sum(0) / n_tokens
    )


def _extremes(model: HookedModel, neurons: NeuronSet, texts: Sequence[Sequence[int]]) -> _Peaks:
    """The peaks of a batch of texts, and each neuron's sum of absolute activations."""
    activations = read(model, neurons, texts)[:, 1:]
    lengths = torch.tensor([len(ids) for ids in texts])
    is_text = (torch.arange(1, activations.shape[1] + 1) < lengths[:, None])[..., None]
    signed = torch.stack([activations, -activations]).masked_fill(~is_text, -torch.inf)
    value, position = signed.max(2)
    # the first token was left out, so positions are one higher
    return _Peaks(value, position + 1, (activations.abs() * is_text).sum((0, 1)))


def _checked(model: HookedModel, neurons: Neurons, k: int) -> NeuronSet:
    check_count("k", k)
    return neurons_of(model, neurons)
