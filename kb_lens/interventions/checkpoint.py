"""What an exported checkpoint says about itself, and how it gets onto the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from kb_lens.interventions.export_folder import FORMAT
from kb_lens.models.hub import check_push, push_folder
from kb_lens.neurons.sets import NeuronSet

_CARD = """---
{head}
---

# {title}

## What was changed

The activations of {count} of the {total} MLP neurons of {model} ({layers} of its {n_layers} layers)
are multiplied by {lam:g}. That is written into the weights: {where}. Nothing else differs from
{model}.

## How the neurons were found

With kb_lens. The set says of its origin: {origin}{thresholds}. Unless that names something else,
such as random neurons, they are neurons with large integrated gradients of the right answer to
yes/no questions about bias (Pan et al., 2026: Knowing Bias, Doing Better: Mitigating Social Bias in
LLMs via Know-Bias Neuron Enhancement; arXiv 2601.21864, PMLR 306). `kb_lens.json` lists every one.

## What was not shown

Writing this checkpoint measured nothing. It was not shown to be less biased than {model}, nor to
have kept its abilities. A change that damages a model can look like less bias: measure both models,
and random neurons at the same factor (`kb-lens evaluate`), before you say that it helped.

## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
name = "..."  # this folder or repository
model = AutoModelForCausalLM.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
```

It needs no kb_lens. On a short prompt its logits and those of {model} with the neurons scaled while
it runs differ by {difference:.2g} at most. The licence of {model} holds for this checkpoint too.
"""


@dataclass(frozen=True)
class Export:
    """An exported model."""

    source: str
    """The name that the source model was loaded by."""
    fingerprint: str
    """Its weights (`kb_lens.models.hooked.fingerprint`)."""
    dtype: torch.dtype
    """The type of the weights."""
    neurons: NeuronSet
    """What is scaled."""
    lam: float
    """The factor."""
    difference: float
    """The largest difference of logits between the hooked and the folded model."""

    @property
    def model(self) -> str:
        """The source's hub name, or the last part of its path: an export may be made public."""
        return Path(self.source).expanduser().resolve().name if self._is_path() else self.source

    def _is_path(self) -> bool:
        name = self.source
        # a hub name has one slash at most, and it may be that of a folder here
        marked = name.startswith((".", "/", "~")) or name.count("/") > 1
        return marked or Path(name).exists() or name.endswith(".gguf")

    def record(self, files: Mapping[str, str]) -> str:
        """The text of ``kb_lens.json``; `files` are those beside it, name -> SHA-256."""
        neurons = self.neurons
        content: dict[str, Any] = {
            "format": FORMAT,
            "kb_lens_version": _version(),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dtype": str(self.dtype).removeprefix("torch."),
            "lam": self.lam,
            "site": neurons.site,
            "positions": "all",
            "origin": neurons.origin,
            "tau": neurons.tau,
            "beta": neurons.beta,
            "n_layers": neurons.n_layers,
            "d_mlp": neurons.d_mlp,
            "largest_logit_difference": self.difference,
            "n_neurons": len(neurons),
            "neurons": neurons.neurons,
            "files": dict(files),
        }
        return json.dumps(content) + "\n"

    def card(self) -> str:
        """The text of ``README.md``, with the head that the hub reads."""
        neurons = self.neurons
        reads = "the weights of the down projection that read these neurons"
        writes = "the weights and biases of the gate (without gates: up) projection that write them"
        known = neurons.tau is not None and neurons.beta is not None
        card = _CARD.format(
            head=self._head(),
            title=f"{self.model.split('/')[-1]}, {len(neurons)} neurons times {self.lam:g}",
            model=self.model,
            count=len(neurons),
            total=neurons.n_layers * neurons.d_mlp,
            layers=len(neurons.by_layer()),
            n_layers=neurons.n_layers,
            lam=self.lam,
            where=reads if neurons.site == "post" else writes,
            origin=neurons.origin or "an origin that the set does not tell",
            thresholds=f" (tau {neurons.tau:g}, beta {neurons.beta:g})" if known else "",
            difference=self.difference,
        )
        return "\n\n".join(map(_wrapped, card.split("\n\n"))) + "\n"

    def _head(self) -> str:
        lines = ["library_name: transformers", "pipeline_tag: text-generation"]
        if not self._is_path() and re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
            lines.append(f"base_model: {self.source}")
        return "\n".join([*lines, "tags:", "- kb-lens"])


def _wrapped(block: str) -> str:
    """A paragraph in lines of one width; headings and code as they are."""
    if block.startswith(("---", "#", "`")):
        return block.strip()
    return fill(" ".join(block.split()), 100)


def _version() -> str | None:
    try:
        return version("kb-lens")
    except PackageNotFoundError:  # a source tree that is on the path and was never installed
        return None


def push(folder: str | os.PathLike[str], repository: str) -> str:
    """Upload an export to the Hugging Face hub; a repository that is not there is made, private.

    Returns:
        Its address.

    Raises:
        ValueError: If the hub cannot be reached or refuses. The folder stays.
    """
    check_push(repository)
    try:
        return push_folder(folder, repository, leave_out=("run.json",))
    except ValueError as error:
        raise ValueError(f"'{folder}' is written, but {error}") from error
