"""The activations of neurons at every token of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kb_lens.arguments import check_texts
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import Hook, HookedModel, site_hooks
from kb_lens.neurons.sets import Neurons, NeuronSet, neurons_of
from kb_lens.passes.last_logits import only_last_logits
from kb_lens.passes.matrix_products import fast_products
from kb_lens.progress import progress_bar

# enough to keep a processor busy, few enough for the activations of a large model
_BATCH_TOKENS = 2048
"""Tokens of text in one forward pass."""


@as_the_checkpoint
def activations(
    model: HookedModel,
    neurons: Neurons,
    texts: Sequence[str] | str,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """The activation of every neuron at every token.

    Hooks that are set take effect: inside ``scale_neurons`` these are the scaled activations. The
    activations at a text's first token differ in size from all others: it is an attention sink.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, read at its site, or names, ``["L26.N1371"]``, at site ``post``.
        texts: One or several, taken as they are: write a chat out as its template writes it.
        progress: Whether to show a progress bar.

    Returns:
        A row per text, token and neuron, in this order: text (its number, from 0), position (from
        0, a BOS included), token (unprintable characters escaped), neuron (its name), layer, index,
        activation.

    Raises:
        ValueError: If the set is empty or belongs to another model, or a text is empty or longer
            than the model's context.
    """
    members = neurons_of(model, neurons)
    texts = [texts] if isinstance(texts, str) else texts
    if not texts:  # None too
        raise ValueError("texts is empty: give a text, or a list of texts.")
    check_texts(texts)
    encoded = [token_ids(model.tokenizer, text) for text in texts]
    check_lengths(model, encoded, at_least=1)
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
    of_text: dict[int, Tensor] = {}
    batches = batched([encoded[number] for number in order])
    bar = progress_bar(batches, desc="reading activations", shown=progress)
    numbers = iter(order)
    for batch in bar:
        for ids, values in zip(batch, read(model, members, batch), strict=True):
            of_text[next(numbers)] = values[: len(ids)]
    tables = [
        _table(model, members, number, ids, of_text[number]) for number, ids in enumerate(encoded)
    ]
    return pd.concat(tables, ignore_index=True)


def _table(
    model: HookedModel,
    neurons: NeuronSet,
    number: int,
    ids: Sequence[int],
    values: Float[Tensor, "pos neuron"],
) -> pd.DataFrame:
    """The rows of one text."""
    n = len(neurons)
    positions = range(len(ids))
    return pd.DataFrame(
        {
            "text": number,
            "position": [position for position in positions for _ in range(n)],
            "token": [token for token_id in ids for token in [token_text(model, token_id)] * n],
            "neuron": [neuron.name for neuron in neurons] * len(ids),
            "layer": [neuron.layer for neuron in neurons] * len(ids),
            "index": [neuron.index for neuron in neurons] * len(ids),
            "activation": values.flatten().tolist(),
        }
    )


def batched(texts: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Batches of at most `_BATCH_TOKENS` tokens, padding included; texts come shortest first."""
    batches: list[list[Sequence[int]]] = [[]]
    for ids in texts:
        if batches[-1] and (len(batches[-1]) + 1) * len(ids) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(ids)
    return batches


@torch.no_grad()
def read(
    model: HookedModel, neurons: NeuronSet, texts: Sequence[Sequence[int]]
) -> Float[Tensor, "text pos neuron"]:
    """Activations of a batch of tokenized texts, float32, on the CPU.

    Padding is on the right, where causal attention does not see it.
    """
    tokens = pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True)
    caught: dict[int, Tensor] = {}

    def catch(activation: Tensor, hook: Any, layer: int, indices: list[int]) -> None:
        by_text = activation.reshape(*tokens.shape, -1)  # some families flatten their rows
        caught[layer] = by_text[..., indices].float().cpu()

    names = site_hooks(model, neurons.site)
    hooks: list[Hook] = [
        (names[layer], partial(catch, layer=layer, indices=indices))
        for layer, indices in neurons.by_layer().items()
    ]
    hooks += only_last_logits(model)  # none is needed
    with fast_products(model.cfg):
        model.run_with_hooks(tokens.to(model.cfg.device), return_type=None, fwd_hooks=hooks)
    return torch.cat([caught[layer] for layer in neurons.by_layer()], -1)


def check_lengths(model: HookedModel, texts: Sequence[Sequence[int]], *, at_least: int) -> None:
    """Raise `ValueError` for no text, or one with too few or too many tokens."""
    n_ctx = getattr(model.cfg, "n_ctx", None) or math.inf
    lengths = [len(ids) for ids in texts]
    if not texts or max(lengths) > n_ctx or min(lengths) < at_least:
        told = f"the longest has {max(lengths)}" if texts else "there is none"
        if texts and min(lengths) < at_least:
            told = f"the shortest has {min(lengths)}"
        raise ValueError(f"allowed are texts of {at_least} to {n_ctx} tokens: {told}.")


def token_text(model: HookedModel, token_id: int) -> str:
    """A token as text; unprintable and incomplete characters are escaped."""
    return repr(plain_token(model, token_id))[1:-1]


def plain_token(model: HookedModel, token_id: int) -> str:
    """A token as it is written; an incomplete character or an empty token by its name."""
    text = model.tokenizer.decode([token_id])
    # a single byte of a longer character is not text: use the vocabulary's spelling
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        text = model.tokenizer.convert_ids_to_tokens(token_id)
    return text
