"""The factor at which a control does as much damage as a method, for a fair comparison.

A stronger perturbation moves every score more, so a control may need another factor to do the same
damage to the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Matched:
    """The factor at which a control does the damage that it was to do, or comes nearest to it."""

    lam: float
    """The factor."""
    damage: float
    """What it does there."""
    reached: bool
    """Whether that is the target, up to the tolerance."""


def matched_factor(
    damage: Callable[[float], float],
    target: float,
    *,
    low: float = 1.0,
    high: float = 16.0,
    tol: float = 0.02,
    max_steps: int = 12,
) -> Matched:
    """The factor at which a control does as much damage as a method, for a fair comparison.

    From `low` the factor is doubled until the damage is beyond the target, then the bracket is
    bisected (by ratio): so the first crossing is found, also where a small factor does a little
    good at first. A target that even `high` does not reach, or that `low` is beyond already, is
    not reached: the result is the factor that came nearest.

    Args:
        damage: Factor -> change of the mean log-probability a token: negative, and falling for
            large factors.
        target: What it is to be.
        low: The smallest factor, above 0.
        high: The largest factor.
        tol: How near to the target is near enough, as a share of it.
        max_steps: Calls of `damage` at most.

    Raises:
        ValueError: For bad arguments, or a damage that is not finite.
    """
    if not (0 < low < high < math.inf and tol > 0 and max_steps >= 1 and math.isfinite(target)):
        raise ValueError(
            f"got target {target}, low {low}, high {high}, tol {tol}, max_steps {max_steps}: "
            "needed are a finite target, 0 < low < high, tol above 0 and at least 1 step."
        )
    allowed = tol * abs(target)
    tried = _bracketed(damage, target, allowed, low, high, max_steps)
    nearest = min(tried, key=lambda lam: abs(tried[lam] - target))
    reached = abs(tried[nearest] - target) <= allowed
    return Matched(nearest, tried[nearest], reached)


def _bracketed(
    damage: Callable[[float], float],
    target: float,
    allowed: float,
    low: float,
    high: float,
    max_steps: int,
) -> dict[float, float]:
    """Factor -> damage, of the factors that were tried until one was near enough."""
    tried: dict[float, float] = {}
    weak, strong, lam = low, math.inf, low
    for _ in range(max_steps):
        tried[lam] = damage(lam)
        if not math.isfinite(tried[lam]):
            raise ValueError(f"the damage at factor {lam:g} is {tried[lam]}: give a smaller high.")
        if tried[lam] > target:
            weak = lam
        else:
            strong = lam
        if abs(tried[lam] - target) <= allowed or strong <= low or weak >= high:
            break
        # the geometric middle: what a factor does goes by its ratio
        lam = min(2 * weak, high) if math.isinf(strong) else math.sqrt(weak * strong)
    return tried
