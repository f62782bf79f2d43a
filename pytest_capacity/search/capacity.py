"""How much can the server take under an SLO? An ask/tell search (design.md section 6), pure.

It warms the server up by work (``warmup``), which also tells where it saturates, and then asks open loop at
rates that the posterior of the capacity (``beliefs``, ``tail``) makes worth asking. *Dampening*: no step
leaves what the evidence supports, nor offers what would make many requests late. *Spike tolerance*: spikes
are part of the evidence, told from a queue by not depending on the rate, and the capacity is given with and
without them. *Convergence*: the interval's width, confirmed by a soak. After an overload it waits until the
queue is empty and a low control rate is as quick as before.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.beliefs import HIGH, LOW, MIDDLE, Beliefs
from pytest_capacity.search.doubts import Doubt, generator_doubts
from pytest_capacity.search.found import CapacityResult, Status
from pytest_capacity.search.stage import Played, Script, Stage
from pytest_capacity.search.warmup import WarmUp, closed_loop, is_faster, open_loop
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO
from pytest_capacity.stats.intervals import share_limits

ILL_CONDITIONED = 0.15
"""Above this condition number a tenth more allowed lateness moves the capacity by more than 1.5 %."""
SURE = 0.6

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
AGAIN_SHARE = 0.3
"""What of the budget that is left a second warm-up may take, where the first ended too early."""
LEAST_LEFT = 0.35
"""With less of the budget left there is no time to begin anew."""
BACK_RATIO = 1.5
WIDE = 0.35
ABOVE, BELOW = 1.02, 0.97
MOST_USE = 6.0
"""No rate is offered at which a bound is expected to use more than so many times its allowed share."""
ENOUGH = 0.5
"""The search ends before its budget when the interval is this part of the tolerance."""
INVALID_IN_A_ROW = 3
COLD_EXPONENT = 1.2
"""A server that takes a tenth longer for each request has 12 % less capacity: its limit does not stretch."""
_DEFAULT_MAX_QPS = 10_000.0


class CapacitySearch:
    """Find the highest rate up to which ``slo`` holds.

    ``budget_s`` is the most load, every phase included. ``tolerance`` is the width of the 90 % interval, as a
    share of the capacity, that counts as converged; the load ends before the budget at half of that. Rates
    stay within ``min_qps`` and ``max_qps``. ``max_in_flight`` is where a probe ends as overloaded. None of
    its choices is random, nor steered by ``require_qps``: it and ``seed`` are only kept.

    Raises ValueError for bounds or times out of range.
    """

    def __init__(
        self,
        slo: SLO,
        *,
        budget_s: float = 60,
        tolerance: float = 0.08,
        min_qps: float | None = None,
        max_qps: float | None = None,
        max_in_flight: int | None = None,
        require_qps: float | None = None,
        seed: int = 0,
    ) -> None:
        _check(
            budget_s=budget_s, tolerance=tolerance, min_qps=min_qps, max_qps=max_qps, require_qps=require_qps
        )
        self.slo, self.seed, self.tolerance = slo, seed, tolerance
        self.budget_s, self.require_qps = budget_s, require_qps
        self._min_qps, self._max_qps = min_qps, max_qps or _DEFAULT_MAX_QPS
        if min_qps is not None and min_qps > self._max_qps:
            raise ValueError(f"min_qps={min_qps:g} is above max_qps={self._max_qps:g}")
        self._is_bounded = max_qps is not None
        self._stage = Stage(slo, budget_s, max_in_flight)
        self._beliefs = Beliefs(slo)
        self._warm_up: WarmUp | None = None
        self._warm_since = 0
        self._checked = False
        self._baseline_s = math.inf
        self._low_qps = 0.0
        self._moved: Doubt | None = None
        self._invalid = 0
        self._generator: tuple[Doubt, ...] = ()
        self._stopped: str | None = None
        self._refining = False
        self._confirmed = False
        self._status: Status | None = None
        self._script = self._search()
        self._probe: Probe | None = next(self._script)

    @property
    def windows(self) -> list[Window]:
        """Every probe so far with what came of it."""
        return self._stage.windows

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when the search has ended."""
        return self._probe

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._stage.tell(observation)
        if self._probe is None or observation.probe_id != self._probe.id:
            return
        if self._stage.left_s <= 1e-9:
            self._probe = None
            return
        try:
            self._probe = self._script.send(observation)
        except StopIteration:
            self._probe = None

    def extend(self) -> bool:
        """A search reports how wide its interval is in place of taking more than its budget: never."""
        return False

    def halt(self, reason: str) -> None:
        """End at once because the load was stopped from outside; what was found stands with a doubt."""
        self._stopped, self._probe = reason, None

    def left_s(self) -> float:
        """Seconds of load that may still come."""
        return self._stage.left_s

    def standing(self) -> str:
        """The interval so far, once there is evidence; empty before."""
        if not self._refining:
            return ""
        return f"capacity {self._beliefs.quantile(LOW):,.3g}-{self._beliefs.quantile(HIGH):,.3g}/s"

    def result(self) -> CapacityResult:
        """What is known so far."""
        known = bool(self._evidence())
        if known:
            self._update()
        status = self._final_status(known=known)
        capacity, low, high = self._interval(status, known=known)
        warm_up = self._warm_up
        return CapacityResult(
            capacity_qps=capacity,
            ci_low_qps=low,
            ci_high_qps=high,
            condition_number=self._beliefs.condition_number() if known else None,
            status=status,
            load_s=min(self._stage.now_s, self.budget_s),
            requests=self._stage.requests,
            doubts=self._doubts(),
            binding=self.slo.bounds[self._beliefs.binding].name if known else "",
            warmup_s=warm_up.seconds if warm_up else self._stage.now_s,
            baseline_ms=self._baseline_s * 1000 if math.isfinite(self._baseline_s) else None,
            calm_qps=self._beliefs.calm_qps() if known and capacity is not None else None,
            saturation_qps=warm_up.saturation.qps if warm_up and warm_up.saturation else None,
            cold_factor=1 + warm_up.cold.excess if warm_up and warm_up.cold else None,
        )

    # The script: what is asked for, in its order.

    def _search(self) -> Script:
        stage = self._stage
        if self._is_bounded:
            gentle_qps = self._min_qps or self._max_qps / 10
            self._warm_up = yield from open_loop(stage, gentle_qps)
            start_qps = gentle_qps
        else:
            self._warm_up = yield from closed_loop(stage)
            usual_qps = max(START_SHARE * self._warm_up.reached_qps, LEAST_QPS)
            start_qps = min(max(self._min_qps or 0.0, usual_qps), self._max_qps)
        self._baseline_s = self._warm_up.baseline_s
        limited = yield from self._ramp(start_qps)
        if limited:
            self._refining = True
            yield from self._refine()

    def _ramp(self, start_qps: float) -> Generator[Probe, Observation, bool]:
        """Step up, by less the nearer the limit, until evidence shows one; False where that is the end."""
        rate = start_qps
        while self._stage.left_s > STEP_S:
            window = yield from self._open(rate, STEP_S * self._stage.scale + 10 / rate)
            use = max(self._use(window), 0.0)
            if use > 1 or window.overloaded:
                if self._min_qps is not None and rate <= self._min_qps * 1.001:
                    return (yield from self._fails_at_min(rate))
                return True
            if self._generator:
                return False
            if self._low_qps == 0.0:
                self._low_qps, self._baseline_s = rate, window.median_s()
            if rate >= self._max_qps:
                return (yield from self._holds_at_max())
            if self._saturation is not None and self._evidence():
                self._update()
                return True
            rate = min(self._max_qps, self._below_saturation(rate * _step(self._pressure(window), use)))
        return True

    def _below_saturation(self, rate: float) -> float:
        """No step of the ramp leads to where the server is known to saturate."""
        warm_up = self._warm_up
        if warm_up is None or warm_up.saturation is None:
            return rate
        return min(rate, RAMP_SHARE * warm_up.saturation.qps)

    def _fails_at_min(self, rate: float) -> Generator[Probe, Observation, bool]:
        """Look again at the lowest rate allowed: what fails twice there is unattainable."""
        window = yield from self._open(rate, PROBE_S * self._stage.scale)
        self._update()
        if self._beliefs.quantile(HIGH) < rate * 1.02 or self._use(window) > 1:
            self._status = "unattainable"
            return False
        return True

    def _holds_at_max(self) -> Generator[Probe, Observation, bool]:
        """Look longer at the highest rate allowed: what holds there has no limit within reach."""
        while self._stage.left_s > STEP_S:
            yield from self._open(self._max_qps, PROBE_S * self._stage.scale)
            self._update()
            if self._is_held(self._max_qps) or self._beliefs.quantile(LOW) >= 0.98 * self._max_qps:
                self._status = "no_limit_found"
                return False
            if self._beliefs.quantile(MIDDLE) < self._max_qps:
                return True
        return False

    def _is_held(self, rate: float) -> bool:
        """Whether all windows at a rate together show, at 95 %, that every bound holds there."""
        windows = [window.counts() for window in self._evidence() if window.rate_qps >= 0.999 * rate]
        if not windows:
            return False
        for index, bound in enumerate(self.slo.bounds):
            counts = [counts[index] for counts in windows]
            total, bad = sum(count.total for count in counts), sum(count.bad for count in counts)
            effect = max((count.effect for count in counts), default=1.0)
            if share_limits(bad, total, effect, LOW)[1] > bound.allowed_share:
                return False
        return True

    def _refine(self) -> Script:
        """Ask where the posterior is undecided, on both sides in turn, until it is narrow and confirmed."""
        above, scale = False, self._stage.scale
        while self._stage.left_s > 1.0 and not self._generator:
            if not self._evidence():
                return
            self._update()
            width = self._beliefs.width()
            if width <= ENOUGH * self.tolerance and self._confirmed and self._checked:
                return
            if self._is_beyond_reach():
                return
            is_due = self._stage.now_s - self._warm_up_ended_s > CHECK_AFTER_S * scale
            if not self._checked and is_due:
                yield from self._check_warmth()
                continue
            if width <= self.tolerance and not self._confirmed:
                yield from self._open(self._within(self._beliefs.quantile(0.25)), SOAK_S * scale)
                self._update()
                self._confirmed = self._beliefs.width() <= 1.1 * self.tolerance
                continue
            seconds = (STEP_S if width > WIDE else PROBE_S) * scale
            if self._stage.left_s < 1.5 * seconds:
                seconds = self._stage.left_s
            rate, above = self._next_rate(width, above=above), not above
            yield from self._open(rate, seconds + 10 / rate)

    @property
    def _warm_up_ended_s(self) -> float:
        return self._warm_up.seconds if self._warm_up else 0.0

    def _check_warmth(self) -> Script:
        """After some work see that the server is no faster than after the warm-up; else begin anew."""
        self._checked = True
        if self._warm_up is None or self._stage.left_s < LEAST_LEFT * self.budget_s:
            return
        if not (yield from is_faster(self._stage, self._warm_up)):
            return
        if self._warm_since:
            # Warmed up twice and faster still: what there is must do, and the doubt is told.
            self._warm_up = replace(self._warm_up, steady=False)
            return
        self._warm_since, self._checked = len(self.windows), False
        self._warm_up = yield from closed_loop(
            self._stage, share=AGAIN_SHARE, concurrency=self._warm_up.concurrency
        )
        # The next window tells what to believe now.
        rate = max(START_SHARE * self._warm_up.reached_qps, LEAST_QPS)
        yield from self._open(self._within(rate), STEP_S * self._stage.scale)

    def _next_rate(self, width: float, *, above: bool) -> float:
        """A rate that will tell much, within what the posterior supports and the server should bear."""
        beliefs = self._beliefs
        middle = beliefs.quantile(MIDDLE)
        if width > WIDE:
            rate = beliefs.quantile(0.4)
        elif above:
            rate = max(beliefs.quantile(0.7), ABOVE * middle)
        else:
            rate = min(beliefs.quantile(0.3), BELOW * middle)
        # A handful of requests tells nothing of one in a hundred, nor does it warm anything up.
        rate = max(rate, LEAST_SHARE * self._warm_up.reached_qps) if self._warm_up else rate
        while rate > middle and beliefs.use_at(rate) > MOST_USE:
            rate = max(middle, rate * 0.995)
        return self._within(rate)

    def _within(self, rate: float) -> float:
        return min(max(rate, self._min_qps or 0.0), self._max_qps)

    def _is_beyond_reach(self) -> bool:
        """Whether the capacity is below the lowest rate allowed or above the highest, beyond doubt."""
        if self._min_qps is not None and self._beliefs.quantile(HIGH) < self._min_qps:
            self._status = "unattainable"
        elif self._beliefs.quantile(LOW) > self._max_qps and self._is_held(self._max_qps):
            self._status = "no_limit_found"
        return self._status is not None

    def _open(self, rate: float, seconds: float) -> Played:
        """One window open loop; an overload is drained before anything else is asked."""
        stage = self._stage
        settle_s = SETTLE_S * stage.scale
        window = stage.begin("open", seconds + settle_s, rate_qps=rate, settle_s=settle_s)
        yield from stage.play(window)
        self._correct_for_cold(window)
        self._judge_generator(window)
        in_flight = window.last.in_flight if window.last else 0
        if window.overloaded or in_flight > max(8.0, 3 * rate * stage.limit_s):
            yield from self._recover()
        return window

    def _correct_for_cold(self, window: Window) -> None:
        cold = self._warm_up.cold if self._warm_up else None
        if cold is not None:
            slowdown = cold.slowdown(window.requests_before + window.sent / 2)
            window.load_factor = slowdown**COLD_EXPONENT

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
            self._correct_for_cold(control)
            if control.median_s() <= BACK_RATIO * self._baseline_s + 0.001:
                self._moved = None
                return
            self._moved = Doubt(
                "server_changed",
                f"at {self._low_qps:.4g}/s the median was {self._baseline_s * 1000:.3g} ms before an "
                f"overload and {control.median_s() * 1000:.3g} ms after it",
                "a fresh server, or max_qps below the overload",
            )

    # What the script decides by.

    @property
    def _saturation(self) -> object:
        return self._warm_up.saturation if self._warm_up else None

    def _evidence(self) -> list[Window]:
        return [
            window
            for window in self.windows[self._warm_since :]
            if window.is_evidence and window.evidence.seconds > 0 and not _is_doubted(window, self.slo)
        ]

    def _update(self) -> None:
        self._beliefs.take(self._evidence(), self._warm_up.saturation if self._warm_up else None)

    def _use(self, window: Window) -> float:
        """How many times the allowed share was used, by the bound that used most of it."""
        return max(window.share_of(i) / bound.allowed_share for i, bound in enumerate(self.slo.bounds))

    def _pressure(self, window: Window) -> float:
        """The bounded latency quantile over its limit, for the bound that is nearest to it."""
        return max(
            (window.quantile_s(b.allowed_share) / (b.limit_ms or 1) * 1000 for b in self.slo.latency_bounds),
            default=0.0,
        )

    def _judge_generator(self, window: Window) -> None:
        """Three doubted windows in a row are the generator's limit, not the server's."""
        self._invalid = self._invalid + 1 if _is_doubted(window, self.slo) else 0
        if self._invalid >= INVALID_IN_A_ROW:
            self._generator = _window_doubts(window, self.slo)

    def _final_status(self, *, known: bool) -> Status:
        if self._generator:
            return "generator_limited"
        if self._status is not None:
            return self._status
        if self._warm_up is not None and not self._warm_up.steady:
            return "not_steady"
        return self._status_of_evidence() if known else "budget"

    def _status_of_evidence(self) -> Status:
        if self._is_held(self._max_qps):
            return "no_limit_found"
        if self._beliefs.ill_conditioned(ILL_CONDITIONED) > SURE:
            return "ill_conditioned"
        return "converged" if self._confirmed and self._beliefs.width() <= self.tolerance else "budget"

    def _interval(self, status: Status, *, known: bool) -> tuple[float | None, float | None, float | None]:
        if not known:
            return None, None, None
        low, middle, high = (self._beliefs.quantile(part) for part in (LOW, MIDDLE, HIGH))
        if status == "unattainable":
            return None, None, min(high, self._min_qps or high)
        if status == "no_limit_found":
            return None, self._max_qps, None
        return middle, low, high

    def _doubts(self) -> tuple[Doubt, ...]:
        stopped = unsteady = None
        if self._stopped:
            stopped = Doubt("stopped", f"the load was stopped: {self._stopped}", "the server's log")
        if self._warm_up is not None and not self._warm_up.steady:
            unsteady = Doubt(
                "not_steady",
                f"the server was not steady after {self._warm_up.seconds:.0f} s and "
                f"{self._warm_up.requests} requests of warm-up",
                "a longer budget_s, or a server that is warm",
            )
        return tuple(doubt for doubt in (*self._generator, stopped, unsteady, self._moved) if doubt)


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be positive")


def _step(pressure: float, use: float) -> float:
    """The factor of the next step up: smaller as latency nears its limit or bad requests use their share."""
    near = max(pressure, use)
    if near < 0.25:
        return 2.0
    return 1.5 if near < 0.5 else 1.2


def _window_doubts(window: Window, slo: SLO) -> tuple[Doubt, ...]:
    if window.last is None:
        return ()
    smallest_ms = min((bound.limit_ms or 0.0 for bound in slo.latency_bounds), default=None)
    return generator_doubts(window.health, window.last.planned, window.last.sent, smallest_ms)


def _is_doubted(window: Window, slo: SLO) -> bool:
    """Whether the generator's own trouble can explain the window; an overload makes a generator late too."""
    doubts = _window_doubts(window, slo)
    if not doubts or window.overloaded:
        return False
    # Once for each request's own lateness and once for the queue that requests sent in a bunch make.
    beyond = window.use_beyond(2 * window.health.late_max_s) > 1
    return not (beyond and all("latency" in doubt.explains for doubt in doubts))
