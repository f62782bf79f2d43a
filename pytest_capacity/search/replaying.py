"""Judging a piece of recorded traffic as a whole: does the SLO hold over it? An ask/tell controller, pure.

Recorded traffic is no steady state: whether its peaks are served is the question. So nothing is decided
before its end, but a breach that even a spotless rest could not undo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.evidence import BoundEvidence
from pytest_capacity.search.operations import Part, SideBySide, strictest_share
from pytest_capacity.search.plan import ALPHA, WARMUP_MIN_S, Look
from pytest_capacity.slo import Verdict
from pytest_capacity.stats.intervals import share_limits, smallest_sample

WARMUP_SHARE, WARMUP_MAX_S = 0.1, 10.0
"""Of the piece that is judged, to which the warm-up comes in addition."""

GLANCE_S, GLANCE_RATIO = 5.0, 1.25
"""When it is looked whether the rest can still change anything, in seconds of evidence."""
BURST = 1.5
"""The rest may bring so many times the requests that the mean rate promises."""


class Replay(SideBySide):
    """Decide whether the SLO holds over ``duration_s`` of traffic with a mean rate of ``qps``.

    ``variance`` is that of the number of requests, over its mean, where some are left out by chance.

    Raises ValueError where not even spotless replies to that many requests could pass any part's bounds.
    """

    def __init__(
        self, parts: Sequence[Part], qps: float, duration_s: float, *, variance: float = 0.0
    ) -> None:
        check_replay(parts, qps, duration_s, variance=variance)
        self.duration_s = duration_s
        self._next_glance_s = GLANCE_S
        super().__init__(
            parts, qps, [Look(duration_s, ALPHA)], warmup_s=warmup_s(duration_s), measure_s=duration_s
        )

    def _is_hopeless(self, evidence_s: float) -> bool:
        """Whether a part has so many bad requests that a spotless rest leaves the bound broken."""
        if evidence_s < self._next_glance_s:
            return False
        self._next_glance_s = GLANCE_RATIO * evidence_s
        bounds = self._judge(ALPHA)
        for judged in bounds:
            share = next(part.share for part in self.parts if part.name == judged.bound.operation)
            rest = BURST * self.qps * share * max(0.0, self.duration_s - evidence_s)
            low, _ = share_limits(judged.bad, judged.total + rest, judged.effect, ALPHA / len(bounds))
            if low > judged.bound.allowed_share and judged.verdict is Verdict.FAIL:
                self._bounds = bounds
                return True
        return False

    def _more_of(self, total: int, needed: int) -> str:
        if not total:
            return "a longer recording"
        seconds = 1.2 * needed / total * self.duration_s
        return f"duration_s={seconds:.0f} (the recording loops), or a longer recording"

    def _open(self, judged: Sequence[BoundEvidence]) -> Doubt:
        longer = (
            f"duration_s={2 * self.duration_s:.0f} (the recording loops), or a rate further from the limit"
        )
        return replace(super()._open(judged), remedy=longer)


def warmup_s(duration_s: float) -> float:
    """How long the warm-up before a replay lasts at most."""
    return min(WARMUP_MAX_S, max(WARMUP_MIN_S, WARMUP_SHARE * duration_s))


def check_replay(parts: Sequence[Part], qps: float, duration_s: float, *, variance: float = 0.0) -> None:
    """Raises ValueError, with what to do, where so much traffic can decide about no part.

    Where the number of requests has a ``variance`` (over its mean), it has to be enough even if it falls
    short by two deviations.
    """
    needed = {part: _enough(_least(part), variance) / part.share for part in parts if part.share}
    part, enough = min(needed.items(), key=lambda pair: pair[1])
    requests = qps * duration_s
    if enough > requests:
        strictest = min(part.slo.bounds, key=lambda bound: bound.allowed_share)
        short = 2 * math.sqrt(variance * requests)
        by_chance = f", give or take {short:.0f} as rows are left out by chance," if variance else ","
        least = _least(part) / part.share
        raise ValueError(
            f"no verdict can be reached: {duration_s:.4g} s at {qps:.4g}/s are {requests:.0f} requests"
            f"{by_chance} and {strictest.label} needs {least:.0f}. Use "
            f"duration_s={math.ceil(max(1.2 * least, enough) / qps)} or more (the recording loops), or a "
            "longer recording"
        )


def _least(part: Part) -> int:
    """So few of a part's requests can pass its strictest bound."""
    return smallest_sample(strictest_share(part), ALPHA)


def _enough(least: int, variance: float) -> float:
    """The mean number n that is the least even short of two deviations: n - 2 sqrt(n variance) = least."""
    return (math.sqrt(variance) + math.sqrt(variance + least)) ** 2
