"""How others find a rate, as the document on search algorithms describes them, with its references.

Each gets a bracket that is right, at random around the truth; that is more than its users have. Where a tool
runs each rate as a test of its own, the window ends as soon as it is lost and nothing is sent until its
requests have ended: both are gifts that keep the verdicts and spare the load.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np

from benchmarks.search.population import ALLOWED, LIMIT_S
from benchmarks.search.scripted import Played, Script, Scripted, Trial
from pytest_capacity.protocols import Floats, Observation, Probe

WARMUP_S = 5.0
WIDTH = 0.02
Holds = Generator[Probe, Observation, bool]


class Bisection(Scripted):
    """Fixed windows, halving a bracket; five seconds at its lower end to warm up (RFC 2544's search)."""

    def __init__(self, bracket: tuple[float, float], budget_s: float, window_s: float) -> None:
        super().__init__(budget_s)
        self._bracket, self._window_s = bracket, window_s

    def script(self) -> Script:
        """Warm up and bisect."""
        low, high = self._bracket
        yield from self.play("open", WARMUP_S, rate_qps=low)
        yield from self.bisect(low, high, self.holds, WIDTH)

    def holds(self, rate_qps: float) -> Holds:
        """One window's word."""
        trial = yield from self.window(rate_qps, self._window_s)
        return trial.passes and trial.total > 0


class Doubling(Bisection):
    """Double from the start rate until a window fails, then bisect (cliff, Nighthawk, MLPerf's search)."""

    def script(self) -> Script:
        """Double, then bisect."""
        rate = self._bracket[0]
        yield from self.play("open", WARMUP_S, rate_qps=rate)
        while (yield from self.holds(rate)):
            self.low_qps, rate = rate, 2 * rate
        if self.low_qps is None:
            self.status, self.high_qps = "start rate fails", rate
            return
        yield from self.bisect(self.low_qps, rate, self.holds, WIDTH)


class PerfAnalyzer(Scripted):
    """perf_analyzer's rule: windows of 5 s until the last three agree within a tenth; unstable is a fail.

    Throughput and p99 must agree, ten windows are the most, and one of the last three over the limit ends it.
    The lower end must pass and the upper one fail before the bisection starts; nothing is drained between.
    """

    window_s, agree, in_a_row, most = 5.0, 1.10, 3, 10

    def __init__(self, bracket: tuple[float, float], budget_s: float) -> None:
        super().__init__(budget_s)
        self._bracket = bracket

    def script(self) -> Script:
        """Both ends, then the halves."""
        low, high = self._bracket
        if not (yield from self._holds(low)):
            self.status, self.high_qps = "start rate fails", low
            return
        self.low_qps = low
        if (yield from self._holds(high)):
            self.status, self.low_qps = "end rate passes", high
            return
        yield from self.bisect(low, high, self._holds, WIDTH)

    def _holds(self, rate_qps: float) -> Holds:
        throughputs: list[float] = []
        p99s: list[float] = []
        for _ in range(self.most):
            trial = yield from self.play("open", self.window_s, rate_qps=rate_qps)
            good = trial.latency_s[np.isfinite(trial.latency_s)]
            throughputs.append(len(good) / self.window_s)
            p99s.append(trial.quantile_s(1 - ALLOWED))
            last = p99s[-self.in_a_row :]
            if len(last) == self.in_a_row:
                if max(last) > LIMIT_S:
                    return False
                if self._agrees(last) and self._agrees(throughputs[-self.in_a_row :]):
                    return True
        return False

    def _agrees(self, values: list[float]) -> bool:
        return min(values) > 0 and max(values) <= self.agree * min(values)


class AdaptiveScale(Scripted):
    """aiperf's adaptive_scale: a window passes and the rate goes up, by more the larger the margin is.

    The first failing window ends the discovery; the last good rate is then held for ``sustain_s``, stepping
    down once where a window fails; a second failure without a pass between ends it as failed.
    """

    window_s, base_step, most_steps, sustain_s = 5.0, 0.10, 4, 30.0

    def __init__(self, bracket: tuple[float, float], budget_s: float) -> None:
        super().__init__(budget_s)
        self._rate_qps = bracket[0]

    def script(self) -> Script:
        """Discover, then sustain."""
        rate = self._rate_qps
        while True:
            trial = yield from self.play("open", self.window_s, rate_qps=rate)
            if not trial.passes:
                break
            self.low_qps = self.estimate_qps = rate
            rate *= 1 + self._step(trial)
        self.high_qps = rate
        if self.low_qps is None:
            self.status = "start rate fails"
            return
        yield from self._sustain(self.low_qps)

    def _step(self, trial: Trial) -> float:
        margin = 1 - trial.quantile_s(1 - ALLOWED) / LIMIT_S
        return self.base_step * min(max(int(margin * self.most_steps), 1), self.most_steps)

    def _sustain(self, rate: float) -> Script:
        held_s, recovered = 0.0, False
        while held_s < self.sustain_s:
            trial = yield from self.play("open", self.window_s, rate_qps=rate)
            held_s += self.window_s
            if trial.passes:
                recovered = False
                self.low_qps = self.estimate_qps = rate
            elif recovered:
                self.status = "sustain failed"
                return
            else:
                recovered, self.high_qps = True, rate
                rate *= 1 - self.base_step
                self.low_qps = self.estimate_qps = rate


class Staircase(Scripted):
    """One step of 5 % up after a window of 3 s that passes, one down after one that fails.

    Steps are of a quarter until the first failure; the estimate is the geometric mean of the rates from there
    on (Dixon and Mood's up-and-down method), the bracket the span of the last eight.
    """

    window_s, step, first_step = 3.0, 1.05, 1.25

    def __init__(self, bracket: tuple[float, float], budget_s: float) -> None:
        super().__init__(budget_s)
        self._rate_qps = bracket[0]

    def script(self) -> Script:
        """Up and down until the budget is spent."""
        rate = self._rate_qps
        yield from self.play("open", WARMUP_S, rate_qps=rate)
        while (yield from self.window(rate, self.window_s)).passes:
            self.low_qps, rate = rate, rate * self.first_step
        self.high_qps, rate = rate, rate / self.step
        rates: list[float] = []
        while True:
            trial = yield from self.window(rate, self.window_s)
            rates.append(rate)
            rate = rate * self.step if trial.passes else rate / self.step
            self.estimate_qps = math.exp(float(np.mean(np.log(rates))))
            self.low_qps, self.high_qps = min(rates[-8:]), max(rates[-8:])


class ProbabilisticBisection(Scripted):
    """Waeber, Frazier and Henderson (2013): ask at the posterior's median, trust each sign with 0.7.

    A sign is one window of 3 s; the search ends when the 90 % interval is narrower than 5 %.
    """

    window_s, trust, width = 3.0, 0.7, 0.05

    def __init__(self, bracket: tuple[float, float], budget_s: float) -> None:
        super().__init__(budget_s)
        self._grid: Floats = np.linspace(math.log(bracket[0]), math.log(bracket[1]), 2000)
        self._density: Floats = np.full(len(self._grid), 1 / len(self._grid))
        self._bracket = bracket

    def script(self) -> Script:
        """Halve the density's mass, sign by sign."""
        yield from self.play("open", WARMUP_S, rate_qps=self._bracket[0])
        while True:
            low, middle, high = (self._quantile(part) for part in (0.05, 0.5, 0.95))
            self.low_qps, self.estimate_qps, self.high_qps = low, middle, high
            if high / low - 1 <= self.width:
                return
            trial = yield from self.window(middle, self.window_s)
            above = self._grid > math.log(middle)
            self._density[above] *= self.trust if trial.passes else 1 - self.trust
            self._density[~above] *= 1 - self.trust if trial.passes else self.trust
            self._density /= self._density.sum()

    def _quantile(self, probability: float) -> float:
        at = int(np.searchsorted(np.cumsum(self._density), probability))
        return math.exp(float(self._grid[min(at, len(self._grid) - 1)]))


class WarmBisection(Bisection):
    """Windows of 10 s with the closed-loop warm-up of QBS and a bracket around what it got through."""

    below, above = 0.4, 1.2

    def script(self) -> Script:
        """Warm up, find a bracket, bisect."""
        peak_qps = yield from closed_loop_warm_up(self)
        low, high = self.below * peak_qps, self.above * peak_qps
        while not (yield from self.holds(low)):
            self.high_qps, low, high = low, low / 2, low
        yield from self.bisect(low, high, self.holds, WIDTH)


BLOCK_S = 0.25
RISES = 1.08
FLAT, FLAT_BEFORE = 0.04, 0.06
REFUSED = 0.25
WARMUP_MAX_S = 30.0


def closed_loop_warm_up(controller: Scripted) -> Generator[Probe, Observation, float]:
    """Section 3 of the document, P0: twice as many in flight while that brings more, then hold until flat.

    Returns the throughput. A warm-up that is not flat after half a minute ends all the same.
    """
    until_s, concurrency, most = controller.left_s - WARMUP_MAX_S, 1, 2**10
    opened_qps = throughput = 0.0
    while controller.left_s > until_s:
        before = throughput
        trial = yield from controller.play("closed", 0.5, concurrency=concurrency)
        throughput = _throughput(trial, 0.5)
        if not np.isfinite(trial.latency_s).mean() > 1 - REFUSED:
            # The queue has an end: no more in flight than it takes.
            most = concurrency = max(1, concurrency // 2)
        elif throughput > RISES * before and 2 * concurrency <= most:
            opened_qps, concurrency = throughput, 2 * concurrency
            continue
        held = yield from _hold(controller, concurrency, max(0.0, controller.left_s - until_s))
        throughput = _throughput(held, 1.0)
        if throughput <= RISES * opened_qps or 2 * concurrency > most:
            break
        opened_qps, concurrency = throughput, 2 * concurrency
    yield from controller.cool()
    return max(throughput, 1.0)


def _hold(controller: Scripted, concurrency: int, seconds: float) -> Played:
    return (yield from controller.play("closed", seconds, concurrency=concurrency, until=_is_flat))


def _throughput(trial: Trial, seconds: float, ago_s: float = 0.0) -> float:
    """Good requests a second that were begun in some seconds before the end; in a closed loop, ended too."""
    end_s = trial.now_s - ago_s - BLOCK_S
    intended = trial.intended_s[np.isfinite(trial.latency_s)]
    seconds = min(seconds, max(end_s - trial.start_s, BLOCK_S))
    return float(((intended > end_s - seconds) & (intended <= end_s)).sum()) / seconds


def _is_flat(trial: Trial) -> bool:
    """Whether the last second equals the one two seconds earlier, and the second before it its own."""
    if trial.lasted_s < 4.5:
        return False
    pairs = ((0.0, FLAT), (1.0, FLAT_BEFORE))
    return all(
        abs(_throughput(trial, 1.0, ago) / max(_throughput(trial, 1.0, ago + 2), 1e-9) - 1) <= near
        for ago, near in pairs
    )
