"""What neurons do on a text: their activation at every token."""

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

    Hooks that are set act: inside ``scale_neurons`` these are the activations as they are scaled
    there. At a text's first token models keep a place to attend to when there is nothing else;
    its activations are of another size than all others.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, read at its site, or names, ``["L26.N1371"]``, at site ``post``.
        texts: One or several, taken as they are: write a chat out as its template writes it.
        progress: Whether to show a progress bar.

    Returns:
        text (its number, from 0), position (from 0, a BOS included), token (unprintable characters
        escaped), neuron (its name), layer, index, activation. Text by text, token by token.

    Raises:
        ValueError: If the set is empty or belongs to another model, a text is empty, or longer than
            the model's context.
    """
    members = neurons_of(model, neurons)
    texts = [texts] if isinstance(texts, str) else texts
    if not texts:  # None, too, which would be a default elsewhere
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
    """Batches of not too many tokens, padding included; texts come shortest first."""
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
    """Activations of a batch of texts in tokens, float32, on the CPU; padding is on the right.

    Causal attention does not see padding there.
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
    if "unembed.hook_in" in model.hook_dict:  # the logits are not needed
        hooks.append(("unembed.hook_in", lambda residual, hook: residual[:, -1:]))
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
    """A token as text, with escapes for what cannot be printed or is no whole character."""
    return repr(plain_token(model, token_id))[1:-1]


def plain_token(model: HookedModel, token_id: int) -> str:
    """A token as it is written; what is no whole character, or nothing, by its name."""
    text = model.tokenizer.decode([token_id])
    # one byte of a character that has several is no text: then the vocabulary's spelling of it
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        text = model.tokenizer.convert_ids_to_tokens(token_id)
    return text
