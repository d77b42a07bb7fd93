"""Quadrature on [0, 1]: the rules that integrate gradients along the path from 0 to h.

``riemann`` is what the authors' release does. The adaptive rule (docs/attribution.md) spends nodes
only where the integrand is steep, which is nearly always in the first layer:

1. Lay 9 Kronrod nodes into every interval, which is [0, 1]; ninths of it in the first layer.
2. Integrate by Kronrod's weights, and by Gauss's on 4 of the nodes: their distance is the error.
3. In a layer whose error or completeness gap is too large, cut the worst intervals into three,
   unless the last cut has shown that rounding is all that is left.
4. Repeat with these, in all layers at once, until none is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from torch import Tensor

from kb_lens.attribution.path_gradients import Path

GAUSS_NODES = 4
"""The adaptive rule's Gauss nodes an interval; Kronrod's extension of them has 9."""
CUTS = 3
"""Into how many intervals the adaptive rule cuts one whose error is too large."""
FIRST_LAYER_CUTS = 9
"""With how many the first layer begins: little stands beside its output in the residual stream, so
the norms after it turn a small gamma into a large change, and it is nearly always steep."""
_ORDER = 1.5
"""The finer rule's relative error is about the two rules' relative distance to this power."""
MAX_NODES = 600
"""A layer that has spent as many is left as it is, and its error is reported."""
_ROUNDING = 4
"""Units of rounding up to which the two rules' relative distance may be rounding alone; it is 2 in
a model of 30 layers in bfloat16. What is larger is refined, whether it falls or not."""
_GAP_ROUNDING, _MOST_GAP_ROUNDING = 6, 64
"""The same for the gap relative to the objective: it is 2 to 7 there, and up to 10 in small random
models: below the first it is taken for rounding, up to the second if no cut halves it."""


@dataclass(frozen=True)
class Integral:
    """The objective's mean gradient on the path from 0 to h, and what is known of its error."""

    gradients: Float[Tensor, "layer d_mlp"]
    """The integral over gamma of the gradient at gamma * h."""
    at_zero: Float[Tensor, " layer"]
    """The objective with the layer's activations at the baseline, 0."""
    error: Float[Tensor, " layer"]
    """Estimated relative L2 error of gradients * h; NaN for a rule that makes no estimate."""
    nodes: Float[Tensor, " layer"]
    """How many nodes were spent on the layer."""


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


def adaptive(path: Path, tol: float, eps: float = torch.finfo(torch.float32).eps) -> Integral:
    """Integrate every layer until its estimated error is below `tol`.

    Gauss-Kronrod (4, 9) on [0, 1] in every layer. The relative distance of the two rules is about
    the error of the coarser one; the finer one's is taken to be its power 1.5, as QUADPACK does
    (Piessens et al. 1983, without its safety factor). Where that or the completeness gap is too
    large, the intervals that carry it are cut into three, in all layers at once. A layer stops as
    well where nothing that is too large is above rounding and was halved by the last cut.

    Args:
        path: Values and gradients for one prompt.
        tol: Bound on the relative L2 error of each layer's attributions, and on its completeness
            gap as a share of the largest change of the objective over the layers.
        eps: The unit of rounding of the type that the model runs in.
    """
    layers = [_Layer(h, [(0.0, 1.0)]) for h in path.activations]
    layers[0].todo = _cut(0, 1, FIRST_LAYER_CUTS)
    at_zero = torch.empty(0)
    while any(layer.todo for layer in layers):
        baseline = [0.0] if not len(at_zero) else []  # the first pass has a row at gamma = 0
        nodes = [np.append(baseline, layer.nodes()) for layer in layers]
        values, gradients = path([torch.tensor(step, dtype=torch.float32) for step in nodes])
        if baseline:
            at_zero = torch.stack([value[0] for value in values])
        change = path.value - at_zero
        unit = eps * max(abs(path.value), float(at_zero.abs().max()))
        allowed_gap = max(tol * float(change.abs().max()), _GAP_ROUNDING * unit)
        rounding = _ROUNDING * eps, _MOST_GAP_ROUNDING * unit
        for layer, rows, layer_change in zip(layers, gradients, change.tolist(), strict=True):
            layer.add(rows[len(baseline) :])
            layer.plan(tol, layer_change, allowed_gap, *rounding)
    return Integral(
        gradients=torch.stack([layer.integral() for layer in layers]),
        at_zero=at_zero,
        error=torch.tensor([layer.relative_error() for layer in layers]),
        nodes=torch.tensor([float(layer.spent) for layer in layers]),
    )


@dataclass
class _Interval:
    """An interval in [0, 1] with its Kronrod integral."""

    start: float
    stop: float
    integral: Tensor
    distance: float
    """L2 distance of h * gradient by the two rules."""


@dataclass
class _Layer:
    """The adaptive rule's state in one layer."""

    h: Tensor
    todo: list[tuple[float, float]]
    done: list[_Interval] = field(default_factory=list)
    spent: int = 0
    before: tuple[float, float] = (math.inf, math.inf)
    """The intervals' summed distance and the completeness gap, as they were before the last cut."""

    def nodes(self) -> np.ndarray:
        """Step 1: the gammas of the intervals to do."""
        unit, _, _ = kronrod(GAUSS_NODES)
        return np.concatenate([np.empty(0), *(a + (b - a) * unit for a, b in self.todo)])

    def add(self, gradients: Tensor) -> None:
        """Step 2: take in the gradients at `nodes`."""
        unit, fine, coarse = kronrod(GAUSS_NODES)
        rows_of = gradients.view(len(self.todo), len(unit), gradients.shape[1])
        for (start, stop), rows in zip(self.todo, rows_of, strict=True):
            integral = (stop - start) * _weighted(fine, rows)
            coarser = (stop - start) * _weighted(coarse, rows)
            distance = float((self.h * (integral - coarser)).norm())
            self.done.append(_Interval(start, stop, integral, distance))
        self.spent += len(gradients)
        self.todo = []

    def integral(self) -> Tensor:
        return torch.stack([interval.integral for interval in self.done]).sum(0)

    def relative_error(self) -> float:
        """Estimated error over the norm of the layer's attributions."""
        norm = float((self.h * self.integral()).norm())
        distance = sum(interval.distance for interval in self.done) / norm if norm else 0.0
        return min(distance, distance**_ORDER)

    def plan(
        self, tol: float, change: float, allowed_gap: float, rounding: float, gap_rounding: float
    ) -> None:
        """Step 3: cut the worst intervals until the others' error is below half the tolerance."""
        attribution = self.h * self.integral()
        norm = float(attribution.norm())
        allowed = tol ** (1 / _ORDER) * norm
        self.done.sort(key=lambda interval: interval.distance)
        distance = sum(interval.distance for interval in self.done)
        gap = abs(float(attribution.sum()) - change)
        before, self.before = self.before, (distance, gap)
        # A cut that was made for the gap alone and did not halve it shows that it is rounding.
        resolved = before[0] <= max(allowed, rounding * norm)
        finished = (
            distance <= allowed or before[0] / 2 < distance <= rounding * norm,
            gap <= allowed_gap or (resolved and before[1] / 2 < gap <= gap_rounding),
        )
        if all(finished) or self.spent >= MAX_NODES:
            return
        # At least one, also where the gap alone is too large.
        while self.done and (not self.todo or distance > allowed / 2):
            worst = self.done.pop()
            distance -= worst.distance
            self.todo += _cut(worst.start, worst.stop, CUTS)


def _cut(start: float, stop: float, n: int) -> list[tuple[float, float]]:
    return list(pairwise(np.linspace(start, stop, n + 1).tolist()))


def _weighted(weights: np.ndarray, rows: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=rows.dtype) @ rows


@lru_cache
def gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the n-point Gauss-Legendre rule on [0, 1]."""
    nodes, weights = legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


@lru_cache
def kronrod(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kronrod's extension of the n-point Gauss rule on [0, 1].

    The added nodes are the zeros of the Stieltjes polynomial E of degree n + 1, which is
    orthogonal to every lower power under the weight P_n; solved here in the Legendre basis.

    Returns:
        2 n + 1 nodes, their Kronrod weights, and the Gauss weights (0 at the added nodes).
    """
    x, w = legendre.leggauss(2 * n + 2)
    basis = legendre.legvander(x, n + 1)
    weighted = basis * (w * legendre.legval(x, [0] * n + [1]))[:, None]
    matrix = weighted[:, : n + 1].T @ basis
    # E's leading coefficient is 1; the others solve the orthogonality conditions.
    lower = np.linalg.lstsq(matrix[:, : n + 1], -matrix[:, n + 1], rcond=None)[0]
    added = legendre.legroots(np.append(lower, 1.0)).real
    nodes = np.sort(np.concatenate([legendre.leggauss(n)[0], added]))
    moments = np.append(2.0, np.zeros(2 * n))  # of the Legendre polynomials on [-1, 1]
    weights = np.linalg.solve(legendre.legvander(nodes, 2 * n).T, moments)
    coarse = np.zeros(2 * n + 1)
    coarse[1::2] = legendre.leggauss(n)[1]
    return (nodes + 1) / 2, weights / 2, coarse / 2
