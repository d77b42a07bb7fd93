"""Quadrature on [0, 1]: the rules that integrate gradients along the path from 0 to h.

Second step of the method (METHOD: Attribution). ``riemann`` is what the authors' release does;
the adaptive rule estimates its error and spends nodes only where the integrand is steep, which is
nearly always in the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial import legendre
from torch import Tensor

from kb_lens.path_gradients import Path

GAUSS_NODES = 5
"""The adaptive rule's Gauss nodes an interval; Kronrod's extension of them has 11."""
PARTS = 4
"""Into how many parts the adaptive rule cuts an interval whose error is too large."""
MAX_ROUNDS = 8
"""The adaptive rule's passes; then it stops and reports the error that it has reached."""


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
        nodes, weights = np.linspace(0, 1, n_steps), np.full(n_steps, 1 / n_steps)
    else:
        nodes, weights = gauss(n_steps)
    n_layers = len(path.activations)
    values, rows = path([_with_zero(nodes)] * n_layers)
    return Integral(
        gradients=torch.stack([_weighted(weights, gradients[:-1]) for gradients in rows]),
        at_zero=torch.stack([value[-1] for value in values]),
        error=torch.full((n_layers,), torch.nan),
        nodes=torch.full((n_layers,), float(n_steps)),
    )


def adaptive(path: Path, tol: float) -> Integral:
    """Integrate every layer until its estimated error is below `tol`.

    Gauss-Kronrod (5, 11) on [0, 1] in every layer. The distance of the two rules is taken as the
    error; it is that of the coarser one, so the estimate is cautious. Where it or the completeness
    gap is too large, the intervals that carry it are cut into four, in all layers at once.

    Args:
        path: Values and gradients for one prompt.
        tol: Bound on the relative L2 error of each layer's attributions, and on its completeness
            gap as a share of the largest change of the objective over the layers.
    """
    n_layers = len(path.activations)
    layers = [_Layer(h) for h in path.activations]
    at_zero = torch.zeros(n_layers)
    for turn in range(MAX_ROUNDS):
        nodes = [_with_zero(layer.nodes()) if turn == 0 else layer.nodes() for layer in layers]
        values, rows = path([torch.as_tensor(step, dtype=torch.float32) for step in nodes])
        if turn == 0:
            at_zero = torch.stack([value[-1] for value in values])
            rows = [gradients[:-1] for gradients in rows]
        change = path.value - at_zero
        for layer, gradients in zip(layers, rows, strict=True):
            layer.add(gradients)
        if turn == MAX_ROUNDS - 1:
            break
        for layer, wanted in zip(layers, change.tolist(), strict=True):
            layer.plan(tol, wanted, tol * float(change.abs().max()))
        if not any(layer.todo for layer in layers):
            break
    return Integral(
        gradients=torch.stack([layer.integral() for layer in layers]),
        at_zero=at_zero,
        error=torch.tensor([layer.relative_error() for layer in layers]),
        nodes=torch.tensor([float(layer.spent) for layer in layers]),
    )


@dataclass
class _Interval:
    """A part of [0, 1] with its Kronrod integral and the error estimated for h * gradient."""

    start: float
    stop: float
    integral: Tensor
    error: float


@dataclass
class _Layer:
    """The adaptive rule's state in one layer."""

    h: Tensor
    todo: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 1.0)])
    done: list[_Interval] = field(default_factory=list)
    spent: int = 0

    def nodes(self) -> np.ndarray:
        unit, _, _ = kronrod(GAUSS_NODES)
        return np.concatenate([np.empty(0), *(a + (b - a) * unit for a, b in self.todo)])

    def add(self, gradients: Tensor) -> None:
        """Take in the gradients at `nodes`."""
        unit, weights, coarse = kronrod(GAUSS_NODES)
        rows_of = gradients.view(len(self.todo), len(unit), gradients.shape[1])
        for (a, b), rows in zip(self.todo, rows_of, strict=True):
            fine, rough = ((b - a) * _weighted(w, rows) for w in (weights, coarse))
            self.done.append(_Interval(a, b, fine, float((self.h * (fine - rough)).norm())))
        self.spent += len(gradients)
        self.todo = []

    def integral(self) -> Tensor:
        return torch.stack([interval.integral for interval in self.done]).sum(0)

    def relative_error(self) -> float:
        norm = float((self.h * self.integral()).norm())
        return sum(interval.error for interval in self.done) / norm if norm else 0.0

    def plan(self, tol: float, change: float, allowed_gap: float) -> None:
        """Cut the worst intervals until the error of the others is below half the tolerance."""
        attribution = self.h * self.integral()
        allowed = tol * float(attribution.norm())
        self.done.sort(key=lambda interval: interval.error)
        error = sum(interval.error for interval in self.done)
        gap = abs(float(attribution.sum()) - change)
        if error <= allowed and gap <= allowed_gap:
            return
        while self.done and (not self.todo or error > allowed / 2):
            worst = self.done.pop()
            error -= worst.error
            edges = np.linspace(worst.start, worst.stop, PARTS + 1)
            self.todo += pairwise(edges.tolist())


def _with_zero(nodes: np.ndarray) -> Tensor:
    """The nodes and, last, the baseline itself, whose value completeness needs."""
    return torch.tensor(np.append(nodes, 0.0), dtype=torch.float32)


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
    lower = np.linalg.lstsq(matrix[:, : n + 1], -matrix[:, n + 1], rcond=None)[0]
    added = legendre.legroots(np.append(lower, 1.0)).real
    nodes = np.sort(np.concatenate([legendre.leggauss(n)[0], added]))
    moments = np.append(2.0, np.zeros(2 * n))
    weights = np.linalg.solve(legendre.legvander(nodes, 2 * n).T, moments)
    coarse = np.zeros(2 * n + 1)
    coarse[1::2] = legendre.leggauss(n)[1]
    return (nodes + 1) / 2, weights / 2, coarse / 2
