"""The loop that joins a controller, an engine and its health (design.md section 3).

The engine plays schedules in a thread of its own; this loop wakes about every quarter of a second, puts what
came into cohorts, tells the controller, and follows what it asks for next.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Protocol, TypeVar

import numpy as np

from pytest_capacity.load.guard import Ceilings, LoadRefused, StopRule, UnresolvedHost, check_allowed, resolve
from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.measurement.tally import ProbeTally
from pytest_capacity.measurement.waiting import heed, unless_interrupted
from pytest_capacity.protocols import (
    Encoded,
    Engine,
    Health,
    Judgement,
    LoadReport,
    LoadSession,
    Observation,
    Outcome,
    Probe,
    Reply,
    Request,
    Target,
)
from pytest_capacity.results.measured import PreflightReply
from pytest_capacity.results.redact import HARMLESS_HEADERS
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.stats.cohorts import TICK_S, Cohorts, RowTable
from pytest_capacity.stats.summary import failed_share
from pytest_capacity.traffic.arrivals import Arrivals, make_schedule

LEAD_S = 0.01
"""A probe begins this much after it was decided, so that its first request can leave on time."""

RECENT_PROBES = 3
"""What is told belongs to the present probe or, for some moments after its end, to the one before."""

LATE_BY = 0.1
"""A request sent a tenth of the bound too late may be bad for that alone."""

SMOKE_REQUESTS = 20

T = TypeVar("T")


class Controller(Protocol):
    """What decides about the load: ``Sustain`` and its like."""

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when done."""
        ...

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        ...

    def extend(self) -> bool:
        """Grant the budget once more where that is all that is wanting; True if it was granted."""
        ...

    def halt(self, reason: str) -> None:
        """End at once: the load was stopped from outside."""
        ...

    def left_s(self) -> float:
        """Seconds of load that may still come, at most."""
        ...

    def standing(self) -> str:
        """What is known so far in a few words, for live progress; empty where that is nothing."""
        ...


@dataclass(frozen=True)
class Progress:
    """How a measurement stands: rates and latency over the last two seconds, times since the load began."""

    phase: str
    elapsed_s: float
    left_s: float
    offered_qps: float
    achieved_qps: float
    p99_ms: float
    error_rate: float
    standing: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under which a measurement runs, whatever it measures."""

    engine: Engine
    seed: int
    allow_hosts: tuple[str, ...] = ()
    ceilings: Ceilings = field(default_factory=Ceilings)
    arrivals: Arrivals = "poisson"
    max_in_flight: int | None = None
    on_progress: Callable[[Progress], None] | None = None
    interrupted: threading.Event | None = None
    """Set from another thread, it ends the load as Ctrl-C does, which reaches the main thread only."""


@dataclass
class ProbeLog:
    """A probe as it was played, in seconds of load; ``told`` once the controller knows all its requests."""

    probe: Probe
    start_s: float
    end_s: float | None = None
    told: bool = False
    tally: ProbeTally = field(default_factory=ProbeTally)


class PreflightFailed(Exception):
    """The target did not answer well before any load was sent; the message says how."""


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt meanwhile, so that load stops and what was seen is kept.

    Only the main thread may handle signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class LoadRun:
    """One target under load: opens the engine, checks the target, plays a controller's probes, closes.

    What was seen stays readable after an interruption: ``table``, ``probes``, ``health``, ``examples``.
    Use as a context manager; leaving it stops every request.
    """

    def __init__(self, target: Target, conditions: Conditions, *, largest_limit_ms: float | None, qps: float):
        self.target, self.conditions = target, conditions
        self.rng = np.random.default_rng(conditions.seed)
        self.encoded: Encoded = target.encode(self.rng)
        self.late_after_s = self.encoded.timeout_s if largest_limit_ms is None else largest_limit_ms / 1000
        self.table = RowTable(self.late_after_s)
        self.probes: list[ProbeLog] = []
        self.preflight: list[PreflightReply] = []
        self.health = Health()
        self.examples: Mapping[Outcome, str] = {}
        self.base_s = 0.0
        self.end_s = 0.0
        self.last_s = 0.0
        self.stopped: str | None = None
        self._session: LoadSession | None = None
        self._stop_rule = StopRule()
        self._operation = np.array(
            [self.encoded.operations.index(request.operation) for request in self.encoded.requests],
            dtype=np.uint16,
        )
        self.secrets: set[str] = set()
        for request in self.encoded.requests:
            self._remember(dict(request.headers))
        self._most_qps = qps
        self._max_in_flight = conditions.max_in_flight or default_in_flight(qps, self.encoded.timeout_s)

    def __enter__(self) -> LoadRun:
        """Resolve, check what may be loaded, open the engine, and send one request of each operation.

        Raises CapacityUsageError where the host is not allowed, PreflightFailed where a reply is not good.
        """
        try:
            endpoint = self._waiting(lambda: resolve(self.encoded.endpoint))
            check_allowed(endpoint, self.conditions.allow_hosts)
        except UnresolvedHost as error:
            raise PreflightFailed(f"{error}. No load was sent.") from error
        except LoadRefused as error:
            raise CapacityUsageError(str(error)) from error
        encoded = replace(self.encoded, endpoint=endpoint, refresh_headers=self._remembering_refresh())
        try:
            self._session = self.conditions.engine.open(
                encoded, max_in_flight=self._max_in_flight, most_qps=self._most_qps
            )
        except TargetUnavailable as error:
            raise PreflightFailed(str(error)) from error
        try:
            self._send_preflight(self._session)
        except BaseException:
            self._session.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is in flight and take in what the engine still had to tell."""
        if self._session is not None:
            self._take(self._session.close())

    def _remembering_refresh(self) -> Callable[[], Mapping[str, str]] | None:
        """The user's header callable, its values noted as secrets that no record may show."""
        refresh = self.encoded.refresh_headers
        if refresh is None:
            return None

        def refresh_and_remember() -> Mapping[str, str]:
            headers = refresh()
            self._remember(headers)
            return headers

        return refresh_and_remember

    def _remember(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            if name.lower() not in HARMLESS_HEADERS:
                # "Bearer abc" is shown as "abc" by a server that quotes the token alone.
                self.secrets.update((value, *value.split()[1:]))

    def _send_preflight(self, session: LoadSession) -> None:
        first_of = {request.operation: request for request in reversed(self.encoded.requests)}
        for operation in self.encoded.operations:
            self._try_one(session, first_of[operation])

    def smoke(self) -> None:
        """Send some requests, one after the other; raises PreflightFailed at the first bad reply."""
        assert self._session is not None  # noqa: S101 - only inside the context
        for number in range(SMOKE_REQUESTS):
            self._try_one(self._session, self.encoded.requests[number % len(self.encoded.requests)])

    def _try_one(self, session: LoadSession, request: Request) -> None:
        started_s = session.now_s()
        reply, judgement = self._waiting(lambda: session.exchange(request))
        text = "" if judgement.outcome is Outcome.GOOD else self._explain(reply, judgement, request)
        latency_ms = (session.now_s() - started_s) * 1000
        self.preflight.append(
            PreflightReply(request.operation, reply.status if reply else None, latency_ms, text)
        )
        if text:
            raise PreflightFailed(f"{text}. No load was sent.")

    def _explain(self, reply: Reply | None, judgement: Judgement, request: Request) -> str:
        if reply is None:
            return f"no reply from {request.operation}: {judgement.reason}"
        text = self.target.explain(reply, request)
        # A bad status explains itself; what the user's check disliked does not stand in the reply.
        return f"{text} ({judgement.reason})" if judgement.outcome is Outcome.BAD_REPLY else text

    def play(self, controller: Controller) -> None:
        """Play the controller's probes to the end; KeyboardInterrupt leaves what was seen in place."""
        session = self._session
        assert session is not None  # noqa: S101 - only inside the context
        probe = controller.ask()
        self.base_s = self.end_s = start_s = session.now_s() + LEAD_S
        while probe is not None:
            following, end_s = self._play_probe(session, controller, probe, start_s)
            probe, start_s = following, end_s
        session.pause(self.end_s)
        self._drain(session, controller)

    def _play_probe(
        self, session: LoadSession, controller: Controller, probe: Probe, start_s: float
    ) -> tuple[Probe | None, float]:
        """Play one probe until the controller asks for another; returns that and when it begins."""
        log = ProbeLog(probe, start_s - self.base_s)
        self.probes.append(log)
        played_until_s = self._begin(session, probe, start_s, start_s)
        tick = 0
        while True:
            # Ticks that were missed are skipped: observations follow the clock, not each other.
            tick = max(tick + 1, int((session.now_s() - start_s) / TICK_S))
            report = self._collect(session, start_s + tick * TICK_S)
            self._tell(controller, probe, start_s, report)
            asked = self._ask(controller, probe, report.now_s - start_s)
            if asked is None or asked.id != probe.id:
                end_s = report.now_s + LEAD_S
                self.table.withdraw(end_s)
                self.end_s = end_s
                log.end_s = end_s - self.base_s
                return asked, end_s
            if start_s + asked.max_s > played_until_s + TICK_S:
                played_until_s = self._begin(session, asked, played_until_s, start_s)

    def _ask(self, controller: Controller, probe: Probe, lasted_s: float) -> Probe | None:
        asked = None if self.stopped else controller.ask()
        if asked is None and not self.stopped and controller.extend():
            asked = controller.ask()
        if asked is not None and asked.id == probe.id and lasted_s > asked.max_s + 4 * TICK_S:
            raise RuntimeError(f"the controller holds on to probe {probe.id} past its max_s")
        return asked

    def _begin(self, session: LoadSession, probe: Probe, from_s: float, start_s: float) -> float:
        """Have the engine play a probe from a moment on; returns until when its schedule reaches."""
        count = len(self.encoded.requests)
        self._end_closed_loop(session)
        if probe.kind == "drain":
            session.pause(from_s)
            return float("inf")
        if probe.kind == "closed":
            order = self.rng.permutation(count).astype(np.int64)
            session.hold(len(self.table), int(probe.concurrency or 1), order)
            return float("inf")
        until_s = start_s + probe.max_s
        rate_qps = float(probe.rate_qps or 0)
        schedule = make_schedule(self.conditions.arrivals, rate_qps, until_s - from_s, count, self.rng)
        if len(schedule.offsets_s):
            intended_s = from_s + schedule.offsets_s
            first = self.table.plan(intended_s, self._operation[schedule.request_index])
            session.play(first, intended_s, schedule.request_index)
        return until_s

    def _end_closed_loop(self, session: LoadSession) -> None:
        """Have every row of a closed loop told, so that the rows planned next come after them."""
        if len(self.probes) > 1 and self.probes[-2].probe.kind == "closed":
            session.pause(session.now_s())
            self._take(session.collect(session.now_s()))

    def _collect(self, session: LoadSession, until_s: float) -> LoadReport:
        report = session.collect(until_s)
        self._take(report)
        heed(self.conditions.interrupted)
        return report

    def _waiting(self, call: Callable[[], T]) -> T:
        return unless_interrupted(call, self.conditions.interrupted)

    def _take(self, report: LoadReport) -> None:
        left = self.table.have_left(report.samples.row)
        self.table.update(report.samples)
        for log in self.probes[-RECENT_PROBES:]:
            end_s = np.inf if log.end_s is None else self.base_s + log.end_s
            log.tally.add(report.samples, left, self.base_s + log.start_s, end_s)
        self.last_s = max(self.last_s, report.now_s)
        self.health = report.health
        self.examples = report.examples or self.examples
        if self.stopped is None:
            self.stopped = report.halted or self._stop_rule.tell(report.samples)

    def _tell(self, controller: Controller, probe: Probe, start_s: float, report: LoadReport) -> None:
        self._tell_rest(controller, report)
        cohorts = _NOTHING
        if self.table.all_told(start_s):
            cohorts = self.table.take_final(report.now_s, start_s=start_s)
        self._tell_one(controller, self.probes[-1], self.table.due(start_s, report.now_s), cohorts, report)
        if self.stopped:
            controller.halt(self.stopped)
        self._show(report.now_s, probe, controller)

    def _tell_rest(self, controller: Controller, report: LoadReport) -> None:
        """Tell what has become final of probes that have ended, each under its own name."""
        for log in self.probes:
            if log.end_s is None or log.told:
                continue
            start_s, end_s = self.base_s + log.start_s, self.base_s + log.end_s
            cohorts = self.table.take_final(report.now_s, start_s=start_s, end_s=end_s)
            log.told = self.table.all_told(end_s)
            if len(cohorts.intended_s):
                self._tell_one(controller, log, self.table.due(start_s, end_s), cohorts, report)
            if not log.told:
                return

    def _tell_one(
        self, controller: Controller, log: ProbeLog, planned: int, cohorts: Cohorts, report: LoadReport
    ) -> None:
        closed = log.probe.kind == "closed"
        health = log.tally.health(report.health, closed=closed, late_by_s=LATE_BY * self.late_after_s)
        controller.tell(
            Observation(
                probe_id=log.probe.id,
                now_s=report.now_s - self.base_s,
                planned=planned,
                sent=log.tally.sent,
                in_flight=report.in_flight,
                oldest_age_s=self.table.oldest_unanswered_s(report.now_s),
                health=health,
                intended_s=cohorts.intended_s - self.base_s,
                latency_s=cohorts.latency_s,
                outcome=cohorts.outcome,
                operation=cohorts.operation,
            )
        )

    def _drain(self, session: LoadSession, controller: Controller) -> None:
        """Wait until every request sent is answered or known to be late, and tell the rest."""
        until_s = self.end_s + self.late_after_s + TICK_S
        while not self.stopped and session.now_s() < until_s:
            report = self._collect(session, min(session.now_s() + TICK_S, until_s))
            self._tell_rest(controller, report)
            if report.in_flight == 0:
                break

    def _show(self, now_s: float, probe: Probe, controller: Controller) -> None:
        if self.conditions.on_progress is None:
            return
        recent = self.table.between(max(self.base_s, now_s - 2), now_s)
        span_s = max(1e-9, min(2.0, now_s - self.base_s))
        answered = (
            recent.done_s[recent.outcome == Outcome.GOOD] - recent.intended_s[recent.outcome == Outcome.GOOD]
        )
        self.conditions.on_progress(
            Progress(
                phase="warm-up" if probe.settle_s >= probe.max_s else "measuring",
                elapsed_s=now_s - self.base_s,
                left_s=controller.left_s(),
                offered_qps=len(recent) / span_s,
                achieved_qps=int((~np.isnan(recent.done_s)).sum()) / span_s,
                p99_ms=float(np.quantile(answered, 0.99)) * 1000 if len(answered) else 0.0,
                error_rate=failed_share(recent),
                standing=controller.standing(),
            )
        )


_NOTHING = Cohorts(np.empty(0), np.empty(0), np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint16))


def default_in_flight(qps: float, timeout_s: float) -> int:
    """A bound that no server which answers within its timeout can reach, at most 10,000.

    Ten thousand connections are as many as one client address should hold against one port.
    """
    return int(min(10_000, max(64, np.ceil(2 * qps * timeout_s))))
