"""The model card and the record of an exported checkpoint, and its upload to the hub."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from kb_lens.evaluation.comparison import headline, summarize
from kb_lens.evaluation.markdown import summary_table
from kb_lens.evaluation.results import EvaluationResult, conditions_of
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

{shown}

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
_NOTHING_MEASURED = """## What was not shown

Writing this checkpoint measured nothing. It was not shown to be less biased than {model}, nor to
have kept its abilities. A change that damages a model can look like less bias: measure both models,
and random neurons at the same factor (`kb-lens evaluate`), before you say that it helped."""
_MEASURED = """## What was measured

With kb_lens, on {model} with these neurons scaled while it runs ({weights}), not on this file,
whose weights are {dtype}. In the table this is `{name}`. Values have 95 % intervals over clusters
of items; differences are paired, from the base model.

{table}

A change that damages a model can look like less bias, and {controls}. The table says what changed,
not why."""
_CONTROLS = "random neurons (`{names}`) may do as much"
_NO_CONTROLS = "random neurons, which were not measured beside it, may do as much"


@dataclass(frozen=True)
class Measured:
    """What was measured on a model with the same neurons scaled by the same factor."""

    name: str
    """The condition's name."""
    results: Mapping[str, Sequence[EvaluationResult]]
    """Condition -> its results: the base model first if it was measured, then this change and its
    random controls."""
    weights: str = ""
    """The type of the weights; empty if it is not known."""

    def eval_results(self) -> list[Any]:
        """The headline metrics as the hub reads them (`huggingface_hub.EvalResult`)."""
        from huggingface_hub import EvalResult

        return [
            EvalResult(
                task_type="text-generation",
                dataset_type=result.benchmark,
                dataset_name=f"{result.benchmark}, {len(result.items)} items",
                dataset_config=result.protocol,
                metric_type=metric,
                metric_name=f"{metric}, neurons scaled while the model runs",
                metric_value=result.metrics[metric].value,
            )
            for result in self.results[self.name]
            for metric in headline(result)
            if math.isfinite(result.metrics[metric].value)
        ]

    def section(self, model: str, dtype: str) -> str:
        """The section of the card about it."""
        controls = [name for name, info in conditions_of(self.results).items() if info.control_of]
        names = "`, `".join(controls)
        return _MEASURED.format(
            model=model,
            weights=self.weights or "weights of a type that is not known",
            dtype=dtype,
            name=self.name,
            table=summary_table(summarize(self.results)),
            controls=_CONTROLS.format(names=names) if controls else _NO_CONTROLS,
        )


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
    """The scaled neurons."""
    lam: float
    """The factor."""
    difference: float
    """The largest difference of logits between the hooked and the folded model."""
    measured: Measured | None = None
    """What was measured."""

    @property
    def model(self) -> str:
        """The source's hub name, or the last part of its path: an export may be made public."""
        return Path(self.source).expanduser().resolve().name if self._is_path() else self.source

    @property
    def _dtype(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _is_path(self) -> bool:
        name = self.source
        # a hub name has at most one slash, and a folder here may have the same name
        marked = name.startswith((".", "/", "~")) or name.count("/") > 1
        return marked or Path(name).exists() or name.endswith(".gguf")

    def record(self, files: Mapping[str, str]) -> str:
        """The text of ``kb_lens.json``; `files` are the other files, name -> SHA-256."""
        neurons = self.neurons
        content: dict[str, Any] = {
            "format": FORMAT,
            "kb_lens_version": _version(),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "dtype": self._dtype,
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
        """The text of ``README.md``, with the metadata that the hub reads."""
        neurons = self.neurons
        reads = "the weights of the down projection that read these neurons"
        writes = "the weights and biases of the gate (without gates: up) projection that write them"
        known = neurons.tau is not None and neurons.beta is not None
        title = f"{self.model.split('/')[-1]}, {len(neurons)} neurons times {self.lam:g}"
        measured = self.measured
        nothing = _NOTHING_MEASURED.format(model=self.model)
        card = _CARD.format(
            head=self._head(title),
            title=title,
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
            shown=measured.section(self.model, self._dtype) if measured else nothing,
        )
        return "\n\n".join(map(_wrapped, card.split("\n\n"))) + "\n"

    def _head(self, title: str) -> str:
        from huggingface_hub import ModelCardData

        on_hub = not self._is_path() and re.fullmatch(r"[\w.-]+/[\w.-]+", self.source)
        head = ModelCardData(
            library_name="transformers",
            pipeline_tag="text-generation",
            base_model=self.source if on_hub else None,
            tags=["kb-lens"],
            model_name=title,
            eval_results=self.measured.eval_results() if self.measured else None,
        )
        return head.to_yaml()


def _wrapped(block: str) -> str:
    """A paragraph wrapped to one width; headings, code and tables stay as they are."""
    if block.startswith(("---", "#", "`", "|")):
        return block.strip()
    return fill(" ".join(block.split()), 100)


def _version() -> str | None:
    try:
        return version("kb-lens")
    except PackageNotFoundError:  # a source tree on the path that is not installed
        return None


def push(folder: str | os.PathLike[str], repository: str) -> str:
    """Upload an export to the Hugging Face hub; a missing repository is created, private.

    Returns:
        Its address.

    Raises:
        ValueError: If the hub cannot be reached or refuses. The folder is kept.
    """
    check_push(repository)
    try:
        return push_folder(folder, repository, leave_out=("run.json",))
    except ValueError as error:
        raise ValueError(f"'{folder}' is written, but {error}") from error
