"""The factor at which a control does as much damage as a method, for a fair comparison.

A stronger perturbation moves every score more, so a control may need another factor to do the same
damage to the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MAX_STEPS = 12
"""Most factors that are tried."""


@dataclass(frozen=True)
class Matched:
    """The factor at which a control's damage is the target, or nearest to it."""

    lam: float
    """The factor."""
    damage: float
    """Its damage at that factor."""
    reached: bool
    """Whether the damage is the target, within the tolerance."""


def matched_factor(
    damage: Callable[[float], float],
    target: float,
    *,
    low: float = 1.0,
    high: float = 16.0,
    tol: float = 0.02,
    max_steps: int = MAX_STEPS,
) -> Matched:
    """The factor at which a control does as much damage as a method, for a fair comparison.

    From `low` the factor is doubled until the damage is beyond the target, which brackets the first
    crossing. Then the bracket is narrowed by interpolation: damage is modelled as a power of the
    factor's logarithm. If two steps have not halved the bracket, its middle (by ratio) is tried. If
    `high` does not reach the target, or `low` is beyond it already, the result is the factor that
    came nearest. Factor 1 does no damage and is not measured.

    Args:
        damage: Factor -> change of the mean log-probability a token: negative, and falling for
            large factors.
        target: The damage to reach.
        low: The smallest factor, above 0.
        high: The largest factor.
        tol: Allowed distance from the target, as a share of it.
        max_steps: Most calls of `damage`.

    Raises:
        ValueError: If an argument is not allowed, or the damage is not finite.
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
    """Factor -> damage, for all factors that were tried."""
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
    """The factor between two others at which the modelled damage is the target."""
    damages = tried[weak], tried[strong], target
    if weak > 1 and tried[weak] < 0:
        ends = [math.log(math.log(lam)) for lam in (weak, strong)]
        powers = [math.log(-value) for value in damages]
        return math.exp(math.exp(_line(*ends, *powers)))
    # At factor 1, or where the change is positive, the power is unknown: take 2.
    roots = [math.copysign(math.sqrt(abs(value)), -value) for value in damages]
    return math.exp(_line(math.log(weak), math.log(strong), *roots))


def _line(x: float, other_x: float, y: float, other_y: float, target: float) -> float:
    """The place at which the line through two points has the height `target`."""
    return x + (other_x - x) * (target - y) / (other_y - y)
