"""Quadrature on [0, 1]: the rules that integrate gradients along the path from 0 to h.

``riemann`` is what the authors' release does. The adaptive rule (docs/attribution.md) spends nodes
only where the integrand is steep, which is nearly always in the first layer:

1. Begin with the intervals that `start` has for each layer, or with [0, 1].
2. Put 5 Lobatto nodes into every interval. Two are its edges, which neighbours share.
3. Integrate by Lobatto's weights, and by Simpson's on 3 of the nodes. The difference is about
   Simpson's error, from which the error of the finer rule is estimated. The objective's change over
   the interval minus the sum of the attributions is the interval's completeness gap.
4. In a layer whose error or gap is too large, halve the worst intervals, unless the last halving
   has shown that only rounding is left.
5. Repeat with the new intervals, in all layers at once, until none is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from torch import Tensor

from kb_lens.attribution.path_gradients import Path

Edges = tuple[float, ...]
"""Edges of one layer's intervals, ascending from 0 to 1."""
WHOLE: Edges = (0.0, 1.0)
"""One interval: the start of a layer about which nothing is known."""
STEEP: Edges = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""The start of the first layer: its output is most of the residual stream there, so the norms after
it turn a small gamma into a large change."""
_LOBATTO = (0.0, 0.5 - math.sqrt(3 / 28), 0.5, 0.5 + math.sqrt(3 / 28), 1.0)
"""The rule's nodes on [0, 1]; exact to degree 7."""
_FINE = (1 / 20, 49 / 180, 16 / 45, 49 / 180, 1 / 20)
"""Their weights."""
_COARSE = (1 / 6, 0.0, 4 / 6, 0.0, 1 / 6)
"""Simpson's weights on three of them; exact to degree 3."""
# The orders 8 and 4 would give the power 2 for a resolved integrand. With 2, layers of SmolLM2-135M
# are up to 15 times worse than estimated; with this power those above 1e-4 are better.
_ORDER = 1.75
"""The finer rule's relative error is about the two rules' relative distance to this power."""
MAX_NODES = 600
"""Most nodes for a layer; then it stops, and its error is reported."""
_ROUNDING = 4
"""Units of rounding up to which the two rules' relative distance may be only rounding; it is 2 in a
model of 30 layers in bfloat16. Larger distances are refined, even if refining does not help."""
_GAP_ROUNDING, _MOST_GAP_ROUNDING = 6, 64
"""The same for the gap relative to the objective; it is 2 to 7 there, and up to 10 in small random
models. A gap below the first counts as rounding, up to the second only if no cut halves it."""


@dataclass(frozen=True)
class Integral:
    """The objective's mean gradient on the path from 0 to h, with its estimated error."""

    gradients: Float[Tensor, "layer d_mlp"]
    """The integral over gamma of the gradient at gamma * h."""
    at_zero: Float[Tensor, " layer"]
    """The objective with the layer's activations at the baseline, 0."""
    error: Float[Tensor, " layer"]
    """Estimated relative L2 error of gradients * h; NaN for a rule without an estimate."""
    nodes: Float[Tensor, " layer"]
    """How many nodes the layer took."""
    edges: tuple[Edges, ...] = ()
    """The intervals of each layer at the end of the adaptive rule."""


def fixed(path: Path, rule: str, n_steps: int) -> Integral:
    """Integrate with the same nodes in every layer.

    Args:
        path: Values and gradients for one prompt.
        rule: ``riemann`` (linspace(0, 1, n_steps), plain mean, as in the release) or
            ``gauss-legendre``.
        n_steps: Number of nodes.
    """
    if rule == "riemann":
        nodes = np.linspace(0, 1, n_steps)
        weights = np.full(n_steps, 1 / n_steps)
    else:
        nodes, weights = gauss(n_steps)
    n_layers = len(path.activations)
    if nodes[0] > 0:  # completeness needs the objective at the baseline
        nodes = np.append(0.0, nodes)
        weights = np.append(0.0, weights)
    values, rows = path([torch.tensor(nodes, dtype=torch.float32)] * n_layers)
    return Integral(
        gradients=torch.stack([_weighted(weights, gradients) for gradients in rows]),
        at_zero=torch.stack([value[0] for value in values]),
        error=torch.full((n_layers,), torch.nan),
        nodes=torch.full((n_layers,), float(n_steps)),
    )


def adaptive(
    path: Path,
    tol: float,
    eps: float = torch.finfo(torch.float32).eps,
    start: Sequence[Edges] | None = None,
) -> Integral:
    """Integrate every layer until its estimated error is below `tol`.

    Lobatto's rule with 5 nodes, on intervals that are halved if too coarse. In an interval the
    relative distance from Simpson's rule is about Simpson's error; the finer rule's error is
    estimated as its power 1.75. A layer also stops if all that is above `tol` is within rounding
    or was not halved by the last cut.

    Args:
        path: Values and gradients for one prompt.
        tol: Bound on the relative L2 error of each layer's attributions, and on its completeness
            gap as a share of the largest change of the objective over the layers.
        eps: The unit of rounding of the type that the model runs in.
        start: The intervals that each layer begins with. They only affect the cost: the error is
            estimated again.
    """
    if start is None:
        start = (STEEP, *[WHOLE] * (len(path.activations) - 1))
    layers = [_Layer(h, edges) for h, edges in zip(path.activations, start, strict=True)]
    at_zero = torch.empty(0)
    while any(nodes := [layer.missing() for layer in layers]):
        values, gradients = path([torch.tensor(step, dtype=torch.float32) for step in nodes])
        for layer, steps, value, rows in zip(layers, nodes, values, gradients, strict=True):
            layer.points.update(zip(steps, zip(value.tolist(), rows, strict=True), strict=True))
        at_zero = torch.tensor([layer.points[0.0][0] for layer in layers])
        change = path.value - at_zero
        unit = eps * max(abs(path.value), float(at_zero.abs().max()))
        allowed_gap = max(tol * float(change.abs().max()), _GAP_ROUNDING * unit)
        rounding = _ROUNDING * eps, _MOST_GAP_ROUNDING * unit
        for layer, steps, layer_change in zip(layers, nodes, change.tolist(), strict=True):
            if steps:  # the others have not changed
                layer.refine(tol, layer_change, allowed_gap, *rounding)
    estimates = [cast(_Estimate, layer.latest) for layer in layers]
    return Integral(
        gradients=torch.stack([estimate.integrals.sum(0) for estimate in estimates]),
        at_zero=at_zero,
        error=torch.tensor([estimate.relative_error for estimate in estimates]),
        nodes=torch.tensor([float(len(layer.points)) for layer in layers]),
        edges=tuple(layer.edges for layer in layers),
    )


@dataclass(frozen=True)
class _Estimate:
    """A layer's intervals by both rules."""

    integrals: Float[Tensor, "interval d_mlp"]
    """Integral of the gradient by the finer rule."""
    norm: float
    """L2 norm of the layer's attributions."""
    distance: Float[Tensor, " interval"]
    """L2 distance of the attributions by the two rules."""
    error: Float[Tensor, " interval"]
    """Estimated L2 error of the finer rule."""
    gap: Float[Tensor, " interval"]
    """The completeness gap."""

    @property
    def relative_error(self) -> float:
        return float(self.error.sum()) / self.norm if self.norm else 0.0


@dataclass
class _Layer:
    """The adaptive rule's state in one layer."""

    h: Float[Tensor, " d_mlp"]
    edges: Edges
    points: dict[float, tuple[float, Tensor]] = field(default_factory=dict)
    """The objective and its gradient at each finished gamma."""
    before: tuple[float, float] = (math.inf, math.inf)
    """The estimated relative error and the gap before the last cut."""
    latest: _Estimate | None = None
    """What the last `refine` judged."""

    def missing(self) -> list[float]:
        """The gammas of step 2 that are still to do."""
        nodes = [gamma for interval in pairwise(self.edges) for gamma in _nodes(*interval)]
        return [gamma for gamma in dict.fromkeys(nodes) if gamma not in self.points]

    def estimate(self) -> _Estimate:
        """Step 3."""
        intervals = list(pairwise(self.edges))
        nodes = [_nodes(*interval) for interval in intervals]
        rows = torch.stack([self.points[gamma][1] for step in nodes for gamma in step])
        rows = rows.view(len(intervals), len(_LOBATTO), -1)
        widths = torch.tensor([stop - start for start, stop in intervals])[:, None]
        integrals = widths * (torch.tensor(_FINE) @ rows)
        attributions = self.h * integrals
        distance = (attributions - self.h * widths * (torch.tensor(_COARSE) @ rows)).norm(dim=1)
        size = attributions.norm(dim=1)
        resolved = (distance / size).nan_to_num(0.0).clamp_max(1.0)  # no attribution, no error
        ends = torch.tensor([self.points[edge][0] for edge in self.edges])
        return _Estimate(
            integrals=integrals,
            norm=float(attributions.sum(0).norm()),
            distance=distance,
            error=distance * resolved ** (_ORDER - 1),
            gap=attributions.sum(1) - ends.diff(),
        )

    def refine(
        self, tol: float, change: float, allowed_gap: float, rounding: float, gap_rounding: float
    ) -> None:
        """Step 4: halve the worst intervals until the others' error is below half the tolerance."""
        self.latest = estimate = self.estimate()
        error = estimate.relative_error
        distance = float(estimate.distance.sum())
        gap = abs(float((self.h * estimate.integrals).sum()) - change)
        before, self.before = self.before, (error, gap)
        # If a cut made only for the gap did not halve it, the gap is rounding.
        resolved = before[0] <= tol or distance <= rounding * estimate.norm
        error_is_done = error <= tol or (
            before[0] / 2 < error and distance <= rounding * estimate.norm
        )
        gap_is_done = gap <= allowed_gap or (resolved and before[1] / 2 < gap <= gap_rounding)
        if (error_is_done and gap_is_done) or len(self.points) >= MAX_NODES:
            return
        cut = set[int]()
        if error > tol:
            cut |= _worst(estimate.error, tol / 2 * estimate.norm)
        if gap > allowed_gap:
            cut |= _worst(estimate.gap.abs(), allowed_gap / 2)
        intervals = list(pairwise(self.edges))
        middles = [sum(intervals[index]) / 2 for index in cut]
        self.edges = tuple(sorted({*self.edges, *middles}))


def _nodes(start: float, stop: float) -> list[float]:
    """Lobatto's nodes in an interval; its edges and its middle are what its halves will have."""
    inner = [start + (stop - start) * node for node in _LOBATTO[1:-1]]
    return [start, *inner, stop]


def _worst(amounts: Float[Tensor, " interval"], allowed: float) -> set[int]:
    """The largest amounts, such that the rest add up to no more than allowed."""
    rest = float(amounts.sum())
    worst = set[int]()
    for index in amounts.argsort(descending=True).tolist():
        if rest <= allowed:
            break
        worst.add(index)
        rest -= float(amounts[index])
    return worst


def _weighted(weights: np.ndarray, rows: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=rows.dtype) @ rows


def gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the n-point Gauss-Legendre rule on [0, 1]."""
    nodes, weights = legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2
