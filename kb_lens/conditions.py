"""Everything that can be done to a model, behind one interface, so that methods can be compared.

A change knows how it is applied to the model, how it alters what the model is asked (a debiasing
prompt does), and how it is written down. A condition is a change with a name. Base and changed
model take the same path through `evaluate`, on the same items.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kb_lens.benchmarks import Benchmark
from kb_lens.intervention import Positions, scale_neurons
from kb_lens.neurons import NeuronSet


class Change(Protocol):
    """Something done to a model."""

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """A ``with`` block in which the model is changed."""
        ...

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark as the changed model is asked it: the same items."""
        ...

    def describe(self) -> dict[str, Any]:
        """As JSON data, for ``results.json``; two changes that differ are described differently."""
        ...


@dataclass(frozen=True)
class Scaling:
    """Neurons multiplied by a factor: enhancement, suppression, ablation."""

    neurons: NeuronSet
    """What is scaled."""
    lam: float
    """The factor."""
    positions: Positions = "all"
    """Where it is applied."""

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """See `scale_neurons`."""
        return scale_neurons(model, self.neurons, lam=self.lam, positions=self.positions)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark itself."""
        return benchmark

    def describe(self) -> dict[str, Any]:
        """Factor, positions, site and every neuron."""
        return {
            "lam": float(self.lam),
            "positions": self.positions,
            "site": self.neurons.site,
            "n_neurons": len(self.neurons),
            "neurons": [list(neuron) for neuron in self.neurons],
            "origin": self.neurons.origin,
        }


@dataclass(frozen=True)
class Prompting:
    """A text that tells the model to be fair: the system text of chats, the beginning of others."""

    text: str
    """What the model is told."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("the debiasing prompt is empty: there is nothing to tell the model.")

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """The model as it is."""
        return nullcontext(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark with the text in every request."""
        requests = tuple(
            replace(one, system=self.text)
            if one.chat
            else replace(one, prompt=f"{self.text} {one.prompt}")
            for one in benchmark.requests
        )
        return replace(benchmark, requests=requests)

    def describe(self) -> dict[str, Any]:
        """The text."""
        return {"prompt": self.text}


@dataclass(frozen=True)
class Condition:
    """A model under one change."""

    name: str
    """Its name in tables, figures and the folder ``evaluations``."""
    change: Change | None = None
    """What is done; None for the base model."""

    def __post_init__(self) -> None:
        if not self.name.strip(". ") or set(self.name) & set('/\\:*?"<>|'):
            raise ValueError(
                f"{self.name!r} cannot name a condition: it becomes a folder's name, so it must "
                'not be empty or have any of / \\ : * ? " < > | in it.'
            )

    def applied(self, model: Any) -> AbstractContextManager[Any]:
        """A ``with`` block in which the model is changed."""
        return nullcontext(model) if self.change is None else self.change.applied(model)

    def asked(self, benchmark: Benchmark) -> Benchmark:
        """The benchmark as the changed model is asked it."""
        return benchmark if self.change is None else self.change.asked(benchmark)

    def describe(self) -> dict[str, Any] | None:
        """As JSON data, for ``results.json``; None for the base model."""
        return None if self.change is None else self.change.describe()
