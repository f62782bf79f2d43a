"""What a simulated server really does: its long-run share of bad requests, and its capacity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_capacity.protocols import Floats
from pytest_capacity.simulate.arriving import Arriving
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.slo import SLO

CHUNK_S = 20.0
WARMUP_SHARE = 0.02


def warm(spec: ServerSpec) -> ServerSpec:
    """The server after its cold start."""
    return replace(spec, cold=None)


def bad_shares(
    spec: ServerSpec, slo: SLO, rate_qps: float, seconds: float, *, arrivals: Arriving, seed: int = 0
) -> tuple[Floats, int]:
    """The long-run share of bad requests under each bound, warm, and how many requests were counted.

    The first two percent of the time (a second at least) fill the queue and are left out.
    """
    server = SimulatedServer(warm(spec), seed)
    skip_s = max(1.0, WARMUP_SHARE * seconds)
    bad = np.zeros(len(slo.bounds))
    count = done = 0
    while server.now_s < skip_s + seconds:
        until_s = min(server.now_s + CHUNK_S, skip_s + seconds)
        server.offer(arrivals.draw(rate_qps, server.now_s, until_s).tolist(), until_s)
        if until_s >= skip_s + seconds:
            # The last to arrive are followed until each is answered or given up.
            server.offer((), until_s + spec.timeout_s)
        arrived, replied = np.array(server.arrived_s[done:]), np.array(server.replied_s[done:])
        unknown = np.isinf(replied)
        if unknown.any() and until_s < skip_s + seconds:
            # What a batch has not taken yet is counted with the next chunk, and what came after it too.
            arrived, replied = arrived[: unknown.argmax()], replied[: unknown.argmax()]
        done += len(arrived)
        kept = arrived >= skip_s
        latency = (replied - arrived)[kept]
        failed = np.isnan(latency) | (latency > spec.timeout_s)
        latency[failed] = math.inf
        for index, bound in enumerate(slo.bounds):
            late = failed if bound.limit_ms is None else latency > bound.limit_ms / 1000
            bad[index] += int(late.sum())
        count += len(latency)
    return bad / max(count, 1), count


@dataclass(frozen=True)
class Truth:
    """The top of the feasible interval of rates, and how much it moves with the allowed share.

    ``capacity_qps`` is None where no rate keeps the SLO, ``condition_number`` then too.
    """

    capacity_qps: float | None
    condition_number: float | None


REQUESTS = 3_000_000
REQUESTS_WITH_SPELLS = 8_000_000
"""Pauses, spikes and neighbours come seldom: more time must pass to meet enough of them."""
SCAN_REQUESTS = 100_000
SCAN_STEP = 0.9
LEAST_SHARE_OF_CEILING = 0.01
PRECISION = 0.0003
NEARBY = 0.02
MOST_EVALUATIONS = 20


def find_truth(
    spec: ServerSpec,
    slo: SLO,
    make_arrivals: Callable[[int], Arriving],
    *,
    seed: int = 0,
    effort: float = 1.0,
) -> Truth:
    """Find the capacity with common random numbers: every rate meets the same gaps, sizes and pauses.

    Rates are tried from above, where no slot is ever idle, down to the first that keeps the SLO; a secant
    search on the logarithms of rate and use of the allowed share then goes on with ``effort`` times as many
    requests as ``REQUESTS`` or ``REQUESTS_WITH_SPELLS`` says.
    """
    spells = spec.pause or spec.spikes or spec.neighbour
    requests = effort * (REQUESTS_WITH_SPELLS if spells else REQUESTS)

    def use(rate_qps: float, count: float) -> float:
        arrivals = make_arrivals(seed)
        shares, counted = bad_shares(spec, slo, rate_qps, count / rate_qps, arrivals=arrivals, seed=seed)
        # Half a request: the logarithm of none at all is of no use.
        least = 0.5 / counted
        return float(max(max(s, least) / b.allowed_share for s, b in zip(shares, slo.bounds, strict=True)))

    rate = ceiling_qps(spec)
    while use(rate, SCAN_REQUESTS) <= 1:
        rate /= SCAN_STEP
    top = rate
    while use(rate, SCAN_REQUESTS) > 1:
        rate *= SCAN_STEP
        if rate < LEAST_SHARE_OF_CEILING * top:
            return Truth(None, None)
    capacity = _crossing(lambda r: math.log(use(r, requests)), rate, rate / SCAN_STEP)
    above = math.log(use(capacity * (1 + NEARBY), requests))
    below = math.log(use(capacity * (1 - NEARBY), requests))
    width = math.log((1 + NEARBY) / (1 - NEARBY))
    return Truth(capacity, width / (above - below) if above > below else math.inf)


def ceiling_qps(spec: ServerSpec) -> float:
    """What the slots get through when full batches leave none of them idle."""
    mean_size = sum(spec.sizes) / len(spec.sizes) if spec.sizes is not None else 1.0
    full_batch_s = spec.cost_base_s + spec.cost_item_s * spec.batch_max * mean_size
    return float(spec.workers * spec.batch_max / full_batch_s)


def _crossing(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where ``excess`` of a rate turns positive: false position (Illinois form) on the rate's logarithm."""
    at_low, at_high = excess(low), excess(high)
    while at_low > 0:
        low, high, at_high = low * SCAN_STEP, low, at_low
        at_low = excess(low)
    while at_high <= 0:
        low, at_low, high = high, at_high, high / SCAN_STEP
        at_high = excess(high)
    x_low, x_high = math.log(low), math.log(high)
    side = 0
    for _ in range(MOST_EVALUATIONS):
        x = (x_low * at_high - x_high * at_low) / (at_high - at_low)
        x = min(max(x, x_low + 0.05 * (x_high - x_low)), x_high - 0.05 * (x_high - x_low))
        at_x = excess(math.exp(x))
        if at_x > 0:
            x_high, at_high, at_low = x, at_x, at_low / (2 if side == 1 else 1)
            side = 1
        else:
            x_low, at_low, at_high = x, at_x, at_high / (2 if side == -1 else 1)
            side = -1
        if x_high - x_low < PRECISION or abs(at_x) < 0.003:
            break
    return math.exp(x)
