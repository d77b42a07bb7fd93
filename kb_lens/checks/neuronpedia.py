"""Files for Neuronpedia: neurons with their tokens and the texts that activate them.

Neuronpedia (neuronpedia.org) shows features of models. An account may add features by ``POST
/api/feature/upload-batch``. This module writes files for that call and sends nothing. Sources of
the format: ``apps/webapp/app/api/feature/upload-batch/route.tsx`` in
github.com/hijohnnylin/neuronpedia at ebb8426 (August 2026; the same fields since May 2025), and
its Python client, neuronpedia 2.0.0 (``FeatureRequest.upload_batch``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from kb_lens.arguments import check_count
from kb_lens.checks.activations import activations, plain_token
from kb_lens.checks.neuron_meaning import promoted_tokens
from kb_lens.models.chat import token_ids
from kb_lens.models.hooked import HookedModel
from kb_lens.neurons.sets import Neurons, neurons_of
from kb_lens.records.objects import write_json

_BATCH = 128
"""Most features per call."""
_N_TOKENS = 1024
"""Most tokens per text."""
_N_LOGITS = 10
"""Tokens per side; 20 are allowed."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""Names of models and of source sets."""


def export_neuronpedia(
    model: HookedModel,
    neurons: Neurons,
    texts: Sequence[str] | str,
    folder: str | os.PathLike[str],
    *,
    model_id: str,
    source_set: str,
    k: int = 10,
    progress: bool = True,
) -> list[Path]:
    """Write neurons as the batches that Neuronpedia's upload takes.

    A source is a layer of a source set, ``LAYER-SOURCE_SET``, with files of its own for at most 128
    neurons each. A neuron's index is its index in the layer. Its texts are those with the largest
    activations, without a text's first token, which is an attention sink. Its logits are
    `promoted_tokens`, per unit of activation. Quantiles, density and explanations, which
    Neuronpedia takes as well, are left out.

    Create the model and the source set first (``neuronpedia.np_source_set.SourceSet.new``). Then
    ``curl -H "x-api-key: KEY" -H "Content-Type: application/json" -d @FILE
    https://www.neuronpedia.org/api/feature/upload-batch`` uploads a file.

    Args:
        model: A `TransformerBridge` or `HookedTransformer`.
        neurons: A set, read at its site, or names, at site ``post``.
        texts: As in `activations`.
        folder: The folder for the files.
        model_id: Neuronpedia's name of the model, such as ``gemma-2-2b``.
        source_set: The name of your source set.
        k: Texts per neuron.
        progress: Whether to show a progress bar.

    Returns:
        The files, ``LAYER-SOURCE_SET-batch-0.json``.

    Raises:
        ValueError: As `activations`; or if no text has two tokens, a text has more tokens than
            Neuronpedia takes, or a name is not allowed there.
    """
    check_count("k", k)
    for name, given in (("model_id", model_id), ("source_set", source_set)):
        if not isinstance(given, str) or not _NAME.fullmatch(given):
            raise ValueError(f"{name} is {given!r}: allowed are a to z, 0 to 9 and . _ -")
    members = neurons_of(model, neurons)
    texts = [texts] if isinstance(texts, str) else texts
    table = activations(model, members, texts, progress=progress)
    tokens = [_tokens(model, text) for text in texts]
    longest = max(map(len, tokens))
    if not 1 <= longest <= _N_TOKENS:
        raise ValueError(
            f"allowed are texts of 2 to {_N_TOKENS + 1} tokens: the longest has {longest + 1}."
        )
    peaks = _top_texts(table.query("position > 0"), tokens, k)
    logits = _logits(model, promoted_tokens(model, members, _N_LOGITS))
    written: list[Path] = []
    for layer, indices in members.by_layer().items():
        source = f"{layer}-{source_set}"
        features = [
            {"index": index, **logits[layer, index], "activations": peaks[layer, index]}
            for index in indices
        ]
        for number, start in enumerate(range(0, len(features), _BATCH)):
            batch = features[start : start + _BATCH]
            written.append(Path(folder) / f"{source}-batch-{number}.json")
            write_json(written[-1], {"modelId": model_id, "source": source, "features": batch})
    return written


def _tokens(model: HookedModel, text: str) -> list[str]:
    """A text's tokens as they are written, without the first."""
    return [plain_token(model, token_id) for token_id in token_ids(model.tokenizer, text)[1:]]


def _top_texts(
    table: pd.DataFrame, tokens: Sequence[Sequence[str]], k: int
) -> dict[Any, list[dict[str, Any]]]:
    """(layer, index) -> the `k` texts with the largest activations, token by token."""
    by_neuron: dict[Any, list[dict[str, Any]]] = {}
    for key, rows in table.groupby(["layer", "index", "text"]):
        layer, index, text = cast(tuple[int, int, int], key)
        shown = {"tokens": tokens[text], "values": rows["activation"].tolist()}
        by_neuron.setdefault((layer, index), []).append(shown)
    return {
        neuron: sorted(shown, key=lambda text: max(text["values"]), reverse=True)[:k]
        for neuron, shown in by_neuron.items()
    }


def _logits(model: HookedModel, promoted: pd.DataFrame) -> dict[Any, dict[str, Any]]:
    """(layer, index) -> the tokens that the neuron makes likelier and less likely, best first."""
    by_neuron: dict[Any, dict[str, Any]] = {}
    sides = {"promotes": "topLogits", "suppresses": "bottomLogits"}
    for key, rows in promoted.groupby(["layer", "index", "side"]):
        layer, index, side = cast(tuple[int, int, str], key)
        by_neuron.setdefault((layer, index), {})[sides[side]] = [
            {"token": plain_token(model, token_id), "value": logit}
            for token_id, logit in zip(rows["token_id"], rows["logit"], strict=True)
        ]
    return by_neuron
