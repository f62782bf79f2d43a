"""Warming a server up by work, not by seconds, and what is learnt on the way: where it saturates.

A closed loop keeps a bounded number of requests in flight, first one, then twice as many while that makes the
server faster and its latency stays near the limit: never more than a server within its SLO would hold a
moment later. It goes on until the throughput is flat . Where a closed loop could send faster
than allowed, an open loop at a gentle rate takes its place until the median latency is flat.

A server that gets faster with the work it has done (a cold start, a JIT, a cache) is followed to where its
cost is within some percent of its last: its cost for each request falls exponentially with the requests done,
and what is left to fall corrects the rates of the windows that follow.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Observation, Probe
from pytest_capacity.search.stage import Stage
from pytest_capacity.search.tail import Saturation
from pytest_capacity.search.windows import Window
from pytest_capacity.stats.steady import is_steady

GAIN = 1.06
"""Twice as many requests in flight must bring this much throughput, or the server has enough of them."""
MOST_LIMITS = 1.5
"""The closed loop's latency may reach this many latency limits, no more."""
STEP_S, STEP_REQUESTS = 0.5, 12
HOLD_S, MOST_HOLD_S, CHECK_S = 3.0, 7.0, 2.0
BUDGET_SHARE = 0.55
FLAT = 0.02
RECENT_S = 5.0
GOT_FASTER, MOST_TO_COME = 1.1, 1.3
SURE_ERROR = 0.04
UNSTEADY = 0.1
"""A throughput that still moves by this much at the end of the warm-up leaves nothing to search for."""
GREW = 1.3
MOST_FAILED = 0.05
FASTER = 1.04
BATCHES = 10
FLAT_RATIO, FLAT_S = 1.25, 0.001


@dataclass(frozen=True)
class Cold:
    """What a request cost in excess at first, as a share, and over how many requests that falls by e."""

    excess: float
    requests: float

    def slowdown(self, requests_done: float) -> float:
        """The factor on a request's cost after so many requests."""
        return 1 + self.excess * math.exp(-requests_done / self.requests)


@dataclass(frozen=True)
class WarmUp:
    """How the warm-up went: the throughput it reached, whether it got flat, and the cold start's cost."""

    seconds: float
    requests: int
    steady: bool
    one_qps: float
    baseline_s: float
    saturation: Saturation | None = None
    reached_qps: float = 0.0
    concurrency: int = 1
    cold: Cold | None = None


Warming = Generator[Probe, Observation, WarmUp]


def closed_loop(stage: Stage, *, share: float = BUDGET_SHARE, concurrency: int = 1) -> Warming:
    """Warm up with a bounded number of requests in flight, for at most a share of the load that is left."""
    until_s = stage.now_s + share * stage.left_s
    best_qps = one_qps = 0.0
    baseline_s = math.inf
    held: list[Window] = []
    steady = saturated = False
    while stage.now_s < until_s and not steady:
        window = yield from _step(stage, concurrency)
        qps = window.served_qps()
        if concurrency == 1:
            baseline_s, one_qps = min(baseline_s, window.median_s()), max(one_qps, qps)
        if window.failed_share > MOST_FAILED and concurrency > 1:
            # It turns requests away: half as many is what it holds.
            concurrency, best_qps, saturated = concurrency // 2, math.inf, False
        elif qps >= GAIN * best_qps and _may_double(stage, concurrency, qps):
            best_qps, concurrency = qps, 2 * concurrency
            continue
        else:
            saturated = 2 * concurrency <= stage.most_concurrency
        window = yield from _hold(stage, concurrency, until_s)
        held.append(window)
        reached_qps = window.served_qps(HOLD_S / 2)
        # A server that got faster meanwhile may use more requests in flight than it could when it was slow.
        steady = reached_qps < GREW * max(qps, min(best_qps, qps * GREW))
        if window.failed_share > MOST_FAILED and concurrency > 1:
            concurrency, saturated = concurrency // 2, False
        elif not steady and _may_double(stage, concurrency, reached_qps):
            best_qps, concurrency = reached_qps, 2 * concurrency
    cold = _cold(held, stage)
    return WarmUp(
        seconds=stage.now_s,
        requests=stage.requests,
        steady=steady and (cold is not None or _is_steady(held[-1], RECENT_S * stage.scale)),
        one_qps=one_qps,
        baseline_s=baseline_s,
        saturation=_saturation(held, cold) if saturated else None,
        reached_qps=held[-1].served_qps(HOLD_S) if held else one_qps,
        concurrency=concurrency,
        cold=cold,
    )


def is_faster(stage: Stage, warm_up: WarmUp) -> Generator[Probe, Observation, bool]:
    """Look whether the server has become faster since: then it was not warm."""
    if warm_up.saturation is None:
        return False
    window = stage.begin("closed", CHECK_S * stage.scale, concurrency=warm_up.concurrency)
    yield from stage.play(window)
    rate, done = window.batches(window.lasted_s, LEAST_FOR_ERROR + 2)
    if len(rate) < LEAST_FOR_ERROR:
        return False
    if warm_up.cold is not None:
        rate = rate * np.array([warm_up.cold.slowdown(each + window.requests_before) for each in done])
    before, now = warm_up.saturation, float(rate[1:].mean())
    noise = math.hypot(before.error * before.qps, _error(rate[1:]))
    return now > FASTER * before.qps + 1.25 * noise


def _may_double(stage: Stage, concurrency: int, qps: float) -> bool:
    """Whether twice as many in flight would still be answered within a few latency limits."""
    if 2 * concurrency > stage.most_concurrency:
        return False
    return 2 * concurrency <= 2 * MOST_LIMITS * stage.limit_s * qps or concurrency == 1


def open_loop(stage: Stage, gentle_qps: float) -> Warming:
    """Warm up at a rate that should hurt nobody, until the median latency is flat."""
    until_s = stage.now_s + BUDGET_SHARE / 2 * stage.left_s
    medians: list[float] = []
    steady = False
    while stage.now_s < until_s and not steady:
        window = stage.begin("open", 1.0 + 10 / gentle_qps, rate_qps=gentle_qps, settle_s=math.inf)
        yield from stage.play(window)
        medians.append(window.median_s())
        steady = len(medians) > 1 and _is_near(medians[-2], medians[-1])
    return WarmUp(stage.now_s, stage.requests, steady, 0.0, min(medians, default=math.inf))


def _step(stage: Stage, concurrency: int) -> Generator[Probe, Observation, Window]:
    """A short look at one concurrency: until enough replies have come."""
    window = stage.begin("closed", 20 * STEP_S, concurrency=concurrency)
    while not window.is_over:
        yield window.probe
        if window.lasted_s >= STEP_S and window.sent >= STEP_REQUESTS * concurrency**0.5:
            break
    return window


def _hold(stage: Stage, concurrency: int, until_s: float) -> Generator[Probe, Observation, Window]:
    """Keep a concurrency until the throughput is flat.

    It ends too where the server got so much faster that more requests in flight may serve it better.
    """
    window = stage.begin("closed", max(until_s - stage.now_s, HOLD_S), concurrency=concurrency)
    while not window.is_over:
        yield window.probe
        if window.lasted_s < HOLD_S * stage.scale:
            continue
        growth, error = _growth(window, RECENT_S * stage.scale)
        sure = error < SURE_ERROR or window.lasted_s >= MOST_HOLD_S * stage.scale
        if sure and growth < FLAT + error / 2:
            break
        if (
            growth > GREW - 1
            and growth > 3 * error
            and _may_double(stage, concurrency, window.served_qps(1.0))
        ):
            break
    return window


def _is_steady(window: Window, last_s: float) -> bool:
    rate, _ = window.batches(min(last_s, window.lasted_s), BATCHES + 1)
    return is_steady(rate[1:], UNSTEADY)


def _growth(window: Window, last_s: float) -> tuple[float, float]:
    """By what share the throughput rose over half of the last seconds, with its standard error.

    By least squares over batches, which knows more than the difference of the halves. Batches are not quite
    independent where replies come in batches of their own; there are enough to average that out.
    """
    seconds = min(last_s, window.lasted_s)
    rate, _ = window.batches(seconds, max(BATCHES, int(2 * seconds)))
    rate = rate[1:]
    if len(rate) < BATCHES - 1 or not rate.any():
        return 0.0, math.inf
    position = np.linspace(-1, 1, len(rate))
    slope = float((position * rate).sum() / (position**2).sum())
    left = rate - rate.mean() - slope * position
    error = math.sqrt(float((left**2).sum()) / (len(rate) - 2) / float((position**2).sum()))
    mean = float(rate.mean())
    return slope / mean, error / mean


def _cold(held: list[Window], stage: Stage) -> Cold | None:
    """Fit an exponential fall of the cost of a request, where the server got faster at all.

    For each number of requests over which it may fall the cost is linear in what is left, so that least
    squares on a grid of such numbers finds all three constants.
    """
    if not held:
        return None
    window = held[-1]
    rate, done = window.batches(window.lasted_s, max(BATCHES, int(window.lasted_s / 0.5)))
    rate, done = rate[rate > 0], done[rate > 0]
    if len(rate) < BATCHES or rate[-3:].mean() < GOT_FASTER * rate[:3].mean():
        return None
    done = done + window.requests_before
    cost = 1 / rate
    best: tuple[float, Cold] | None = None
    for scale in np.geomspace(0.15, 2.0, 40) * float(stage.requests):
        left = np.exp(-done / scale)
        slope, last = np.polyfit(left, cost, 1, w=rate)
        if last <= 0 or slope <= 0:
            continue
        misfit = float((((slope * left + last - cost) * rate) ** 2).sum())
        found = Cold(float(slope / last), float(scale))
        # What the fit says is still to come must be little: nobody can see far beyond what was seen.
        if found.slowdown(stage.requests) < MOST_TO_COME and (best is None or misfit < best[0]):
            best = misfit, found
    return best[1] if best else None


def _saturation(held: list[Window], cold: Cold | None) -> Saturation | None:
    """The throughput that the last hold reached, as a warm server's, with its standard error."""
    if not held:
        return None
    window = held[-1]
    seconds = min(window.lasted_s, 2 * HOLD_S)
    rate, done = window.batches(seconds, 2 * BATCHES)
    if len(rate) < LEAST_FOR_ERROR:
        return None
    if cold is not None:
        rate = rate * np.array([cold.slowdown(each + window.requests_before) for each in done])
    mean = float(rate.mean())
    return Saturation(mean, _error(rate) / mean)


LEAST_FOR_ERROR = 4


def _error(rate: Floats) -> float:
    return float(rate.std(ddof=1)) / math.sqrt(len(rate))


def _is_near(before_s: float, now_s: float) -> bool:
    """Whether two medians differ by less than servers and machines do from one second to the next."""
    return abs(now_s - before_s) <= max(FLAT_S, (FLAT_RATIO - 1) * min(now_s, before_s))
