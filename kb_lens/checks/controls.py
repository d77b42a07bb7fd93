"""Random control neurons, and the influence of every neuron.

Random neurons are a fair control only if they can do as much as the chosen ones. At a position a
neuron adds its activation times its row of W_out to the residual stream. So its influence is the
mean absolute activation times the norm of that row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load, save
from torch import Tensor

from kb_lens.arguments import check_count, check_seed, check_texts
from kb_lens.attribution.attribute import check_cache
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.checks.neuron_meaning import output_directions
from kb_lens.models.bridge_check import as_the_checkpoint
from kb_lens.models.hooked import HookedModel, site_hooks, weights_digest
from kb_lens.neurons.names import Neuron
from kb_lens.neurons.sets import NeuronSet
from kb_lens.passes.last_logits import only_last_logits
from kb_lens.passes.matrix_products import fast_products
from kb_lens.progress import progress_bar
from kb_lens.store import Store, entry_key

_BATCH_TOKENS = 1024
"""Tokens in one forward pass, padding included: enough for a CPU, and they fit a small memory."""
_FORMAT = 1
"""Increase it when the same key would give another influence."""


@as_the_checkpoint
def influence(
    model: HookedModel,
    texts: Sequence[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Float[Tensor, "layer d_mlp"]:
    """Mean absolute post-activation times the norm of the neuron's W_out row.

    A text that is longer than the model's context is cut to it.

    Args:
        model: A ``TransformerBridge`` or ``HookedTransformer``.
        texts: Ordinary text; default the passages of the benchmark ``plain_text``.
        cache_dir: The folder in which it is kept; None keeps nothing. Refused while hooks are set.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there is no text, one is empty, or `cache_dir` is a file or given while hooks
            are set.
    """
    check_texts(texts)
    check_cache(cache_dir, model)
    if texts is None:
        texts = [request.options[0] for request in load_benchmark("plain_text").requests]
    if not texts:
        raise ValueError("influence is measured on text: got none, at least one is needed.")
    n_ctx = getattr(model.cfg, "n_ctx", None)
    ids = [model.tokenizer(text)["input_ids"][:n_ctx] for text in texts]
    if cache_dir is None:
        return _influence(model, ids, progress)
    key = entry_key(["influence", _FORMAT, weights_digest(model), str(model.cfg.dtype), ids])
    store = Store(cache_dir, ".safetensors")
    content = store.obtain(key, lambda: save({"influence": _influence(model, ids, progress)}))
    return load(content)["influence"]


@torch.no_grad()
def _influence(
    model: HookedModel, texts: Sequence[list[int]], progress: bool
) -> Float[Tensor, "layer d_mlp"]:
    norms = torch.stack(
        [
            output_directions(model, layer).float().norm(dim=1).cpu()
            for layer in range(model.cfg.n_layers)
        ]
    )
    sums = torch.zeros_like(norms)
    bar = progress_bar(total=len(texts), desc="measuring influence", unit="text", shown=progress)
    with bar, fast_products(model.cfg):
        for batch in _like_lengths(texts):
            _add_batch(model, batch, sums)
            bar.update(len(batch))
    return sums / sum(map(len, texts)) * norms


def _like_lengths(texts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Batches with little padding."""
    ordered = sorted(texts, key=len, reverse=True)
    while ordered:
        n_rows = max(1, _BATCH_TOKENS // len(ordered[0]))
        yield ordered[:n_rows]
        ordered = ordered[n_rows:]


def _add_batch(
    model: HookedModel, texts: Sequence[list[int]], sums: Float[Tensor, "layer d_mlp"]
) -> None:
    """Add every neuron's size, summed over some texts, to `sums` in place."""
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    # Padding on the right changes nothing before it under causal attention.
    is_text = torch.arange(tokens.shape[1]) < lengths[:, None]
    hooks: list[tuple[str, Any]] = [
        (name, partial(_add, is_text=is_text, total=sums[layer]))
        for layer, name in enumerate(site_hooks(model, "post"))
    ]
    hooks += only_last_logits(model)  # none is needed
    model.run_with_hooks(tokens.to(model.cfg.device), fwd_hooks=hooks)


def _check_influence(influence: object, neurons: NeuronSet) -> None:
    """Refuse anything but a table of sizes."""
    remedy = "Give what kb.influence returned for this model."
    shape = (neurons.n_layers, neurons.d_mlp)
    if not isinstance(influence, Tensor):
        raise ValueError(f"influence is a {type(influence).__name__}, not a tensor. {remedy}")
    if tuple(influence.shape) != shape:
        raise ValueError(
            f"influence has shape {tuple(influence.shape)}, the set needs {shape}. {remedy}"
        )
    if influence.dtype != torch.float32 or influence.device.type != "cpu":
        raise ValueError(
            f"influence is {influence.dtype} on {influence.device}: needed is torch.float32 on "
            f"cpu. {remedy}"
        )
    if not bool((influence.isfinite() & (influence >= 0)).all()):
        raise ValueError(
            "influence has numbers that are negative or not finite: sizes are 0 or more. If the "
            "model overflowed, load it in float32."
        )


def _add(
    activation: Float[Tensor, "row pos d_mlp"],
    hook: Any,
    *,
    is_text: Bool[Tensor, "row pos"],
    total: Float[Tensor, " d_mlp"],
) -> None:
    """Add every neuron's size, summed over the text, to `total` in place."""
    total += activation[is_text.to(activation.device)].float().abs().sum(0).cpu()


def random_neurons(
    neurons: NeuronSet,
    *,
    seed: int = 0,
    influence: Float[Tensor, "layer d_mlp"] | None = None,
    pool: int = 10,
) -> NeuronSet:
    """As many other neurons in every layer, drawn at random: a control.

    Members of the set are drawn only in a layer that has too few others. With `influence` each
    member is replaced by one of the `pool` others in its layer whose influence is nearest to its
    own (by ratio), the largest first. If a member has more influence than all others of its layer,
    there is no match for it: `influence_ratio` says what was reached.

    Args:
        neurons: The set that needs a control.
        seed: Seed of the draw.
        influence: The result of `influence`.
        pool: Number of nearest neurons to draw from.

    Raises:
        ValueError: If `influence` does not fit the model, or the seed or `pool` is not allowed.
    """
    check_count("pool", pool)
    check_seed(seed)
    if influence is not None:
        _check_influence(influence, neurons)
    generator = np.random.default_rng(seed)
    members: list[Neuron] = []
    for layer, indices in neurons.by_layer().items():
        candidates = np.setdiff1d(np.arange(neurons.d_mlp), indices)
        if len(candidates) < len(indices):  # the set has more than half of the layer
            candidates = np.arange(neurons.d_mlp)
        if influence is None:
            chosen = generator.choice(candidates, size=len(indices), replace=False)
        else:
            sizes = influence[layer].detach().numpy()
            chosen = _nearest(sizes, indices, candidates, pool, generator)
        members += [Neuron(layer, int(index)) for index in chosen]
    matched = "layer-matched" if influence is None else "matched in layer and influence"
    origin = f"random, {matched} (seed {seed}), for [{neurons.origin}]"
    return replace(neurons, neurons=tuple(members), tau=None, beta=None, origin=origin)


def _nearest(
    influence: Float[np.ndarray, " d_mlp"],
    indices: Sequence[int],
    candidates: Int[np.ndarray, " candidate"],
    pool: int,
    generator: np.random.Generator,
) -> list[int]:
    """For each index another one of like influence, drawn without replacement."""
    size = np.log(np.maximum(influence, 1e-12))  # keeps a dead neuron's logarithm finite
    chosen: list[int] = []
    # the largest first: they have the fewest neighbours, and a neuron is drawn only once
    for index in sorted(indices, key=lambda index: -size[index]):
        distance = np.abs(size[candidates] - size[index])
        nearest = candidates[np.argsort(distance, kind="stable")[:pool]]
        chosen.append(int(generator.choice(nearest)))
        candidates = candidates[candidates != chosen[-1]]
    return chosen


def influence_ratio(
    control: NeuronSet, neurons: NeuronSet, influence: Float[Tensor, "layer d_mlp"]
) -> float:
    """The summed influence of a control, divided by that of its set; 1 is a match.

    Raises:
        ValueError: If `influence` does not fit the model.
    """
    for members in (control, neurons):
        _check_influence(influence, members)
    return float(influence[control.mask()].sum() / influence[neurons.mask()].sum())
