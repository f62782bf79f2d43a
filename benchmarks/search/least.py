"""What nobody can beat in a sustain run: one who knows all of the server, but must show the verdict. Pure.

The share of bad requests at ``ratio`` times the capacity follows from the condition number. Late requests are
taken to be independent, the best that can be, and to be judged once, at 95 % each way. A pass needs the least
evidence that the runs ask for, after the warm-up; it cannot begin before a cold server serves the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from benchmarks.search.population import ALLOWED
from benchmarks.search.runs import SUSTAIN_BUDGET_S, SUSTAIN_RATIOS
from benchmarks.search.truths import Known
from pytest_capacity.search.knowledge import COLD_EXPONENT
from pytest_capacity.search.plan import ALPHA, WARMUP_MIN_S
from pytest_capacity.search.sustain import FIRST_GLANCE_S

LEAST_EVIDENCE_S = 10.0
MOST_S = 2 * SUSTAIN_BUDGET_S
TICK_S = 0.25


@dataclass(frozen=True)
class Least:
    """The least there can be of undecided runs, as a share, and of seconds of load, on average.

    ``unseen`` is the share of runs above the capacity in which a server's spikes do not show until then.
    """

    undecided: float
    mean_s: float
    unseen: float


def least_of(servers: Iterable[Known], ratios: Sequence[float] = SUSTAIN_RATIOS) -> Least | None:
    """Over all runs at these rates; None without any server."""
    runs = [(known, ratio) for known in servers for ratio in ratios]
    if not runs:
        return None
    count = len(runs)
    return Least(
        sum(undecided(known, ratio) for known, ratio in runs) / count,
        sum(least_s(known, ratio) for known, ratio in runs) / count,
        sum(unseen(known, ratio) for known, ratio in runs) / count,
    )


def bad_share(known: Known, ratio: float) -> float:
    """The long-run share of bad requests at so many times the capacity."""
    exponent = math.log(ratio) / known.condition_number
    return ALLOWED * math.exp(min(exponent, -math.log(ALLOWED)))


def undecided(known: Known, ratio: float) -> float:
    """The chance that all requests of the budget, extension included, leave the verdict open."""
    share = bad_share(known, ratio)
    count = (MOST_S - WARMUP_MIN_S) * ratio * known.capacity_qps
    away = abs(share - ALLOWED) * math.sqrt(count) - _quantile() * _deviation(ALLOWED)
    return 1 - NormalDist().cdf(away / max(_deviation(share), 1e-9))


def least_s(known: Known, ratio: float) -> float:
    """The least seconds of load until the verdict can be shown, no more than there are."""
    share = bad_share(known, ratio)
    if share == ALLOWED:
        return MOST_S
    count = (_quantile() * (_deviation(ALLOWED) + _deviation(share)) / (share - ALLOWED)) ** 2
    evidence_s = count / (ratio * known.capacity_qps)
    if ratio > 1:
        return min(MOST_S, WARMUP_MIN_S + max(evidence_s, FIRST_GLANCE_S))
    begin_s = max(WARMUP_MIN_S, serves_from_s(known, ratio))
    return min(MOST_S, begin_s + max(evidence_s, LEAST_EVIDENCE_S))


def serves_from_s(known: Known, ratio: float) -> float:
    """When a cold server that is sent no more than it can do keeps the SLO at this rate."""
    cold = known.spec.cold
    if cold is None:
        return 0.0
    rate, done, now_s = ratio * known.capacity_qps, 0.0, cold.start_s
    while now_s < MOST_S:
        slowdown = 1 + (cold.factor - 1) * math.exp(-done / cold.requests)
        capacity_qps = known.capacity_qps / slowdown**COLD_EXPONENT
        if capacity_qps >= rate:
            break
        done, now_s = done + capacity_qps * TICK_S, now_s + TICK_S
    return now_s


def unseen(known: Known, ratio: float) -> float:
    """The chance that a server above its capacity shows none of its spikes until a pass can fall."""
    spikes = known.spec.spikes
    if spikes is None or ratio <= 1:
        return 0.0
    return math.exp(-spikes.rate_hz * (WARMUP_MIN_S + LEAST_EVIDENCE_S))


def _quantile() -> float:
    return NormalDist().inv_cdf(1 - ALPHA)


def _deviation(share: float) -> float:
    return math.sqrt(share * (1 - share))
