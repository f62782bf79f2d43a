"""Warming a server up by work, not by seconds, and what is learnt on the way: where it saturates.

A closed loop keeps a bounded number of requests in flight, first one, then twice as many while that makes the
server faster and its latency stays near the limit: never more than a server within its SLO would hold a
moment later. It goes on until what the throughput shows over the requests done (``warmth``) leaves little
doubt that the server is warm, or nearly so and known how nearly; longer than a warm server needs only where
it does get faster. Where a closed loop could send faster than allowed, an open loop at a gentle rate takes
its place until the median latency is flat.

Some servers give less the more they hold, and remember it. Such a one is given half as many to hold, waited
for until it has recovered, and what it gave meanwhile is kept (``overloaded_qps``). Since a burst may bring a
server there in a minute that the search does not see, a warm one is once given more than it can answer within
two limits, for a second.

What a cold server still has to gain corrects the rates of the windows that follow. A later look at the same
concurrency (``look_again``) tells whether it became faster than that.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.stage import Stage
from pytest_capacity.search.tail import Saturation
from pytest_capacity.search.warmth import Warmth, batches_of
from pytest_capacity.search.windows import Window
from pytest_capacity.stats.steady import is_steady

GAIN, GAIN_AGAIN = 1.06, 1.12
"""Twice as many requests in flight must bring this much throughput, or the server has enough of them; more
while it gets faster anyway."""
FALLS, SURE_ERRORS = 0.9, 2.0
"""With less than this share of its throughput a server gives less at more load; known beyond so many standard
errors."""
MOST_LIMITS = 1.5
"""The closed loop's latency may reach this many latency limits, no more."""
STRESS_LIMITS, STRESS_S, STRESS_SHARE = 2.5, 1.0, 0.05
"""But once, when the server is warm: so many, for so long, where that is no more than this share of what is
left."""
ALONE_TIMES = 2.0
STEP_S, STEP_REQUESTS = 0.5, 12
AGAIN_S, MOST_RECOVER_S, RECOVERED = 1.0, 5.0, 1.1
"""A server that gave way is looked at again for so long, and waited for until it serves so much more than it
did then and no longer gets faster."""
HOLD_S, MOST_HOLD_S, CHECK_S = 3.0, 7.0, 2.0
"""A hold lasts so long at least, and no longer than that unless the server does get faster."""
WARM_UP_UNTIL, GENTLE_SHARE = 0.7, 0.275
"""No closed loop warms up beyond this share of the budget; an open one takes at most this share of what is
left."""
RECENT_S = 5.0
JUDGE_AGAIN = 1.1
"""A hold is judged again when it has lasted so many times as long."""
COLD_BY = 0.03
"""A server whose requests cost less than so much more than in the end counts as warm."""
DOUBT, LIKELY, LONG_S = 0.1, 0.4, 15.0
"""With less than this probability of being cold the warm-up ends; with more than that it lasts as long as
there is time. From the longest hold of a warm server to ``LONG_S`` the one grows into the other: noise alone
may leave a doubt."""
SURELY = 0.9
KNOWN, MOST_KNOWN = 0.02, 0.08
"""What is left to gain may be corrected for where it is little, and known to so much."""
UNSTEADY = 0.1
"""A throughput that still moves by this much at the end of the warm-up leaves nothing to search for."""
GREW = 1.3
"""By so much a server must have become faster to be offered more requests in flight once more."""
MOST_FAILED, RECENT_FAILED_S = 0.05, 2.0
FASTER, NOISES = 1.04, 1.25
LEAST_FOR_ERROR, BATCHES = 4, 10
FLAT_RATIO, FLAT_S = 1.25, 0.001


@dataclass(frozen=True)
class WarmUp:
    """How the warm-up went: the throughput it reached, whether it was steady, and how warm the server is."""

    seconds: float
    requests: int
    steady: bool
    baseline_s: float
    saturation: Saturation | None = None
    reached_qps: float = 0.0
    concurrency: int = 1
    warmth: Warmth | None = None
    overloaded_qps: float | None = None
    """What it served with twice as many requests in flight, where that is less."""

    @property
    def cold_factor(self) -> float | None:
        """How many times longer the first requests took than the last; None where it seems warm all along."""
        if self.warmth is None or self.warmth.still_cold(0, COLD_BY) < SURELY:
            return None
        return math.exp(self.warmth.slowdown(0)[0])


Warming = Generator[Probe, Observation, WarmUp]


def closed_loop(stage: Stage, *, concurrency: int = 1) -> Warming:
    """Warm up with a bounded number of requests in flight."""
    until_s = max(WARM_UP_UNTIL * stage.budget_s, stage.now_s + min(HOLD_S, stage.left_s / 2))
    climb = _Climb(stage, concurrency)
    held: Window | None = None
    while stage.now_s < until_s:
        yield from climb.up(until_s)
        if held is not None and stage.now_s + STEP_S > until_s:
            break
        held = yield from _hold(stage, climb, until_s)
        if not climb.may_go_on(held):
            break
    if held is not None:
        yield from climb.stress(held.served_qps(HOLD_S))
    yield from stage.drain()
    warmth = _warmth(stage)
    return WarmUp(
        seconds=stage.now_s,
        requests=stage.requests,
        steady=held is not None and _ended_steady(stage, held, warmth),
        baseline_s=climb.baseline_s,
        saturation=_saturation(warmth, climb.concurrency) if climb.is_full else None,
        reached_qps=held.served_qps(HOLD_S) if held else climb.best_qps,
        concurrency=climb.concurrency,
        warmth=warmth,
        overloaded_qps=_overloaded_qps(warmth, climb),
    )


class _Climb:
    """How many requests to keep in flight: twice as many while that serves more."""

    def __init__(self, stage: Stage, concurrency: int) -> None:
        self._stage, self.concurrency = stage, concurrency
        self.best_qps = 0.0
        self.baseline_s = math.inf
        self.is_full = False
        self.gave_way_with: int | None = None
        """With how many in flight it gave less than with fewer."""
        self._most = stage.most_concurrency
        self._chosen_at_qps = 0.0
        self._again = False

    def up(self, until_s: float) -> Generator[Probe, Observation, None]:
        """Double until it brings nothing, the latency would get too long, or requests are turned away."""
        stage = self._stage
        while stage.now_s < until_s:
            window = yield from _step(stage, self.concurrency)
            qps = window.served_qps()
            if qps < FALLS * self.best_qps:
                # A pause in so short a step looks the same, once.
                first, window = window, (yield from _step(stage, self.concurrency, AGAIN_S))
                qps = max(qps, window.served_qps())
                # It held what it was sent for a while before it gave way.
                first.tells_warmth = qps >= FALLS * self.best_qps
            self._chosen_at_qps = qps
            if self.concurrency == 1:
                self.baseline_s = min(self.baseline_s, window.median_s())
            if _turned_away(window) and self.concurrency > 1:
                # Half as many is what it holds.
                self.concurrency //= 2
                self._most, self.is_full = self.concurrency, False
                return
            self.is_full = 2 * self.concurrency <= stage.most_concurrency
            if self._again and _steady_qps(window) < GAIN_AGAIN * self.best_qps:
                # It got faster, but not for want of requests in flight.
                self.concurrency //= 2
                self._chosen_at_qps = self.best_qps
                return
            if qps < FALLS * self.best_qps and self.concurrency > 1:
                # It gives less the more it has to hold: half as many are what it is best at.
                self.gave_way_with = self.concurrency
                self.concurrency //= 2
                self._chosen_at_qps = self.best_qps
                yield from self._recover(window.served_qps())
                return
            if qps < GAIN * self.best_qps or not self.may_double(qps):
                return
            self.best_qps, self.concurrency = qps, 2 * self.concurrency

    def _recover(self, overloaded_qps: float) -> Generator[Probe, Observation, None]:
        """Wait until it serves again what it did: some remember an overload for seconds."""
        begun_s, before_qps = self._stage.now_s, 0.0
        while self._stage.now_s < begun_s + MOST_RECOVER_S * self._stage.scale:
            window = yield from _step(self._stage, self.concurrency)
            qps = window.served_qps()
            if RECOVERED * overloaded_qps < qps < GAIN * before_qps:
                return
            window.tells_warmth = False
            before_qps = qps

    def stress(self, qps: float) -> Generator[Probe, Observation, None]:
        """Give the warm server, which serves ``qps``, once more than it can answer within two limits."""
        stage = self._stage
        concurrency = min(self._most, math.ceil(STRESS_LIMITS * stage.limit_s * qps))
        seconds = STRESS_S * stage.scale
        # What is in flight at the end has to be waited for, too.
        too_long = seconds + STRESS_LIMITS * stage.limit_s > STRESS_SHARE * stage.left_s
        if not self.is_full or self.gave_way_with or concurrency <= self.concurrency or too_long:
            return
        window = yield from _step(stage, concurrency, seconds)
        if _steady_qps(window) < FALLS * qps:
            first, window = window, (yield from _step(stage, concurrency, seconds))
            if _steady_qps(window) < FALLS * qps:
                # It held for a moment what it was given.
                first.tells_warmth = False
                self.gave_way_with = concurrency
                yield from self._recover(_steady_qps(window))

    def may_double(self, qps: float) -> bool:
        """Whether twice as many in flight would still be answered within a few latency limits.

        Where one request alone takes as long, because the server is cold, within twice that.
        """
        if 2 * self.concurrency > self._most:
            return False
        alone_s = self.baseline_s if math.isfinite(self.baseline_s) else 0.0
        most_s = max(MOST_LIMITS * self._stage.limit_s, ALONE_TIMES * alone_s)
        return self.concurrency <= most_s * qps or self.concurrency == 1

    def has_outgrown(self, window: Window) -> bool:
        """Whether the server got so much faster that more requests in flight may serve it better."""
        qps = window.served_qps(1.0)
        return qps > GREW * self._chosen_at_qps and self.may_double(qps)

    def may_go_on(self, held: Window) -> bool:
        """Whether to climb and hold once more; sets from where."""
        if _turned_away(held) and self.concurrency > 1:
            self.concurrency //= 2
            self._most, self.is_full = self.concurrency, False
            return True
        if self.has_outgrown(held):
            self.best_qps, self.concurrency = held.served_qps(1.0), 2 * self.concurrency
            self._again = True
            return True
        return False


def _turned_away(window: Window) -> bool:
    return window.failed_share_of_last(RECENT_FAILED_S) > MOST_FAILED


def _steady_qps(window: Window) -> float:
    """The throughput once the first requests, sent all at once, are answered; infinite where unknown."""
    times_s = window.served_at_s()[window.probe.concurrency or 1 :]
    seconds = float(times_s[-1] - times_s[0]) if len(times_s) else 0.0
    return (len(times_s) - 1) / seconds if seconds else math.inf


def _step(stage: Stage, concurrency: int, least_s: float = STEP_S) -> Generator[Probe, Observation, Window]:
    """A short look at one concurrency: until enough replies have come."""
    window = stage.begin("closed", 20 * STEP_S, concurrency=concurrency)
    while not window.is_over:
        yield window.probe
        if window.lasted_s >= least_s and window.sent >= STEP_REQUESTS * concurrency**0.5:
            break
    return window


def _hold(stage: Stage, climb: _Climb, until_s: float) -> Generator[Probe, Observation, Window]:
    """Keep a concurrency until the server is warm, or has outgrown it."""
    window = stage.begin("closed", max(until_s - stage.now_s, HOLD_S), concurrency=climb.concurrency)
    judged_s = 0.0
    while not window.is_over:
        yield window.probe
        if window.lasted_s < max(HOLD_S * stage.scale, JUDGE_AGAIN * judged_s):
            continue
        judged_s = window.lasted_s
        if climb.has_outgrown(window) or _turned_away(window):
            break
        if is_warm(stage, _warmth(stage), _doubt_allowed(window.lasted_s / stage.scale)):
            break
    return window


def _doubt_allowed(lasted_s: float) -> float:
    part = (lasted_s - MOST_HOLD_S) / (LONG_S - MOST_HOLD_S)
    return DOUBT + (LIKELY - DOUBT) * min(max(part, 0.0), 1.0)


def is_warm(stage: Stage, warmth: Warmth, doubt: float) -> bool:
    """Whether the server is warm but for some doubt, or nearly so and known how nearly."""
    if warmth.still_cold(stage.requests, COLD_BY) < doubt:
        return True
    left, error = warmth.slowdown(stage.requests)
    most = math.expm1(MOST_KNOWN + 2 * KNOWN)
    return left < MOST_KNOWN and error < KNOWN and warmth.still_cold(stage.requests, most) < doubt / 2


def _warmth(stage: Stage) -> Warmth:
    """What all closed loops so far say, each concurrency for itself."""
    runs = []
    for window in stage.windows:
        concurrency = window.probe.concurrency
        if window.probe.kind == "closed" and concurrency and window.tells_warmth:
            # The first so many are sent at once; from then on each tells of a reply.
            done = window.requests_before + concurrency
            runs.append(batches_of(window.served_at_s()[concurrency:], concurrency, done))
    return Warmth([run for run in runs if run is not None])


def _ended_steady(stage: Stage, held: Window, warmth: Warmth) -> bool:
    """Whether nothing moved at the end of a hold but what a cold start explains."""
    rate = held.rates(min(RECENT_S * stage.scale, held.lasted_s), BATCHES + 1)
    left, _ = warmth.slowdown(held.requests_before)
    return left > math.log1p(COLD_BY) or is_steady(rate[1:], UNSTEADY)


def _saturation(warmth: Warmth, concurrency: int) -> Saturation | None:
    """The throughput of the warm server at this concurrency, with its standard error."""
    found = warmth.warm_rate(concurrency)
    return Saturation(*found) if found else None


def _overloaded_qps(warmth: Warmth, climb: _Climb) -> float | None:
    """The throughput of the warm server with more requests in flight, where it is less for sure."""
    best = warmth.warm_rate(climb.concurrency)
    overloaded = warmth.warm_rate(climb.gave_way_with or 2 * climb.concurrency)
    if best is None or overloaded is None:
        return None
    error = math.hypot(best[1], overloaded[1])
    return overloaded[0] if overloaded[0] < FALLS * best[0] * math.exp(-SURE_ERRORS * error) else None


@dataclass(frozen=True)
class Look:
    """What a later look found: whether the server is warm, and whether it got faster than was expected.

    ``ratio`` is the throughput over what was expected.
    """

    warm_up: WarmUp
    is_warm: bool
    is_faster: bool
    ratio: float = 1.0


def look_again(stage: Stage, warm_up: WarmUp, doubt: float = DOUBT) -> Generator[Probe, Observation, Look]:
    """Look once more at the throughput after some work.

    All closed loops together are asked for what is still to gain; a server that became faster in another way
    than its cost was expected to fall shows in the throughput alone.
    """
    before = warm_up.warmth or Warmth()
    window = stage.begin("closed", CHECK_S * stage.scale, concurrency=warm_up.concurrency)
    yield from stage.play(window)
    yield from stage.drain()
    warmth = _warmth(stage)
    saturation = _saturation(warmth, warm_up.concurrency) if warm_up.saturation else None
    warm = is_warm(stage, warmth, doubt)
    seen = replace(warm_up, warmth=warmth, saturation=saturation)
    expected = before.warm_rate(warm_up.concurrency)
    rate = window.rates(window.lasted_s, LEAST_FOR_ERROR + 2)[1:]
    if expected is None or len(rate) < LEAST_FOR_ERROR or not rate.any():
        return Look(seen, warm, is_faster=False)
    left, _ = before.slowdown(window.requests_before + window.sent / 2)
    mean = float(rate.mean())
    noise = math.hypot(expected[1], float(rate.std(ddof=1)) / mean / math.sqrt(len(rate)))
    ratio = mean * math.exp(left) / expected[0]
    return Look(seen, warm, ratio > FASTER + NOISES * noise, ratio)


def open_loop(stage: Stage, gentle_qps: float) -> Warming:
    """Warm up at a rate that should hurt nobody, until the median latency is flat."""
    until_s = stage.now_s + GENTLE_SHARE * stage.left_s
    medians: list[float] = []
    steady = False
    while stage.now_s < until_s and not steady:
        window = stage.begin("open", 1.0 + 10 / gentle_qps, rate_qps=gentle_qps, settle_s=math.inf)
        yield from stage.play(window)
        medians.append(window.median_s())
        steady = len(medians) > 1 and _is_near(medians[-2], medians[-1])
    return WarmUp(stage.now_s, stage.requests, steady, min(medians, default=math.inf))


def _is_near(before_s: float, now_s: float) -> bool:
    """Whether two medians differ by less than servers and machines do from one second to the next."""
    return abs(now_s - before_s) <= max(FLAT_S, (FLAT_RATIO - 1) * min(now_s, before_s))
