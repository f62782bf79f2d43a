"""One window of a search: a probe's requests after it settled, counted bound by bound."""

from __future__ import annotations

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Probe
from pytest_capacity.search.evidence import Evidence
from pytest_capacity.search.posterior import WindowCount
from pytest_capacity.search.spikes import Spike, find_spikes, outside
from pytest_capacity.search.tail import LevelCounts
from pytest_capacity.search.tailform import LEVELS
from pytest_capacity.slo import SLO, Bound
from pytest_capacity.stats.batches import batch_of, design_effect, spreads

BLOCK_LIMITS = 5.0
"""Blocks of five latency limits: a burst near capacity lasts a few of them, whatever the limit is."""
BLOCK_MIN_S = 0.25
LONG_BLOCKS = 4
"""Failures of a server that is slow for a while come in longer bursts than its queue's own."""
PRIOR_BLOCKS = 20.0
"""How many blocks of its own a window needs before its design effect outweighs the expected one."""
PRIOR_LIMITS = 2.5
"""The expected design effect is one plus the requests that arrive in so many latency limits, which is about
what simulated queues show at their capacity."""
ERROR_BURST_S = 0.15
"""Failures come in bursts too; this much of them is one event where no latency bound tells the scale."""


class Window:
    """What was told of one probe, from the moment it settled."""

    def __init__(self, probe: Probe, start_s: float, slo: SLO, *, requests_before: int = 0) -> None:
        self.probe, self.start_s, self._slo = probe, start_s, slo
        self.requests_before = requests_before
        self.slowdown = 1.0
        self.tells_warmth = True
        self.void = False
        self.evidence = Evidence(slo.largest_limit_ms)
        self.now_s = start_s
        self.last: Observation | None = None
        self._limit_s = (slo.largest_limit_ms or 0.0) / 1000
        self._peak_in_flight = 0
        self._backlog_blocks = 0
        # What was found among all requests so far; each new one makes it void.
        self._spikes: dict[Bound, list[Spike]] = {}
        self._levels: dict[Bound, LevelCounts] = {}
        self._uses: dict[float, float] = {}
        self._counts: list[WindowCount] = []
        self._failure_spreads: tuple[tuple[float, float], ...] = ()

    @property
    def is_evidence(self) -> bool:
        """Whether the window says anything of the capacity: open loop, and settled at some time."""
        return not self.void and self.probe.kind == "open" and self.probe.settle_s < self.probe.max_s

    @property
    def rate_qps(self) -> float:
        """The rate offered; 0 where the probe was not open loop."""
        return float(self.probe.rate_qps or 0.0)

    @property
    def lasted_s(self) -> float:
        """How long the probe has been on."""
        return self.now_s - self.start_s

    @property
    def is_over(self) -> bool:
        """Whether the probe has had its time."""
        return self.lasted_s >= self.probe.max_s - 1e-9

    @property
    def sent(self) -> int:
        """Requests sent so far."""
        return self.last.sent if self.last else 0

    @property
    def failed(self) -> int:
        """Requests that failed."""
        return int(self.evidence.columns()[2].sum())

    @property
    def late(self) -> int:
        """Requests that failed or took longer than the largest latency limit."""
        _, latency, failed = self.evidence.columns()
        return int((latency > self._limit_s).sum()) if self._limit_s else int(failed.sum())

    @property
    def health(self) -> Health:
        """The generator's health in this probe."""
        return self.last.health if self.last else Health()

    def add(self, observation: Observation) -> None:
        """Take an observation of this probe, also one told after its end."""
        # A warm-up never settles: its requests tell how it goes, but count for nothing.
        settled = observation.intended_s >= self.start_s + (self.probe.settle_s if self.is_evidence else 0.0)
        self.evidence.add(observation, keep=settled)
        self._spikes.clear()
        self._levels.clear()
        self._uses.clear()
        self._counts, self._failure_spreads = [], ()
        if self.last is None or observation.now_s > self.last.now_s:
            self.last = observation
            self.now_s = max(self.now_s, observation.now_s)
            self._watch_backlog(observation)

    def _watch_backlog(self, observation: Observation) -> None:
        """Count observations in a row with more in flight than three limits hold, and not becoming less."""
        if self.probe.kind != "open":
            return
        allowed = max(8.0, 3 * self.rate_qps * self._limit_s)
        growing = observation.in_flight > allowed and observation.in_flight >= 0.9 * self._peak_in_flight
        self._backlog_blocks = self._backlog_blocks + 1 if growing else 0
        self._peak_in_flight = max(self._peak_in_flight, observation.in_flight)

    @property
    def overloaded(self) -> bool:
        """Whether the backlog has grown for three observations."""
        return self._backlog_blocks >= 3

    def counts(self) -> list[WindowCount]:
        """The window's evidence, one count for each bound of the SLO."""
        if not self._counts:
            self._counts = self._count()
        return self._counts

    def _count(self) -> list[WindowCount]:
        intended, latency, failed = self.evidence.columns()
        block_s = max(BLOCK_MIN_S, BLOCK_LIMITS * self._limit_s)
        start_s = float(intended[0]) if len(intended) else self.start_s
        block = batch_of(intended, start_s, block_s)
        blocks = len(np.unique(block))
        counts = []
        for bound in self._slo.bounds:
            bad = failed if bound.limit_ms is None else latency > bound.limit_ms / 1000
            expected = 1 + self.rate_qps * max(
                PRIOR_LIMITS * self._limit_s, 0.0 if self._limit_s else ERROR_BURST_S
            )
            own = design_effect(bad, block)
            shrunk = (PRIOR_BLOCKS * expected + blocks * own) / (PRIOR_BLOCKS + blocks)
            effect = max(shrunk, own if blocks > 2 else 1.0)
            counts.append(WindowCount(self.rate_qps, int(bad.sum()), len(bad), effect))
        return counts

    def failure_spreads(self) -> tuple[tuple[float, float], ...]:
        """For short and long blocks, the variance of the count of failures, and that of independent ones."""
        if not self._failure_spreads:
            intended, _, failed = self.evidence.columns()
            start_s = float(intended[0]) if len(intended) else self.start_s
            block_s = max(BLOCK_MIN_S, BLOCK_LIMITS * self._limit_s)
            self._failure_spreads = tuple(
                spreads(failed, batch_of(intended, start_s, length_s))
                for length_s in (block_s, LONG_BLOCKS * block_s)
            )
        return self._failure_spreads

    def share_of(self, index: int) -> float:
        """The share of bad requests under one bound, by its index; 0 without any request."""
        count = self.counts()[index]
        return count.bad / count.total if count.total else 0.0

    def use_beyond(self, allowance_s: float) -> float:
        """How many times the allowed share was used if every latency limit were so much longer."""
        _, latency, _ = self.evidence.columns()
        if not len(latency):
            return 0.0
        if allowance_s not in self._uses:
            limits = [
                ((b.limit_ms or 0.0) / 1000 + allowance_s, b.allowed_share) for b in self._slo.latency_bounds
            ]
            uses = (float((latency > limit).mean()) / share for limit, share in limits)
            self._uses[allowance_s] = max(uses, default=0.0)
        return self._uses[allowance_s]

    def median_s(self) -> float:
        """The median latency; infinite where it lies among failed requests or there is none."""
        _, latency, _ = self.evidence.columns()
        return float(np.median(latency)) if len(latency) else float("inf")

    def quantile_s(self, allowed_share: float) -> float:
        """The latency that all but ``allowed_share`` of the requests stay within; 0 without any."""
        _, latency, _ = self.evidence.columns()
        return float(np.quantile(latency, 1 - allowed_share, method="lower")) if len(latency) else 0.0

    def levels(self, bound: Bound) -> LevelCounts:
        """How many requests outside spikes would have been above each part of a latency bound's limit, warm.

        To a server that takes so many times as long for all that it does, time runs as much slower: its load
        is the warm server's at a rate as much higher, and its latencies are as much longer.
        """
        known, warm_qps = self._levels.get(bound), self.rate_qps * self.slowdown
        if known is None or known.rate_qps != warm_qps:
            intended, latency, _ = self.evidence.columns()
            limit_s = (bound.limit_ms or 0.0) / 1000
            latency = latency[outside(intended, self.spikes(bound), limit_s)] / self.slowdown
            above = tuple(int((latency > level * limit_s).sum()) for level in LEVELS)
            known = LevelCounts(warm_qps, len(latency), above, overloaded=self.overloaded)
            self._levels[bound] = known
        return known

    def spikes(self, bound: Bound) -> list[Spike]:
        """The spikes under a latency bound."""
        if self.overloaded:
            return []
        if bound not in self._spikes:
            intended, latency, _ = self.evidence.columns()
            self._spikes[bound] = find_spikes(intended, latency, (bound.limit_ms or 0.0) / 1000)
        return self._spikes[bound]

    def served_qps(self, last_s: float | None = None) -> float:
        """Requests served a second, over the last seconds or the whole window; 0 without any."""
        rates = self.rates(last_s or self.lasted_s, 1)
        return float(rates[0]) if len(rates) else 0.0

    def rates(self, last_s: float, count: int) -> Floats:
        """Requests served a second in equal parts of the last seconds told."""
        served_at_s = self.served_at_s()
        seconds = min(last_s, self.evidence.end_s - self.start_s)
        if not len(served_at_s) or seconds <= 0:
            return np.empty(0)
        edges = np.linspace(self.evidence.end_s - seconds, self.evidence.end_s, count + 1)
        rates: Floats = np.histogram(served_at_s, edges)[0] * count / seconds
        return rates

    def served_at_s(self) -> Floats:
        """The moments at which requests were served, failed ones left out.

        A closed loop sends one for each reply, so that requests are counted when sent.
        """
        intended, _, failed = self.evidence.columns()
        return intended[(intended >= self.start_s) & ~failed]

    def failed_share_of_last(self, last_s: float) -> float:
        """The share that failed of the requests of the last seconds; 0 without any."""
        intended, _, failed = self.evidence.columns()
        recent = failed[intended >= self.evidence.end_s - last_s]
        return float(recent.mean()) if len(recent) else 0.0
