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

    From `low` the factor is doubled until the damage is beyond the target: so the first crossing
    is found, also where a small factor does a little good at first. Then the bracket is narrowed,
    to where a power of the factor's logarithm, which damage is like, would cross; or to its middle
    (by ratio), where two steps have not halved it. A target that even `high` does not reach, or
    that `low` is beyond already, is not reached: the result is the factor that came nearest.
    Factor 1 does no damage and is not measured.

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
    widths: list[float] = []
    weak, strong, lam = low, math.inf, low
    n_left = max_steps
    while n_left:
        tried[lam] = 0.0 if lam == 1 else damage(lam)  # 1 is the identity
        n_left -= lam != 1
        if not math.isfinite(tried[lam]):
            raise ValueError(f"the damage at factor {lam:g} is {tried[lam]}: give a smaller high.")
        if tried[lam] > target:
            weak = lam
        else:
            strong = lam
        if abs(tried[lam] - target) <= allowed or strong <= low or weak >= high:
            break
        if math.isinf(strong):
            lam = min(2 * weak, high)
            continue
        widths.append(math.log(strong / weak))
        if len(widths) > 2 and widths[-1] > widths[-3] / 2:
            lam = math.sqrt(weak * strong)
        else:
            lam = _crossing(tried, weak, strong, target)
    return tried


def _crossing(tried: dict[float, float], weak: float, strong: float, target: float) -> float:
    """Where damage that is a power of the factor's logarithm between two factors is the target."""
    damages = tried[weak], tried[strong], target
    if weak > 1 and tried[weak] < 0:
        ends = [math.log(math.log(lam)) for lam in (weak, strong)]
        powers = [math.log(-value) for value in damages]
        return math.exp(math.exp(_line(*ends, *powers)))
    # At 1, or where there is a little good, the power is not known: a square.
    roots = [math.copysign(math.sqrt(abs(value)), -value) for value in damages]
    return math.exp(_line(math.log(weak), math.log(strong), *roots))


def _line(x: float, other_x: float, y: float, other_y: float, target: float) -> float:
    """Where the line through two points has the height `target`."""
    return x + (other_x - x) * (target - y) / (other_y - y)
