"""Watching a server get warm at a given rate, of which it may not be sent more.

A cold server that cannot serve the rate yet looks like one that never will, but for one thing: it gets faster
with the work it does. While requests wait, what is answered is all that the server can do: that throughput is
judged as a closed loop's is (``warmth``). Where none wait, the quickest requests tell: they wait for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pytest_capacity.protocols import Floats, Probe
from pytest_capacity.search.evidence import Evidence
from pytest_capacity.search.warmth import Batches, Warmth

BACKLOG_LIMITS, LEAST_BACKLOG, DRAINS = 4.0, 8, 0.9
FLAT_S, FLAT_REQUESTS, FLAT_RATIO, FLAT_DIFFERENCE_S = 2.0, 20, 1.2, 0.001
"""Two seconds of a steady server differ by less than this in their median, or by under a millisecond."""
LEAST_SUPPORT = 0.2
"""When it has become so much less likely that the warm server would serve the rate, it is overloaded."""
LIKELY = 0.5
COLD_BY, MUST_GAIN = 0.03, 0.05
LEAST_BUSY_S = 3.0
STUCK_S, RESUMES_WITHIN_S, STARTS_WITHIN_S = 2.0, 5.0, 12.0
"""A server that answers nothing for so long is stuck, not cold. One that was never well may take longer, most
of all before its first reply."""
MOST_AGE_S = 4.0
"""Clients give up after some seconds: from then on what is no longer waited for was not answered."""
BATCH_S, BATCH_REQUESTS, QUICKEST = 0.5, 20, 0.1
IMPROVED = 2.5
"""What is late or fails so many times less often in the later half is on its way to being in time."""
LEAST_LATE = 5
ROSE = 1.1
RECENT_S, RAISE_S, RAISE, LOW, LEAST_SHARE = 1.0, 1.0, 1.25, 0.6, 0.05
"""From what a server served in the last second its rate is raised by so much each second."""
_TICKS_IN_BATCH = 2


@dataclass
class Backlog:
    """How many requests wait, and since when they are more than a ``healthy`` server could hold."""

    healthy: float
    most: int = 0
    since_s: float | None = None

    def tell(self, now_s: float, in_flight: int) -> None:
        """Note a backlog that does not become less."""
        # A tenth less than the highest so far is noise around a growing queue; more is a queue that drains.
        if in_flight <= self.healthy or in_flight < DRAINS * self.most:
            self.since_s, self.most = None, in_flight
            return
        self.most = max(self.most, in_flight)
        if self.since_s is None:
            self.since_s = now_s

    def lasted_s(self, now_s: float) -> float:
        """For how long it has been there, 0 where it is not."""
        return 0.0 if self.since_s is None else now_s - self.since_s


def healthy_backlog(limit_ms: float | None, qps: float) -> float:
    """How many requests a healthy server could hold."""
    return max(LEAST_BACKLOG, 0.0 if limit_ms is None else BACKLOG_LIMITS * qps * limit_ms / 1000)


def is_flat(evidence: Evidence, start_s: float, qps: float) -> bool:
    """Whether the median latency of the last second equals that of the second before."""
    end_s = evidence.end_s
    half_s = max(FLAT_S / 2, FLAT_REQUESTS / qps)
    if end_s - start_s < 1.8 * half_s:
        return False
    intended, latency, _ = evidence.columns()
    recent = latency[intended > end_s - half_s]
    before = latency[(intended > end_s - 2 * half_s) & (intended <= end_s - half_s)]
    if min(len(recent), len(before)) < FLAT_REQUESTS / 2:
        return False
    now, then = float(np.median(recent)), float(np.median(before))
    if not np.isfinite(now) or not np.isfinite(then):
        return False
    return max(now, then) <= FLAT_RATIO * min(now, then) or abs(now - then) <= FLAT_DIFFERENCE_S


@dataclass
class Warming:
    """What was answered while requests waited, and when; times in seconds of load.

    A server has all it can do from half of what a ``healthy`` one could hold.
    """

    healthy: float
    _runs: list[list[tuple[float, float]]] = field(default_factory=lambda: [[]])
    _progress: list[tuple[float, float]] = field(default_factory=list)

    def tell(self, now_s: float, answered: int, in_flight: int, oldest_age_s: float) -> None:
        """Take how many were answered so far, how many are yet to be and for how long at most they wait."""
        done = float(answered)
        self._progress.append((now_s, done))
        if in_flight > self.healthy / 2 and done > 0 and oldest_age_s < MOST_AGE_S:
            self._runs[-1].append((now_s, done))
        elif self._runs[-1]:
            self._runs.append([])

    @property
    def done(self) -> float:
        """Requests answered so far."""
        return self._progress[-1][1] if self._progress else 0.0

    @property
    def busy_s(self) -> float:
        """For how long requests waited."""
        return sum(run[-1][0] - run[0][0] for run in self._runs if run)

    def served_qps(self, last_s: float) -> float:
        """What was answered a second over the last seconds."""
        if not self._progress:
            return 0.0
        now_s, done = self._progress[-1]
        then_s, before = next(row for row in self._progress if row[0] >= now_s - last_s - 1e-9)
        return (done - before) / (now_s - then_s) if now_s > then_s else 0.0

    def is_stuck(self, *, was_well: bool) -> bool:
        """Whether nothing is answered any more."""
        has_begun = self.done > 0
        patience_s = STUCK_S if was_well else RESUMES_WITHIN_S if has_begun else STARTS_WITHIN_S
        now_s = self._progress[-1][0] if self._progress else 0.0
        return now_s > patience_s and self.served_qps(patience_s) <= 0

    def warmth(self) -> Warmth:
        """What the throughput under waiting requests says."""
        return Warmth([batches for run in self._runs if (batches := _batches(run)) is not None])

    def _is_rising(self) -> bool:
        """Whether more is answered than a moment ago, whatever the form says."""
        both, last = self.served_qps(2 * RECENT_S), self.served_qps(RECENT_S)
        return last > ROSE * (2 * both - last)

    def may_serve(self, qps: float) -> bool:
        """Whether there is a chance that the server, once warm, serves a rate that it does not serve now."""
        return self._is_rising() or self.warmth().support_for(qps, 0) >= LEAST_SUPPORT

    def eased_rate(self, probe: Probe, qps: float, in_flight: int, lasted_s: float) -> float | None:
        """What to send next, 0 for nothing, on the way to ``qps``; None to go on with the probe as before.

        Never idle and never with a long queue, the server works off what it has to and gets warm as fast as
        it can.
        """
        if probe.kind == "drain":
            least = LEAST_SHARE * qps
            return max(self.served_qps(RECENT_S), least) if in_flight <= LOW * self.healthy else None
        if in_flight > self.healthy:
            return 0.0
        return RAISE * float(probe.rate_qps or 0.0) if lasted_s >= RAISE_S else None

    def has_to_gain(self) -> bool:
        """Whether the server is known to be cold, and still slower than it will be."""
        if self.busy_s < LEAST_BUSY_S:
            return False
        return self.warmth().still_cold(self.done, COLD_BY) > LIKELY


def _batches(run: list[tuple[float, float]]) -> Batches | None:
    if len(run) < _TICKS_IN_BATCH:
        return None
    now_s, done = np.array(run).T
    count = max(1, (len(run) - 1) // _TICKS_IN_BATCH)
    size = int((done[-1] - done[0]) // count)
    if size < 1:
        return None
    edges = done[0] + size * np.arange(count + 1)
    moments = np.interp(edges, np.maximum.accumulate(done), now_s)
    cost_s = np.maximum(np.diff(moments) / size, 1e-9)
    return Batches(0, cost_s, edges[:-1] + size / 2, size)


def is_improving(evidence: Evidence, watched: Evidence, limit_s: float | None) -> bool:
    """Whether the server is still getting faster.

    What is late says so in the evidence, the quickest requests in all that was ``watched`` at the rate.
    """
    _, latency, failed = evidence.columns()
    bad = failed if limit_s is None else latency > limit_s
    half = len(bad) // 2
    early, later = int(bad[:half].sum()), int(bad[half:].sum())
    if early >= LEAST_LATE and early > IMPROVED * later:
        return True
    intended, latency, _ = watched.columns()
    quickest = _quickest(intended, latency)
    return quickest is not None and Warmth([quickest]).still_cold(len(intended), MUST_GAIN) > LIKELY


def _quickest(intended: Floats, latency: Floats) -> Batches | None:
    """The latency that a tenth of the requests stay below, batch by batch; None where some have none."""
    count = (
        int(min((intended[-1] - intended[0]) / BATCH_S, len(intended) / BATCH_REQUESTS))
        if len(intended)
        else 0
    )
    if count < 4:
        return None
    size = len(intended) // count
    rows = latency[: count * size].reshape(count, size)
    cost_s = np.quantile(rows, QUICKEST, axis=1, method="lower")
    if not np.isfinite(cost_s).all():
        return None
    done = size * (np.arange(count, dtype=np.float64) + 0.5)
    return Batches(0, np.maximum(cost_s, 1e-9), done, size)
