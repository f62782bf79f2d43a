"""The phases of a capacity search: warming up, stepping up to the limit, and asking around it.

*Dampening*: no step leaves what the evidence supports, nor offers what would make many requests late. After
an overload nothing is sent until the queue is empty and a low control rate is as quick as before. Some time
after the warm-up it looks whether the server has become faster than it was: then what was measured before
tells of another server, and it begins anew from there.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.beliefs import CAREFUL, HIGH, LOW, MIDDLE
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import Status
from pytest_capacity.search.knowledge import IDLE_DOUBT, Knowledge
from pytest_capacity.search.stage import Played, Script, Stage
from pytest_capacity.search.warmup import (
    COLD_BY,
    DOUBT,
    closed_loop,
    look_again,
    open_loop,
)
from pytest_capacity.search.weighing import fails_at_any_rate, fails_surely, is_doubted, window_doubts
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO

START_SHARE = 0.5
"""The first open-loop rate is this share of the throughput in the closed loop."""
RAMP_SHARE = 0.85
LEAST_QPS = 0.5
LEAST_SHARE = 0.15
"""No rate below this share of the closed loop's throughput is asked at."""
STEP_S, PROBE_S, SOAK_S, SETTLE_S = 2.0, 6.0, 10.0, 0.5
"""At a latency limit of 50 ms; other limits stretch them (``Stage.scale``)."""
CONTROL_S = 1.0
CHECK_AFTER_S = 5.0
IDLE_S, LEAST_DOUBT = 10.0, 0.01
"""Where a server has little to do the next look at its warmth comes after so many seconds, if there is any
doubt."""
CHECK_AGAIN = 2.5
"""Where a doubt is left after a look at the server's warmth, the next comes after so many times the work."""
DOUBTED = 0.05
MOST_LOOKS = 4
SLOWER = 0.6
"""A server that serves less than this share of what it did under the same load is not the one it was."""
LEAST_LEFT = 0.35
"""With less of the budget left there is no time to begin anew."""
BACK_RATIO = 1.5
WIDE, FEW = 0.35, 4
"""An interval of more than this width leaves open what limits: the first windows are short then, and from the
fourth on asked at where they tell most."""
ABOVE, BELOW = 1.02, 0.97
MOST_USE = 6.0
"""No rate is offered at which a bound is expected to use more than so many times its allowed share."""
STEPS_DOWN, DOWN, LEAST_FAILING = 2, 0.25, 30
"""Where already the first rate fails: how often to look at how much less, and at how many requests."""
ENOUGH = 0.5
"""The search ends before its budget when the interval is this part of the tolerance."""
INVALID_IN_A_ROW = 3


@dataclass(frozen=True)
class Range:
    """Between which rates is searched; ``is_bounded`` where the caller gave the highest."""

    min_qps: float | None
    max_qps: float
    is_bounded: bool

    def within(self, rate: float) -> float:
        """The nearest rate allowed."""
        return min(max(rate, self.min_qps or 0.0), self.max_qps)


class Hunt:
    """Plays a search's phases on a stage; what was found on the way stands in its attributes."""

    def __init__(self, slo: SLO, stage: Stage, rates: Range, tolerance: float) -> None:
        self._slo, self._stage, self._range, self._tolerance = slo, stage, rates, tolerance
        self.known = Knowledge(slo, stage)
        self.baseline_s = math.inf
        self.moved: Doubt | None = None
        self.failing: Doubt | None = None
        self.generator: tuple[Doubt, ...] = ()
        self.is_refining = False
        self.is_confirmed = False
        self.status: Status | None = None
        self._looks = 0
        self._looked_at_requests = 0
        self._looked_s = 0.0
        self._low_qps = 0.0
        self._invalid = 0

    def script(self) -> Script:
        """What is asked for, in its order."""
        stage, rates = self._stage, self._range
        if rates.is_bounded:
            gentle_qps = rates.min_qps or rates.max_qps / 10
            self.known.warm_up = yield from open_loop(stage, gentle_qps)
            start_qps = gentle_qps
        else:
            self.known.warm_up = yield from closed_loop(stage)
            start_qps = rates.within(max(START_SHARE * self.known.warm_up.reached_qps, LEAST_QPS))
        self.baseline_s = self.known.warm_up.baseline_s
        self._looked_at_requests = stage.requests
        limited = yield from self._ramp(start_qps)
        if limited:
            self.is_refining = True
            yield from self._refine()

    def _ramp(self, start_qps: float) -> Generator[Probe, Observation, bool]:
        """Step up, by less the nearer the limit, until evidence shows one; False where that is the end."""
        rate = start_qps
        while self._stage.left_s > STEP_S:
            window = yield from self._open(rate, STEP_S * self._stage.scale + 10 / rate)
            if self.generator:
                return False
            if is_doubted(window, self._slo):
                # It says nothing: the same again.
                continue
            use = max(self._use(window), 0.0)
            if use > 1 or window.overloaded:
                return (yield from self._meets_limit(rate, window))
            if self._low_qps == 0.0:
                self._low_qps, self.baseline_s = rate, window.median_s()
            if rate >= self._range.max_qps:
                return (yield from self._holds_at_max())
            if self.known.saturation is not None and self.known.evidence():
                self.known.update()
                return True
            rate = min(self._range.max_qps, self._below_saturation(rate * _step(self._pressure(window), use)))
        return True

    def _meets_limit(self, rate: float, window: Window) -> Generator[Probe, Observation, bool]:
        """Whether it is the rate that a bound does not hold at."""
        if self._range.min_qps is not None and rate <= self._range.min_qps * 1.001:
            return (yield from self._fails_at_min(rate))
        if self._low_qps == 0.0 and fails_surely(window, self._slo):
            return (yield from self._step_down(rate))
        return True

    def _step_down(self, rate: float) -> Generator[Probe, Observation, bool]:
        """Look at far lower rates: where a server fails as much at those, it does not fail for the rate."""
        stage = self._stage
        for _ in range(STEPS_DOWN):
            rate = self._range.within(rate * DOWN)
            seconds = STEP_S * stage.scale + LEAST_FAILING / rate
            if seconds > stage.left_s:
                # What was not looked at was not shown to fail.
                return True
            window = yield from self._open(rate, seconds)
            if self.generator:
                return False
            if not fails_surely(window, self._slo):
                self._low_qps, self.baseline_s = rate, window.median_s()
                return True
        self.status = "unattainable"
        self.failing = fails_at_any_rate(self.known.evidence(), self._slo)
        return False

    def _below_saturation(self, rate: float) -> float:
        """No step of the ramp leads to where the server is known to saturate."""
        warm_up = self.known.warm_up
        if warm_up is None or warm_up.saturation is None:
            return rate
        return min(rate, RAMP_SHARE * warm_up.saturation.qps / self.known.slower_now())

    def _fails_at_min(self, rate: float) -> Generator[Probe, Observation, bool]:
        """Look again at the lowest rate allowed: what fails twice there is unattainable."""
        window = yield from self._open(rate, PROBE_S * self._stage.scale)
        self.known.update()
        if self.known.beliefs.quantile(HIGH) < rate * 1.02 or self._use(window) > 1:
            self.status = "unattainable"
            return False
        return True

    def _holds_at_max(self) -> Generator[Probe, Observation, bool]:
        """Look longer at the highest rate allowed: what holds there has no limit within reach."""
        while self._stage.left_s > STEP_S:
            yield from self._open(self._range.max_qps, PROBE_S * self._stage.scale)
            self.known.update()
            if (
                self.known.is_held(self._range.max_qps)
                or self.known.beliefs.quantile(LOW) >= 0.98 * self._range.max_qps
            ):
                self.status = "no_limit_found"
                return False
            if self.known.beliefs.quantile(MIDDLE) < self._range.max_qps:
                return True
        return False

    def _refine(self) -> Script:
        """Ask where the posterior is undecided, on both sides in turn, until it is narrow and confirmed."""
        above, scale = False, self._stage.scale
        while self._stage.left_s > 1.0 and not self.generator:
            if not self.known.evidence():
                return
            self.known.update()
            width = self.known.beliefs.width()
            if width <= ENOUGH * self._tolerance and self.is_confirmed and self._has_looked:
                return
            if self._is_beyond_reach():
                return
            if self._is_look_due():
                yield from self._look_at_warmth()
                continue
            if width <= self._tolerance and not self.is_confirmed:
                yield from self._open(self._range.within(self.known.beliefs.quantile(0.25)), SOAK_S * scale)
                self.known.update()
                self.is_confirmed = self.known.beliefs.width() <= 1.1 * self._tolerance
                continue
            is_first_look = width > WIDE and len(self.known.evidence()) < FEW
            seconds = (STEP_S if is_first_look else PROBE_S) * scale
            if self._stage.left_s < 1.5 * seconds:
                seconds = self._stage.left_s
            rate, above = self._next_rate(width, above=above), not above
            yield from self._open(rate, seconds + 10 / rate)

    @property
    def _has_looked(self) -> bool:
        """Whether the server's warmth was looked at again, where a closed loop may."""
        return self._looks > 0 or self.known.warm_up is None or self.known.warm_up.warmth is None

    def _is_look_due(self) -> bool:
        """Whether to look again how warm the server is: once some time after, then while a doubt is left."""
        stage, warm_up = self._stage, self.known.warm_up
        if warm_up is None or warm_up.warmth is None or self._looks >= MOST_LOOKS:
            return False
        if self._looks == 0:
            return stage.now_s - warm_up.seconds > CHECK_AFTER_S * stage.scale
        cold = warm_up.warmth.still_cold(stage.requests, COLD_BY)
        if cold > DOUBTED and stage.requests > CHECK_AGAIN * self._looked_at_requests:
            return True
        idle_s = stage.now_s - self._looked_s
        return self.known.is_idle and cold > LEAST_DOUBT and idle_s > IDLE_S * stage.scale

    def _look_at_warmth(self) -> Script:
        """See that the server is as warm as it seemed; else warm it up further and begin anew."""
        stage, known = self._stage, self.known
        self._looks += 1
        if known.warm_up is None or stage.left_s < LEAST_LEFT * stage.budget_s:
            return
        look = yield from look_again(stage, known.warm_up, IDLE_DOUBT if known.is_idle else DOUBT)
        known.warm_up = look.warm_up
        self._looked_at_requests, self._looked_s = stage.requests, stage.now_s
        if look.ratio < SLOWER:
            self.moved = Doubt(
                "server_changed",
                f"with {look.warm_up.concurrency} requests in flight it served {look.ratio:.0%} of what it "
                "did after the warm-up",
                "a fresh server, or max_qps below what it takes",
            )
        if look.is_faster:
            known.begin_anew()
        elif look.is_warm:
            return
        self.is_confirmed = False
        known.warm_up = yield from closed_loop(stage, concurrency=look.warm_up.concurrency)
        self._looked_at_requests, self._looked_s = stage.requests, stage.now_s
        # The next window tells what to believe now.
        rate = self._range.within(max(START_SHARE * known.warm_up.reached_qps, LEAST_QPS))
        window = yield from self._open(rate, STEP_S * stage.scale)
        self._low_qps, self.baseline_s = rate, window.median_s()

    def _next_rate(self, width: float, *, above: bool) -> float:
        """A rate that will tell much, within what the posterior supports and the server should bear."""
        beliefs = self.known.beliefs
        middle = beliefs.quantile(MIDDLE)
        if width > WIDE:
            # Asked at the middle again and again, bursts of a queue and spikes by the clock stay alike.
            few = len(self.known.evidence()) < FEW
            rate = beliefs.quantile(CAREFUL) if few else beliefs.telling_rate(PROBE_S * self._stage.scale)
        elif above:
            rate = max(beliefs.quantile(0.7), ABOVE * middle)
        else:
            rate = min(beliefs.quantile(0.3), BELOW * middle)
        # A handful of requests tells nothing of one in a hundred, nor does it warm anything up.
        rate = max(rate, LEAST_SHARE * self.known.warm_up.reached_qps) if self.known.warm_up else rate
        while rate > middle and beliefs.use_at(rate) > MOST_USE:
            rate = max(middle, rate * 0.995)
        return self._range.within(rate / self.known.slower_now())

    def _is_beyond_reach(self) -> bool:
        """Whether the capacity is below the lowest rate allowed or above the highest, beyond doubt."""
        low_qps, high_qps = (self.known.beliefs.quantile(rank) for rank in (LOW, HIGH))
        if self._range.min_qps is not None and high_qps < self._range.min_qps:
            self.status = "unattainable"
        elif low_qps > self._range.max_qps and self.known.is_held(self._range.max_qps):
            self.status = "no_limit_found"
        return self.status is not None

    def _open(self, rate: float, seconds: float) -> Played:
        """One window open loop; an overload is drained before anything else is asked."""
        stage = self._stage
        settle_s = SETTLE_S * stage.scale
        window = stage.begin("open", seconds + settle_s, rate_qps=rate, settle_s=settle_s)
        yield from stage.play(window)
        self._judge_generator(window)
        in_flight = window.last.in_flight if window.last else 0
        if window.overloaded or in_flight > max(8.0, 3 * rate * stage.limit_s):
            yield from self._recover()
        return window

    def _recover(self) -> Script:
        """Send nothing until the queue is empty, then see that a low rate is as quick as it was before."""
        stage = self._stage
        yield from stage.drain()
        if self._low_qps <= 0.0:
            return
        settle_s = SETTLE_S / 2 * stage.scale
        for _ in range(5):
            control = stage.begin(
                "open", CONTROL_S + 10 / self._low_qps, rate_qps=self._low_qps, settle_s=settle_s
            )
            yield from stage.play(control)
            if control.median_s() <= BACK_RATIO * self.baseline_s + 0.001:
                self.moved = None
                return
            self.moved = Doubt(
                "server_changed",
                f"at {self._low_qps:.4g}/s the median was {self.baseline_s * 1000:.3g} ms before an "
                f"overload and {control.median_s() * 1000:.3g} ms after it",
                "a fresh server, or max_qps below the overload",
            )

    def _use(self, window: Window) -> float:
        """How many times the allowed share was used, by the bound that used most of it."""
        return max(window.share_of(i) / bound.allowed_share for i, bound in enumerate(self._slo.bounds))

    def _pressure(self, window: Window) -> float:
        """The bounded latency quantile over its limit, for the bound that is nearest to it."""
        return max(
            (window.quantile_s(b.allowed_share) / (b.limit_ms or 1) * 1000 for b in self._slo.latency_bounds),
            default=0.0,
        )

    def _judge_generator(self, window: Window) -> None:
        """Three doubted windows in a row are the generator's limit, not the server's."""
        self._invalid = self._invalid + 1 if is_doubted(window, self._slo) else 0
        if self._invalid >= INVALID_IN_A_ROW:
            self.generator = window_doubts(window, self._slo)


def _step(pressure: float, use: float) -> float:
    """The factor of the next step up: smaller as latency nears its limit or bad requests use their share."""
    near = max(pressure, use)
    if near < 0.25:
        return 2.0
    return 1.5 if near < 0.5 else 1.2
