"""``--neurons``: a file of `identify`, a file on the hub, or names."""

from __future__ import annotations

import re
from pathlib import Path

from kb_lens.models.hub import HUB
from kb_lens.neurons.names import Neuron, named_neurons
from kb_lens.neurons.sets import NeuronSet

_NAMES = re.compile(r"\s*L\d+\s*[.,/:]?\s*N\d+.*", re.IGNORECASE | re.DOTALL)


GivenNeurons = NeuronSet | tuple[Neuron, ...]
"""A set, or named neurons whose model is not loaded yet."""


def given_neurons(given: Path) -> GivenNeurons:
    """The set of a neurons.json (also ``hf://USER/NAME``), or the named neurons.

    Raises:
        ValueError: If there is no such file, or a name is not a neuron's.
    """
    if _NAMES.fullmatch(str(given)) and not given.is_file():
        return named_neurons(str(given))
    on_hub = re.fullmatch(r"hf:/+(.+)", str(given))  # `Path` removes one of the slashes
    return NeuronSet.load(f"{HUB}{on_hub[1]}" if on_hub else given)
