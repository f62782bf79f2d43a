"""What the baselines share: a controller written as a script of trials, with a budget over all of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from benchmarks.search.population import ALLOWED, LIMIT_S
from pytest_capacity.protocols import Floats, Observation, Outcome, Probe

COOLING_S = 6.0
"""Longer than a client waits for a reply: by then nothing is in flight."""


@dataclass
class Trial:
    """One probe and what was told of it."""

    probe: Probe
    start_s: float
    now_s: float = 0.0
    sent: int = 0
    in_flight: int = 0
    _intended: list[Floats] = field(default_factory=list)
    _latency: list[Floats] = field(default_factory=list)

    def add(self, observation: Observation) -> None:
        """Take what was told; a failed request counts as infinitely slow."""
        kept = observation.intended_s >= self.start_s + self.probe.settle_s
        failed = (observation.outcome >= Outcome.BAD_STATUS) & (observation.outcome <= Outcome.DISCONNECTED)
        self._intended.append(observation.intended_s[kept])
        self._latency.append(np.where(failed, math.inf, observation.latency_s)[kept])
        self.now_s = observation.now_s
        self.in_flight, self.sent = observation.in_flight, observation.sent

    @property
    def rate_qps(self) -> float:
        """The rate offered."""
        return float(self.probe.rate_qps or 0.0)

    @property
    def lasted_s(self) -> float:
        """How long the probe has been on."""
        return self.now_s - self.start_s

    @property
    def intended_s(self) -> Floats:
        """When the requests that count were to be sent."""
        return np.concatenate(self._intended) if self._intended else np.empty(0)

    @property
    def latency_s(self) -> Floats:
        """Their latencies."""
        return np.concatenate(self._latency) if self._latency else np.empty(0)

    @property
    def total(self) -> int:
        """How many requests count."""
        return sum(map(len, self._latency))

    @property
    def bad(self) -> int:
        """How many of them were late or failed."""
        return sum(int((part > LIMIT_S).sum()) for part in self._latency)

    @property
    def share(self) -> float:
        """The share of late or failed ones; 0 without any request."""
        return self.bad / self.total if self.total else 0.0

    @property
    def passes(self) -> bool:
        """Whether no more than the allowed share was late or failed."""
        return self.bad <= ALLOWED * self.total

    def quantile_s(self, probability: float) -> float:
        """A latency quantile by rank; infinite without any request."""
        latency = self.latency_s
        return float(np.quantile(latency, probability, method="higher")) if len(latency) else math.inf


Script: TypeAlias = Generator[Probe, Observation, None]
Played: TypeAlias = Generator[Probe, Observation, Trial]
Until: TypeAlias = Callable[[Trial], bool]


def never(_trial: Trial) -> bool:
    """A trial that only its time ends."""
    return False


def lost(trial: Trial) -> bool:
    """Whether a trial fails whatever is still to come: more are late than the whole of it allows.

    The verdict is that of the full window, and the load is spared.
    """
    planned = trial.rate_qps * (trial.probe.max_s - trial.probe.settle_s)
    return trial.bad > max(1.0, 1.1 * ALLOWED * planned)


class Scripted(ABC):
    """A controller whose ``script`` plays trials in turn until it ends or the budget is spent.

    What it knows stands in ``low_qps``, ``high_qps`` and ``estimate_qps`` at any time, so that a spent budget
    costs no more than the rest of the search.
    """

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self.low_qps: float | None = None
        self.high_qps: float | None = None
        self.estimate_qps: float | None = None
        self.status = "budget"
        self._trials: list[Trial] = []
        self._now_s = 0.0
        self._script = self._whole()
        self._probe: Probe | None = None
        self._begun = False

    @abstractmethod
    def script(self) -> Script:
        """The trials in their order."""

    def answer(self) -> tuple[float | None, float | None, float | None]:
        """Estimate, low and high: the geometric middle of the bracket where there is nothing better."""
        low, high = self.low_qps, self.high_qps
        middle = math.sqrt(low * high) if low and high else low or high
        return self.estimate_qps or middle, low, high

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when done."""
        if not self._begun:
            self._begun = True
            self._probe = next(self._script, None)
        return self._probe

    def tell(self, observation: Observation) -> None:
        """Take what came of the load."""
        self._now_s = max(self._now_s, observation.now_s)
        trial = self._trials[observation.probe_id]
        trial.add(observation)
        if self._probe is None or observation.probe_id != self._probe.id:
            return
        if self._now_s >= self.budget_s - 1e-9:
            self._probe = None
            return
        try:
            self._probe = self._script.send(observation)
        except StopIteration:
            self._probe = None

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(trial.sent for trial in self._trials)

    @property
    def left_s(self) -> float:
        """Seconds of load that may still come."""
        return max(0.0, self.budget_s - self._now_s)

    def _whole(self) -> Script:
        yield from self.script()
        if self.status == "budget":
            self.status = "converged"

    def play(
        self,
        kind: Literal["open", "closed", "drain"],
        seconds: float,
        *,
        rate_qps: float | None = None,
        concurrency: int | None = None,
        settle_s: float = 0.0,
        until: Until = never,
    ) -> Played:
        """One probe, to its end or until ``until`` says so."""
        probe = Probe(
            len(self._trials), kind, rate_qps, concurrency, max_s=min(seconds, self.left_s), settle_s=settle_s
        )
        trial = Trial(probe, self._now_s, self._now_s)
        self._trials.append(trial)
        while trial.lasted_s < probe.max_s - 1e-9:
            yield probe
            if until(trial):
                break
        return trial

    def window(
        self, rate_qps: float, seconds: float, *, until: Until = lost, settle_s: float = 0.0
    ) -> Played:
        """A window at one rate, and then nothing until every request of it has ended."""
        trial = yield from self.play("open", seconds, rate_qps=rate_qps, settle_s=settle_s, until=until)
        yield from self.cool()
        return trial

    def cool(self) -> Played:
        """Send nothing until nothing is in flight."""
        return (yield from self.play("drain", COOLING_S, until=lambda trial: trial.in_flight == 0))

    def bisect(self, low: float, high: float, holds: Callable[[float], Generator[Probe, Observation, bool]],
               width: float) -> Script:  # fmt: skip
        """Halve a bracket, by the arithmetic middle as all of the tools do, until it is so narrow."""
        self.low_qps, self.high_qps = low, high
        while self.high_qps / self.low_qps - 1 > width:
            middle = (self.low_qps + self.high_qps) / 2
            if (yield from holds(middle)):
                self.low_qps = middle
            else:
                self.high_qps = middle
