"""A linear probe: logistic regression on activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier of activations."""

    weight: Float[Tensor, " d_model"]
    """The direction in which the class gets likelier, float32."""
    bias: float
    """The bias: weight times activation plus bias is above 0 for the class."""

    def detects(self, activations: Float[Tensor, "*pos d_model"]) -> Bool[Tensor, "*pos"]:
        """Which activations, in the weight's type, it assigns to the class."""
        return activations @ self.weight.to(activations.device) + self.bias > 0

    def accuracy(
        self, activations: Float[Tensor, "row d_model"], labels: Bool[Tensor, " row"]
    ) -> float:
        """The share of rows that it gets right."""
        return float((self.detects(activations) == labels).float().mean())


def fit_probe(
    activations: Float[Tensor, "row d_model"], labels: Bool[Tensor, " row"], penalty: float = 1.0
) -> LinearProbe:
    """Logistic regression with an L2 penalty, started from 0, so that it is reproducible.

    It minimizes the sum of the rows' log loss plus penalty / 2 times the squared norm of the
    weight, in float64, by L-BFGS. Activations are centered and divided by their root mean square,
    so that a penalty means the same in every layer; the returned weight and bias are for the
    original activations.

    Args:
        activations: The activations to classify.
        labels: True for the class.
        penalty: Strength of the L2 penalty, above 0: separable data have no minimum without it.

    Raises:
        ValueError: If one class has no rows, or the penalty is not above 0.
    """
    if not 0 < penalty < float("inf"):
        raise ValueError(f"penalty is {penalty!r}: allowed are finite numbers above 0.")
    if bool(labels.all()) or not bool(labels.any()):
        raise ValueError("a probe needs rows of both classes, but all rows are of one.")
    raw = activations.double().numpy()
    mean = raw.mean(0)
    scale = float(np.sqrt(np.mean((raw - mean) ** 2))) or 1.0
    rows = (raw - mean) / scale
    targets = labels.numpy().astype(float)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = parameters[:-1], parameters[-1]
        margins = rows @ weight + bias
        residuals = expit(margins) - targets
        value = np.logaddexp(0, margins).sum() - targets @ margins + penalty / 2 * weight @ weight
        gradient = np.append(rows.T @ residuals + penalty * weight, residuals.sum())
        return float(value), gradient

    start = np.zeros(rows.shape[1] + 1)
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    weight = solution[:-1] / scale
    return LinearProbe(torch.from_numpy(weight).float(), float(solution[-1] - weight @ mean))
