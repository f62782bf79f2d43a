"""Watching a server get warm at a given rate, of which it may not be sent more.

A cold server that cannot serve the rate yet looks like one that never will, but for one thing: it gets faster
with the work it does. While requests wait, what is answered is all that the server can do: that throughput is
judged as a closed loop's is (``warmth``). Where none wait, the quickest requests tell: they wait for nobody.
Both together give the chance that the server is still slower than it will be, and by how much.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from pytest_capacity.protocols import Floats, Probe
from pytest_capacity.search.evidence import Evidence
from pytest_capacity.search.warmth import LEAST_BATCHES, Batches, Warmth

BACKLOG_LIMITS, LEAST_BACKLOG, DRAINS = 4.0, 8, 0.9
BUSY, ALL_BUSY, USUAL_TIMES, USUAL = 0.25, 0.5, 2.0, 0.1
"""No part of a server is idle with so much of what a healthy one could hold in flight, if that is a few times
more than usual: one that takes long for each request holds many all the time (Little's law)."""
FLAT_S, FLAT_REQUESTS, FLAT_RATIO, FLAT_DIFFERENCE_S = 2.0, 20, 1.2, 0.001
"""Two seconds of a steady server differ by less than this in their median, or by under a millisecond."""
HOPELESS = 0.03
"""When the warm server would serve the rate with less than this probability, it is overloaded."""
SURELY, UNLIKELY, MOST_UNLIKELY = 0.8, 0.05, 0.15
"""A server was cold from the one, and is no more below the other: a breach is its own only then, as a FAIL is
to be right in 95 %."""
LITTLE_WORK, MUCH_WORK, SHORT_S, LONG_S = 2_000, 8_000, 10.0, 60.0
"""Over so many requests, or such a time, that probability grows: a cold one shows it by then, and noise
leaves a doubt."""
COLD_AT_FIRST = 0.2
"""A server that was slower than in the end by so much may have been overloaded for that alone."""
COLD_BY, MUST_GAIN, STEEPEST = 0.03, 0.05, 40.0
"""A breach may be a cold server's if a gain of so much would mend it: the share of late requests grows with
no more than this power of the load."""
LEAST_BUSY_S = 3.0
STEADY_S, STEADY_SHARE, STEADY_DEVIATIONS = 2.0, 0.1, 2.0
"""What is in flight stays the same if, over so many seconds at least, the means of the thirds differ by no
more than this share and so many Poisson deviations."""
TOLD_S = 1.0
"""When that can be told is known roughly only."""
MOST_LOST = 0.05
"""Where more are given up or turned away than so much of what is answered, they keep what waits short."""
LIKELY = 0.5
"""One that is colder than not is let get warm, whatever it holds."""
STUCK_S, RESUMES_WITHIN_S, STARTS_WITHIN_S = 2.0, 5.0, 12.0
"""A server that answers nothing for so long is stuck, not cold. One that was never well may take longer, most
of all before its first reply."""
MOST_AGE_S = 4.0
"""Clients give up after some seconds: from then on what is no longer waited for was not answered."""
BATCH_S, BATCH_REQUESTS, QUICKEST = 0.5, 20, 0.2
MOST_BATCHES = 40
NOISE = 0.04
"""Work of very unequal sizes scatters by more than a few batches show."""
IMPROVED = 2.5
"""What is late or fails so many times less often in the later half is on its way to being in time."""
LEAST_LATE = 5
ROSE = 1.08
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

    A server has all it can do from a part of what a ``healthy`` one could hold.
    """

    healthy: float
    _runs: list[list[tuple[float, float]]] = field(default_factory=lambda: [[]])
    _progress: list[tuple[float, float]] = field(default_factory=list)
    _replies: list[tuple[float, Evidence]] = field(default_factory=list)
    _at_rate: list[tuple[float, int, float, int]] = field(default_factory=list)
    _at_rate_from: int = 0
    _warmth: Warmth | None = None

    def watch(self, replies: Evidence) -> None:
        """Let the quickest of these replies tell too, from now on: all are of one rate."""
        self._replies.append((self.done, replies))

    def tell(
        self,
        now_s: float,
        answered: int,
        in_flight: int,
        oldest_age_s: float,
        *,
        lost: int = 0,
        at_rate: bool = True,
    ) -> None:
        """Take how many were answered so far, how many are yet to be and for how long at most they wait.

        ``lost`` counts those that will not be, ``at_rate`` says whether the rate in question is being sent
        and not less.
        """
        self._warmth = None
        done = float(answered)
        self._progress.append((now_s, done))
        if at_rate:
            self._at_rate.append((now_s, in_flight, done, lost))
        else:
            self._at_rate_from = len(self._at_rate)
        if self._is_busy(in_flight) and done > 0 and oldest_age_s < MOST_AGE_S:
            self._runs[-1].append((now_s, done))
        elif self._runs[-1]:
            self._runs.append([])

    def keeps_up(self) -> bool:
        """Whether as many are answered as are sent, however many are in flight, and for however long.

        A server that takes long for each request holds many all the time (Little's law): they are no queue,
        or one that does not grow. One that is known to get faster is let do so.
        """
        return bool(len(self._held())) and self.warmth().still_cold(self.done, COLD_BY) <= LIKELY

    def may_keep_up(self, oldest_age_s: float) -> bool:
        """Whether it is too early to tell: no more is in flight than when the first request was answered."""
        rows = self._at_rate[self._at_rate_from :]
        before = [row[1] for row in rows if row[0] <= self.first_reply_s]
        if not before or rows[-1][0] > self.first_reply_s + STEADY_S + TOLD_S:
            return False
        return oldest_age_s < MOST_AGE_S and rows[-1][1] <= max(before) + _noise(max(before))

    def _held(self) -> Floats:
        """Moments, requests in flight, done and lost at the rate, if as many are in flight all the time.

        The first are left out, for as long as a request takes: by then a server without a queue holds all
        that it will.
        """
        rows: Floats = np.array(self._at_rate[self._at_rate_from :] or np.empty((0, 4)), dtype=np.float64)
        served_qps = self.served_qps(RECENT_S)
        if not len(rows) or served_qps <= 0:
            return rows[:0]
        took_s = rows[-1, 1] / served_qps
        rows = rows[rows[:, 0] > max(rows[0, 0] + took_s, self.first_reply_s)]
        if len(rows) < LEAST_BATCHES or rows[-1, 0] - rows[0, 0] < STEADY_S:
            return rows[:0]
        held, (done, lost) = rows[:, 1], rows[-1, 2:] - rows[0, 2:]
        means = [float(part.mean()) for part in np.array_split(held, LEAST_BATCHES)]
        return rows if np.ptp(means) <= _noise(means[0]) and lost <= MOST_LOST * done else rows[:0]

    @property
    def first_reply_s(self) -> float:
        """When the first request was answered; infinite before."""
        return next((now_s for now_s, done in self._progress if done > 0), math.inf)

    def _is_busy(self, in_flight: int) -> bool:
        usual = float(np.quantile([row[1] for row in self._at_rate], USUAL)) if self._at_rate else 0.0
        least = BUSY if in_flight > USUAL_TIMES * usual else ALL_BUSY
        return in_flight > least * self.healthy

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
        """What the throughput under waiting requests says, and the quickest replies where none wait."""
        if self._warmth is None:
            busy = [_batches(run) for run in self._runs]
            quick = [self._quickest(before, replies) for before, replies in self._replies]
            found = (*busy, *quick, _taking(self._held()))
            self._warmth = Warmth([batches for batches in found if batches is not None], noise=NOISE)
        return self._warmth

    def _quickest(self, before: float, replies: Evidence) -> Batches | None:
        intended, latency, failed = replies.columns()
        intended, latency = intended[~failed], latency[~failed]
        found = _quickest(intended, latency)
        if found is None:
            return None
        moments = intended[np.minimum(found.done.astype(int), len(intended) - 1)]
        idle = np.ones(len(moments), dtype=np.bool_)
        for run in self._runs:
            if run:
                idle &= (moments < run[0][0]) | (moments > run[-1][0])
        return Batches(1, found.cost_s[idle], found.done[idle] + before, found.size) if idle.any() else None

    def _is_rising(self) -> bool:
        """Whether more is answered than a moment ago, whatever the form says."""
        both, last = self.served_qps(2 * RECENT_S), self.served_qps(RECENT_S)
        return last > ROSE * (2 * both - last)

    def may_serve(self, qps: float) -> bool:
        """Whether there is a chance that the server, once warm, serves a rate that it does not serve now."""
        return self._is_rising() or self.warmth().may_serve(qps, 0) >= HOPELESS

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

    def warm_since_s(self, start_s: float) -> float | None:
        """Since when a server that was cold at a moment is as quick as in the end: now, if it still is cold.

        None where it was not.
        """
        now_s, done = np.array(self._progress).T
        before = float(np.interp(start_s, now_s, done))
        warmth = self.warmth()
        if warmth.still_cold(before, MUST_GAIN) < SURELY:
            return None
        first = bisect_left(done, True, key=lambda so_far: warmth.slowdown(so_far)[0] < MUST_GAIN)
        return float(now_s[min(first, len(now_s) - 1)])

    def may_gain(self, use: float, limit_s: float | None) -> bool:
        """Whether a server that uses so many times the allowed share may keep within it once it is warm.

        One that holds no queue, and even the quickest for longer than the limit, has all of that to gain. In
        one that is surely cold yet what is in flight may be a queue, though it stayed the same for a while.
        """
        needed = max(COLD_BY, math.log(max(use, 1.0)) / STEEPEST)
        held, needed_alone = self._held(), False
        is_surely_cold = self.warmth().still_cold(self.done, COLD_BY) > SURELY
        if limit_s is not None and len(held) and not is_surely_cold:
            took_s = min(float(held[:, 1].mean()) / max(self.served_qps(STEADY_S), 1e-9), self._alone_s())
            needed_alone = took_s > limit_s
            needed = max(needed, math.log(took_s / limit_s)) if needed_alone else needed
        now_s, done = self._progress[-1]
        by_work = (done - LITTLE_WORK) / (MUCH_WORK - LITTLE_WORK)
        # One without a queue shows at once what it is: only what was seen of it counts, not what might be.
        part = 1.0 if needed_alone else min(max(by_work, (now_s - SHORT_S) / (LONG_S - SHORT_S), 0.0), 1.0)
        return self.warmth().still_cold(done, needed) > UNLIKELY + part * (MOST_UNLIKELY - UNLIKELY)

    def _alone_s(self) -> float:
        """What the quickest replies at the rate take, 0 without any: they wait for nobody."""
        _, latency, failed = self._replies[-1][1].columns()
        good = latency[~failed]
        return float(np.quantile(good, QUICKEST, method="lower")) if len(good) else 0.0

    def was_cold(self) -> bool:
        """Whether the server was surely much slower at first than it is in the end."""
        return self.warmth().still_cold(0, COLD_AT_FIRST) > SURELY


def _batches(run: list[tuple[float, float]]) -> Batches | None:
    if len(run) < _TICKS_IN_BATCH:
        return None
    now_s, done = np.array(run).T
    count = min(MOST_BATCHES, max(1, (len(run) - 1) // _TICKS_IN_BATCH))
    size = int((done[-1] - done[0]) // count)
    if size < 1:
        return None
    edges = done[0] + size * np.arange(count + 1)
    moments = np.interp(edges, np.maximum.accumulate(done), now_s)
    cost_s = np.maximum(np.diff(moments) / size, 1e-9)
    return Batches(0, cost_s, edges[:-1] + size / 2, size)


def _noise(in_flight: float) -> float:
    """By how much what is in flight varies though it stays the same."""
    return STEADY_SHARE * in_flight + STEADY_DEVIATIONS * math.sqrt(in_flight)


def _taking(held: Floats) -> Batches | None:
    """How long requests took, batch by batch, by Little's law; None where there were too few."""
    count = len(held) // (2 * _TICKS_IN_BATCH)
    if count < LEAST_BATCHES:
        return None
    edges = np.linspace(0, len(held) - 1, count + 1).round().astype(int)
    waited = np.diff(held[:, 0]) * (held[1:, 1] + held[:-1, 1]) / 2
    done = np.diff(held[edges, 2])
    if done.min() < 1:
        return None
    cost_s = np.add.reduceat(waited, edges[:-1]) / done
    middle = (held[edges[:-1], 2] + held[edges[1:], 2]) / 2
    return Batches(2, np.maximum(cost_s, 1e-9), middle, int(done.mean()))


def is_improving(evidence: Evidence, limit_s: float | None) -> bool:
    """Whether what is late or fails becomes less."""
    _, latency, failed = evidence.columns()
    bad = failed if limit_s is None else latency > limit_s
    half = len(bad) // 2
    early, later = int(bad[:half].sum()), int(bad[half:].sum())
    return early >= LEAST_LATE and early > IMPROVED * later


def _quickest(intended: Floats, latency: Floats) -> Batches | None:
    """The latency that a fifth of the requests stay below, batch by batch; None where some have none."""
    count = (
        int(min((intended[-1] - intended[0]) / BATCH_S, len(intended) / BATCH_REQUESTS))
        if len(intended)
        else 0
    )
    count = min(count, MOST_BATCHES)
    if count < 4:
        return None
    size = len(intended) // count
    rows = latency[: count * size].reshape(count, size)
    cost_s = np.quantile(rows, QUICKEST, axis=1, method="lower")
    if not np.isfinite(cost_s).all():
        return None
    done = size * (np.arange(count, dtype=np.float64) + 0.5)
    return Batches(0, np.maximum(cost_s, 1e-9), done, size)
