"""One neuron and its written forms: ``L26.N1371``, or layer and index, (26, 1371)."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kb_lens.rows import shown

_NAME = re.compile(r"\s*L(\d+)\s*[.,/:]?\s*N(\d+)\s*", re.IGNORECASE)
_SEVERAL = re.compile(r"[,;\s]+(?=L)", re.IGNORECASE)
_FORMS = "write L26.N1371, or (26, 1371) for layer 26 and neuron 1371, both from 0"

NeuronName = str | Sequence[int]
"""``L26.N1371`` or a layer and an index."""


class Neuron(NamedTuple):
    """One MLP neuron."""

    layer: int
    """The block, from 0."""
    # This hides the tuple's method of that name, which is not needed.
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    """The index in the layer's d_mlp activations, from 0."""

    @property
    def name(self) -> str:
        """``L26.N1371``."""
        return f"L{self.layer}.N{self.index}"


def named_neurons(neurons: str | Iterable[NeuronName]) -> tuple[Neuron, ...]:
    """Neurons by their names, in the order given.

    Args:
        neurons: Names or pairs, or one text of names with commas between them.

    Raises:
        ValueError: If something is not a name, a neuron is named twice, or none is named.
    """
    if isinstance(neurons, str):
        neurons = [name for name in _SEVERAL.split(neurons.strip()) if name]
    if not isinstance(neurons, Iterable):
        raise ValueError(f"{shown(neurons)} does not name a neuron: {_FORMS}.")
    named = tuple(neuron_of(name) for name in neurons)
    if not named:
        raise ValueError(f"no neuron is named: {_FORMS}.")
    twice = next((neuron for neuron in named if named.count(neuron) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice.name} is named twice: name each neuron once.")
    return named


def neuron_of(name: NeuronName | Iterable[Any]) -> Neuron:
    """One neuron; 1.7 or True is not accepted as a number."""
    if isinstance(name, str):
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{shown(name)} does not name a neuron: {_FORMS}.")
        return Neuron(int(match[1]), int(match[2]))
    try:
        layer, index = name
        if isinstance(layer, bool) or isinstance(index, bool):
            raise TypeError("True and False are not numbers")
        return Neuron(operator.index(layer), operator.index(index))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(name)} is not a neuron: {_FORMS}.") from error
