"""When a sustain measurement looks at its evidence, and whether its budget can hold a verdict at all.

Looking several times would break a 95 % promise, so every look gets a share of the 5 % that may go wrong: the
sum over all looks stays within it (alpha spending: Lan and DeMets, "Discrete sequential boundaries for
clinical trials", Biometrika 70 (1983)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_capacity.slo import SLO
from pytest_capacity.stats.intervals import smallest_sample

ALPHA = 0.05
"""The chance of a wrong PASS, and that of a wrong FAIL, that a verdict may carry."""

WARMUP_MIN_S = 2.0
"""A warm-up is at least four blocks of half a second: two to compare with two."""

_EXTENSION_ALPHA = 0.01
_EXTENSION_LOOKS = 3
_MOST_LOOKS = 8
# Each look waits for a third more evidence: looking more often spends more than it saves.
_LOOK_RATIO = 1.3


@dataclass(frozen=True)
class Look:
    """A moment, in seconds of evidence, at which a verdict may fall, and the error it may spend."""

    at_s: float
    alpha: float


@dataclass(frozen=True)
class SustainPlan:
    """The looks within the budget, those of its one extension, and what they cost.

    ``min_s`` and ``max_s`` are seconds of load with warm-up, without the extension, which at most doubles
    them.
    """

    qps: float
    looks: tuple[Look, ...]
    extension: tuple[Look, ...]
    min_s: float
    max_s: float

    @property
    def min_requests(self) -> int:
        """Requests sent when the first look decides."""
        return round(self.qps * self.min_s)

    @property
    def max_requests(self) -> int:
        """Requests sent when the budget runs out, without the extension."""
        return round(self.qps * self.max_s)


def plan_sustain(slo: SLO, qps: float, *, min_s: float, budget_s: float) -> SustainPlan:
    """Lay the looks, as many as the budget leaves room for.

    Raises ValueError, with what to do, for a rate or a time out of range and for a budget in which not even
    spotless replies could pass every bound.
    """
    for name, value in (("qps", qps), ("min_s", min_s), ("budget_s", budget_s)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be positive")
    horizon_s = budget_s - WARMUP_MIN_S
    strictest = min(slo.bounds, key=lambda bound: bound.allowed_share)
    for count in range(_MOST_LOOKS, 0, -1):
        alpha = (ALPHA - _EXTENSION_ALPHA) / count
        first_s = max(min_s, smallest_sample(strictest.allowed_share, alpha) / qps)
        if first_s * _LOOK_RATIO ** (count - 1) <= horizon_s:
            looks = tuple(Look(first_s * _LOOK_RATIO**i, alpha) for i in range(count))
            looks = (*looks[:-1], Look(horizon_s, alpha))
            extension = tuple(
                Look(horizon_s + budget_s * (i + 1) / _EXTENSION_LOOKS, _EXTENSION_ALPHA / _EXTENSION_LOOKS)
                for i in range(_EXTENSION_LOOKS)
            )
            return SustainPlan(qps, looks, extension, WARMUP_MIN_S + looks[0].at_s, budget_s)
    # A budget with room for one look only spends everything on it; an extension would need a share of it.
    needed = smallest_sample(strictest.allowed_share, ALPHA)
    needed_s = max(min_s, needed / qps)
    if needed_s <= horizon_s:
        return SustainPlan(qps, (Look(horizon_s, ALPHA),), (), budget_s, budget_s)
    reason = f"{strictest.label} at {qps:g}/s needs {needed} requests = {math.ceil(needed / qps)} s"
    if needed / qps < min_s:
        reason = f"a verdict needs at least min_s={min_s:g} s"
    # Half as much again: mild bursts make requests worth a little less than independent ones.
    enough_s = math.ceil(1.5 * needed_s + WARMUP_MIN_S)
    raise ValueError(
        f"no verdict can be reached: {reason}, and {WARMUP_MIN_S:g} s of warm-up; budget_s is {budget_s:g}. "
        f"Use budget_s={enough_s} or more"
    )
