"""Enhancement: multiply the selected neurons' activations by lambda.

Last step of the method (paper, section 3.5). The hooks are set in a ``with`` block: everything
inside it (forward passes, generation, evaluation) runs on the changed model, and afterwards the
model is unchanged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kb_lens.arguments import check_number
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.interventions.positions import Positions, changing_activations, check_positions
from kb_lens.models.hooked import HookedModel, site_hooks
from kb_lens.neurons.sets import Neurons, NeuronSet, neurons_of


@contextmanager
def scale_neurons(
    model: HookedModel, neurons: Neurons, *, lam: float, positions: Positions = "all"
) -> Iterator[HookedModel]:
    """Multiply the neurons' activations by `lam` inside a ``with`` block.

    ``lam=1`` changes nothing, ``lam=0`` ablates. Nested blocks multiply.

    Args:
        model: The model that the neurons were found on.
        neurons: The neurons to scale: a set, at its site, or names of neurons at site ``post``,
            ``["L26.N1371", (28, 1095)]``.
        lam: The factor.
        positions: ``all`` positions of every forward pass, or only the ``last`` of each, as in the
            authors' release. In generation with a key/value cache these are the last prompt token
            and every generated one; in `evaluate` the position that predicts a token, separately
            for each token. Pad your own batches on the left, or the last position is padding.

    Yields:
        The model.

    Raises:
        ValueError: If the set is empty or belongs to another model, `lam` is not finite in the
            type of the weights, `positions` is unknown, the model did not run in the block, its
            hooks were removed there, or another thread changes or measures it.
    """
    check_positions(positions)
    check_factor(lam, model.cfg.dtype)
    neurons = neurons_of(model, neurons)
    names = site_hooks(model, neurons.site)
    # a product with a factor for every neuron, mostly 1, is exact and faster than indexing
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    for layer, indices in neurons.by_layer().items():
        # float64 may hold a factor that float32 does not
        factors = torch.ones(neurons.d_mlp, dtype=_wide(model.cfg.dtype))
        factors[indices] = float(lam)
        factors = factors.to(model.cfg.device, model.cfg.dtype)
        changes[names[layer]] = partial(_times, factors)
    with changing_activations(model, changes, positions):
        yield model


def _times(factors: Float[Tensor, " d_mlp"], activation: Tensor) -> Tensor:
    # the layers of one model may be on several devices
    return factors.to(activation.device) * activation


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def check_factor(lam: object, dtype: torch.dtype | str | None = None) -> None:
    """Refuse a factor that is not finite.

    Args:
        lam: The factor.
        dtype: The type of the weights, in which it must be finite; None if that is not known,
            ``auto`` if it may be float32, which has the largest range.

    Raises:
        ValueError: Says what is allowed.
    """
    factor = check_number("lam", lam)
    if not math.isfinite(factor):  # the model would run and give NaN for every metric
        raise ValueError(f"lam is {lam}: allowed is any finite number.")
    if dtype is None:
        return
    name = "float32" if dtype == "auto" else str(dtype).removeprefix("torch.")
    largest = torch.finfo(getattr(torch, name)).max
    if abs(factor) > largest:
        raise ValueError(f"lam = {factor:g} is too large for {name} (at most {largest:.2g}).")


@dataclass(frozen=True)
class Scaling:
    """Neurons multiplied by a factor: enhancement, suppression, ablation."""

    neurons: NeuronSet
    """The neurons to scale."""
    lam: float
    """The factor."""
    positions: Positions = "all"
    """The positions that are scaled."""

    def __post_init__(self) -> None:
        check_factor(self.lam)
        check_positions(self.positions)

    def applied(self, model: HookedModel) -> AbstractContextManager[HookedModel]:
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
