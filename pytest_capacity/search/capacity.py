"""How much can the server take under an SLO? An ask/tell search (design.md section 6), pure.

It warms up gently with one and two requests in flight, ramps up open loop in damped steps until requests
become late, and then asks at rates that a posterior of the capacity (``posterior``) makes worth asking: never
beyond what the evidence supports. After an overload it waits until the queue is empty and a low control rate
is as quick as before. When the interval is narrow a soak at its lower end must confirm it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Literal

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.doubts import Doubt, generator_doubts
from pytest_capacity.search.found import CapacityResult, Status
from pytest_capacity.search.posterior import BoundPosterior, joint_quantile
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO
from pytest_capacity.stats.intervals import share_limits

LOW, MIDDLE, HIGH = 0.05, 0.5, 0.95
"""The interval is 90 %, two-sided."""
ILL_CONDITIONED = 0.15
"""Above this condition number a tenth more allowed lateness moves the capacity by more than 1.5 %."""

SURE = 0.8

WARMUP_SHARE = 0.2
FLAT_RATIO, FLAT_S = 1.25, 0.001
START_SHARE = 0.3
"""The ramp starts at this share of what one request at a time got through: any server holds that."""
STEP_S = 2.0
PROBE_S = 6.0
SOAK_S = 10.0
SETTLE_S = 0.5
DRAIN_S = 10.0
CONTROL_S = 1.0
BACK_RATIO = 1.5
WIDE = 0.35
ABOVE, BELOW = 1.06, 0.96
INVALID_IN_A_ROW = 3
_BELOW, _ABOVE = 2.0, 2.5
_DEFAULT_MAX_QPS = 10_000.0

Script = Generator[Probe, Observation, None]
Played = Generator[Probe, Observation, Window]


class CapacitySearch:
    """Find the highest rate up to which ``slo`` holds.

    ``budget_s`` is the most load, every phase included. ``tolerance`` is the width of the 90 % interval, as a
    share of the capacity, at which the search is content. Rates stay within ``min_qps`` and ``max_qps``.
    ``max_in_flight`` is where a probe ends as overloaded. None of the choices is random, nor steered by
    ``require_qps``: it and ``seed`` are only kept.

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
        self._max_in_flight = max_in_flight
        self.windows: list[Window] = []
        self._posteriors: list[BoundPosterior] = []
        self._now_s = 0.0
        self._warmup_s = 0.0
        self._baseline_s = math.inf
        self._low_qps = 0.0
        self._steady = True
        self._moved: Doubt | None = None
        self._invalid = 0
        self._generator: tuple[Doubt, ...] = ()
        self._stopped: str | None = None
        self._high_qps = 0.0
        self._refining = False
        self._status: Status | None = None
        self._script = self._search()
        self._probe: Probe | None = next(self._script)

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when the search has ended."""
        return self._probe

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._now_s = max(self._now_s, observation.now_s)
        for window in self.windows:
            if window.probe.id == observation.probe_id:
                window.add(observation)
        if self._probe is None or observation.probe_id != self._probe.id:
            return
        if self._now_s >= self.budget_s - 1e-9:
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
        return max(0.0, self.budget_s - self._now_s)

    def standing(self) -> str:
        """The interval so far, once requests have been late; empty before."""
        if not self._refining:
            return ""
        return f"capacity {self._quantile(LOW):,.3g}-{self._quantile(HIGH):,.3g}/s"

    def result(self) -> CapacityResult:
        """What is known so far."""
        self._update()
        status = self._final_status()
        capacity, low, high = self._interval(status)
        return CapacityResult(
            capacity_qps=capacity,
            ci_low_qps=low,
            ci_high_qps=high,
            condition_number=self._condition_number(),
            status=status,
            load_s=min(self._now_s, self.budget_s),
            requests=sum(window.last.sent for window in self.windows if window.last),
            doubts=self._doubts(),
            binding=self._binding(),
            warmup_s=self._warmup_s,
            baseline_ms=self._baseline_s * 1000 if math.isfinite(self._baseline_s) else None,
        )

    # The script: what is asked for, in its order.

    def _search(self) -> Script:
        start_qps = yield from self._warm_up()
        self._make_posteriors(start_qps / _BELOW, start_qps * _ABOVE)
        fits = yield from self._ramp(start_qps)
        if fits:
            self._span_evidence()
            self._refining = True
            yield from self._refine()

    def _play(self, probe: Probe) -> Played:
        """Play a probe to its end, or until it is overloaded; an open window enters the evidence."""
        window = Window(probe, self._now_s, self.slo)
        self.windows.append(window)
        while window.lasted_s < probe.max_s - 1e-9:
            yield probe
            if window.overloaded or self._is_full(window):
                break
        return window

    def _next(self, kind: Literal["open", "closed", "drain"], seconds: float, **what: float) -> Probe:
        left_s = max(0.0, self.budget_s - self._now_s)
        rate, concurrency = what.get("rate_qps"), what.get("concurrency")
        return Probe(
            id=len(self.windows),
            kind=kind,
            rate_qps=rate,
            concurrency=None if concurrency is None else int(concurrency),
            max_s=min(seconds, left_s),
            settle_s=what.get("settle_s", 0.0),
        )

    def _warm_up(self) -> Generator[Probe, Observation, float]:
        """Load lightly until the median latency is flat; returns the rate to start at.

        One request in flight at a time, then two; a closed loop can be faster than ``max_qps`` allows: with
        one given a tenth of it is offered open loop.
        """
        gentle_qps = self._min_qps or self._max_qps / 10
        medians: list[float] = []
        one_qps = 0.0
        while self._now_s < WARMUP_SHARE * self.budget_s:
            if self._is_bounded:
                probe = self._next("open", 1.0 + 10 / gentle_qps, rate_qps=gentle_qps, settle_s=math.inf)
            else:
                probe = self._next("closed", 1.0, concurrency=1)
            window = yield from self._play(probe)
            one_qps = max(one_qps, window.throughput_qps())
            medians.append(window.median_s())
            if len(medians) > 1 and _is_flat(medians[-2], medians[-1]):
                break
        else:
            self._steady = False
        self._baseline_s = min(medians, default=math.inf)
        if not self._is_bounded:
            yield from self._play(self._next("closed", 1.0, concurrency=2))
        self._warmup_s = self._now_s
        if self._is_bounded:
            return gentle_qps
        return min(self._min_qps or START_SHARE * max(one_qps, 1.0), self._max_qps)

    def _make_posteriors(self, low_qps: float, high_qps: float) -> None:
        self._high_qps = high_qps
        self._posteriors = [
            BoundPosterior(bound.allowed_share, low_qps, high_qps) for bound in self.slo.bounds
        ]
        self._update()

    def _span_evidence(self) -> None:
        """Let the posterior reach from below the lowest rate seen to above the highest."""
        rates = [window.rate_qps for window in self._evidence()]
        if rates:
            self._make_posteriors(min(rates) / _BELOW, max(rates) * _ABOVE)

    def _widen_grid(self) -> None:
        """Make room above where the evidence points beyond the rates that were thought possible."""
        if self._quantile(HIGH) > 0.9 * self._high_qps and self._quantile(MIDDLE) > self._high_qps / _ABOVE:
            self._make_posteriors(float(self._posteriors[0].grid_qps[0]), self._high_qps * _ABOVE)

    def _ramp(self, start_qps: float) -> Generator[Probe, Observation, bool]:
        """Step up, by less the nearer the limit, until requests become late; False where that is the end."""
        rate = start_qps
        while True:
            window = yield from self._open(rate, STEP_S + 10 / rate)
            use = max(self._use(window), 0.0)
            if use > 1 or window.overloaded:
                if self._min_qps is not None and rate <= self._min_qps * 1.001:
                    return (yield from self._fails_at_min(rate))
                break
            if self._generator:
                return False
            if self._low_qps == 0.0:
                self._low_qps, self._baseline_s = rate, max(self._baseline_s, window.median_s())
            if rate >= self._max_qps:
                return (yield from self._holds_at_max())
            rate = min(self._max_qps, rate * _step(self._pressure(window), use))
        return True

    def _fails_at_min(self, rate: float) -> Generator[Probe, Observation, bool]:
        """Look again at the lowest rate allowed: what fails twice there is unattainable."""
        window = yield from self._open(rate, PROBE_S)
        self._span_evidence()
        if self._quantile(HIGH) < rate * 1.02 or self._use(window) > 1:
            self._status = "unattainable"
            return False
        return True

    def _holds_at_max(self) -> Generator[Probe, Observation, bool]:
        """Look longer at the highest rate allowed: what holds there has no limit within reach."""
        while self.left_s() > STEP_S:
            yield from self._open(self._max_qps, PROBE_S)
            self._span_evidence()
            if self._is_held(self._max_qps) or self._quantile(LOW) >= 0.98 * self._max_qps:
                self._status = "no_limit_found"
                return False
            if self._quantile(MIDDLE) < self._max_qps:
                return True
        return False

    def _is_held(self, rate: float) -> bool:
        """Whether all windows at a rate together show, at 95 %, that every bound holds there."""
        windows = [window.counts() for window in self._evidence() if window.rate_qps >= 0.999 * rate]
        for index, bound in enumerate(self.slo.bounds):
            counts = [counts[index] for counts in windows]
            total, bad = sum(count.total for count in counts), sum(count.bad for count in counts)
            effect = max((count.effect for count in counts), default=1.0)
            if share_limits(bad, total, effect, LOW)[1] > bound.allowed_share:
                return False
        return True

    def _refine(self) -> Script:
        """Ask where the posterior is undecided, on both sides in turn, until a soak confirms it."""
        above = False
        while self.left_s() > 1.0 and not self._generator:
            self._update()
            self._widen_grid()
            if self._width() <= self.tolerance:
                yield from self._open(self._quantile(LOW), SOAK_S)
                self._update()
                if self._width() <= self.tolerance * 1.1:
                    self._status = "converged"
                    return
                continue
            middle = self._quantile(MIDDLE)
            rate = (
                max(self._quantile(0.75), ABOVE * middle)
                if above
                else min(self._quantile(0.25), BELOW * middle)
            )
            seconds, above = (STEP_S if self._width() > WIDE else PROBE_S), not above
            yield from self._open(min(rate, self._max_qps), seconds)

    def _open(self, rate: float, seconds: float) -> Played:
        """One window open loop; an overload is drained before anything else is asked."""
        window = yield from self._play(
            self._next("open", seconds + SETTLE_S, rate_qps=rate, settle_s=SETTLE_S)
        )
        self._judge_generator(window)
        limit_s = (self.slo.largest_limit_ms or 1000.0) / 1000
        in_flight = window.last.in_flight if window.last else 0
        if window.overloaded or in_flight > max(8.0, 2 * rate * limit_s):
            yield from self._recover()
        return window

    def _recover(self) -> Script:
        """Send nothing until the queue is empty, then see that a low rate is as quick as it was before."""
        window = Window(self._next("drain", DRAIN_S), self._now_s, self.slo)
        self.windows.append(window)
        while window.lasted_s < window.probe.max_s - 1e-9:
            yield window.probe
            if window.last is not None and window.last.in_flight == 0:
                break
        if self._low_qps <= 0.0:
            return
        for _ in range(5):
            control = yield from self._play(
                self._next(
                    "open", CONTROL_S + 10 / self._low_qps, rate_qps=self._low_qps, settle_s=SETTLE_S / 2
                )
            )
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

    def _evidence(self) -> list[Window]:
        return [
            window
            for window in self.windows
            if window.probe.kind == "open" and not _is_doubted(window, self.slo)
        ]

    def _update(self) -> None:
        windows = [window.counts() for window in self._evidence()]
        for index, posterior in enumerate(self._posteriors):
            posterior.take([counts[index] for counts in windows])

    def _quantile(self, probability: float) -> float:
        return joint_quantile(self._posteriors, probability)

    def _width(self) -> float:
        return self._quantile(HIGH) / self._quantile(LOW) - 1

    def _use(self, window: Window) -> float:
        """How many times the allowed share was used, by the bound that used most of it."""
        return max(window.share_of(i) / bound.allowed_share for i, bound in enumerate(self.slo.bounds))

    def _pressure(self, window: Window) -> float:
        """The bounded latency quantile over its limit, for the bound that is nearest to it."""
        return max(
            (window.quantile_s(b.allowed_share) / (b.limit_ms or 1) * 1000 for b in self.slo.latency_bounds),
            default=0.0,
        )

    def _is_full(self, window: Window) -> bool:
        in_flight = window.last.in_flight if window.last else 0
        return self._max_in_flight is not None and in_flight >= self._max_in_flight

    def _judge_generator(self, window: Window) -> None:
        """Three doubted windows in a row are the generator's limit, not the server's."""
        self._invalid = self._invalid + 1 if _is_doubted(window, self.slo) else 0
        if self._invalid >= INVALID_IN_A_ROW:
            self._generator = _window_doubts(window, self.slo)

    def _condition_number(self) -> float | None:
        if not self._posteriors or not self._evidence():
            return None
        return self._binding_posterior().condition_number()

    def _binding_posterior(self) -> BoundPosterior:
        return min(self._posteriors, key=lambda posterior: posterior.quantile(MIDDLE))

    def _binding(self) -> str:
        if not self._posteriors:
            return ""
        return self.slo.bounds[self._posteriors.index(self._binding_posterior())].name

    def _final_status(self) -> Status:
        if self._generator:
            return "generator_limited"
        if self._status in ("unattainable", "no_limit_found"):
            return self._status
        if not self._steady:
            return "not_steady"
        if self._posteriors and self._binding_posterior().ill_conditioned(ILL_CONDITIONED) > SURE:
            return "ill_conditioned"
        return self._status or "budget"

    def _interval(self, status: Status) -> tuple[float | None, float | None, float | None]:
        if not self._posteriors or not self._evidence():
            return None, None, None
        low, middle, high = (self._quantile(part) for part in (LOW, MIDDLE, HIGH))
        if status == "unattainable":
            return None, None, min(high, self._min_qps or high)
        if status == "no_limit_found":
            return None, self._max_qps, None
        return middle, low, high

    def _doubts(self) -> tuple[Doubt, ...]:
        stopped = (
            Doubt("stopped", f"the load was stopped: {self._stopped}", "the server's log")
            if self._stopped
            else None
        )
        unsteady = None
        if not self._steady:
            unsteady = Doubt(
                "not_steady",
                f"latency was not flat after {self._warmup_s:.0f} s of warm-up",
                "a longer budget_s, or a server that is warm",
            )
        return tuple(doubt for doubt in (*self._generator, stopped, unsteady, self._moved) if doubt)


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be positive")


def _is_flat(before_s: float, now_s: float) -> bool:
    """Whether two medians differ by less than servers and machines do from one second to the next."""
    return abs(now_s - before_s) <= max(FLAT_S, (FLAT_RATIO - 1) * min(now_s, before_s))


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
