"""Enhancement: multiply the selected neurons' activations by lambda.

Last step of the method (paper, section 3.5). The hooks live in a ``with`` block, so whatever runs
inside, a forward pass, generation or an evaluation, runs on the changed model, and the model is
itself again afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.models.hooked import model_name, site_hooks
from kb_lens.neurons import NeuronSet
from kb_lens.passes import last_position

Positions = Literal["all", "last"]


@contextmanager
def scale_neurons(
    model: Any, neurons: NeuronSet, *, lam: float, positions: Positions = "all"
) -> Iterator[Any]:
    """Multiply the neurons' activations by `lam` inside a ``with`` block.

    ``lam=1`` changes nothing, ``lam=0`` ablates. Nested blocks multiply.

    Args:
        model: The model that the neurons were found on.
        neurons: What is scaled, at the site of the set.
        lam: The factor.
        positions: ``all`` positions of every forward pass, or only the ``last`` of each, as in the
            authors' release: in generation with a key/value cache that is the last prompt token
            and every generated one, in `evaluate` the position that predicts a token, for each
            token by itself. In a padded batch of your own the last position is padding: pad on
            the left.

    Yields:
        The model.

    Raises:
        ValueError: If the set is empty or belongs to another model, `lam` is not finite,
            `positions` is unknown, or the model did not run in the block.
    """
    if positions not in get_args(Positions):
        raise ValueError(f"positions is {positions!r}: allowed are 'all' and 'last'.")
    check_factor(lam)
    if not len(neurons):
        raise ValueError(
            "the neuron set is empty: nothing would be scaled. Lower tau or beta, or join sets."
        )
    neurons.check_model(model)
    names, last = site_hooks(model, neurons.site), positions == "last"
    fired: set[str] = set()
    hooks = []
    for layer, indices in neurons.by_layer().items():
        factor = torch.ones(neurons.d_mlp)
        factor[indices] = lam
        factor = factor.to(model.cfg.device, model.cfg.dtype)
        name = names[layer]
        hooks.append(
            (name, partial(_scale, factor=factor, last=last, note=partial(fired.add, name)))
        )
    with last_position.asking(model) if last else nullcontext(), model.hooks(fwd_hooks=hooks):
        yield model
    if silent := [name for name, _ in hooks if name not in fired]:
        raise ValueError(
            f"the hook {silent[0]!r} never fired: {model_name(model)} did not run in this "
            "block, or runs past that layer. Run this very model inside the block."
        )


def check_factor(lam: float) -> None:
    """Raise `ValueError` unless `lam` is finite."""
    if not math.isfinite(lam):
        raise ValueError(f"lam is {lam}: allowed is any finite number.")


def _scale(
    activation: Float[Tensor, "batch pos d_mlp"],
    hook: Any,
    *,
    factor: Float[Tensor, " d_mlp"],
    last: bool,
    note: Callable[[], None],
) -> Float[Tensor, "batch pos d_mlp"]:
    note()
    if not last:
        return activation * factor
    marked = last_position.marked()
    if marked is None:
        return torch.cat([activation[..., :-1, :], activation[..., -1:, :] * factor], dim=-2)
    marked = marked.to(activation.device).view(*activation.shape[:-1], 1)
    return torch.where(marked, activation * factor, activation)


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
