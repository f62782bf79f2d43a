"""The loop that joins a controller, an engine and its health (design.md section 3).

The engine plays schedules in a thread of its own; this loop wakes about every quarter of a second, puts what
came into cohorts, tells the controller, and follows what it asks for next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias, TypeVar

import numpy as np

from pytest_capacity.load.guard import LoadRefused, StopRule, UnresolvedHost, check_allowed, resolve
from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.measurement.conditions import Conditions, Controller
from pytest_capacity.measurement.health import Healths
from pytest_capacity.measurement.preflight import STRICT, Leniency, Preflight, PreflightFailed
from pytest_capacity.measurement.progress import progress
from pytest_capacity.measurement.sources import NOTHING, Came, CannotSend, Piece, Source
from pytest_capacity.measurement.tally import ProbeLog
from pytest_capacity.measurement.waiting import heed, unless_interrupted
from pytest_capacity.protocols import (
    Encoded,
    Health,
    Ints,
    LoadReport,
    LoadSession,
    Observation,
    Outcome,
    Probe,
    Target,
)
from pytest_capacity.results.measured import PreflightReply
from pytest_capacity.results.redact import HARMLESS_HEADERS
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.stats.cohorts import TICK_S, Cohorts, RowTable
from pytest_capacity.stats.turns import TurnTable

LEAD_S, MOST_LEAD_S = 0.01, 0.04
"""An open probe begins this much after it is ready, so that its first request can leave on time; more where
the tests' other threads compute, but a new rate must leave within 50 ms."""

FIRST_S, STEP_S, LOW_WATER_S = 0.5, 1.0, 1.5
"""Of recorded traffic so many seconds are made ready before a probe, and then each time that less than
``LOW_WATER_S`` is left: a busy machine may take a second to make a second's requests."""

RECENT_PROBES = 3
"""What is told belongs to the present probe or, for some moments after its end, to the one before."""

LATE_BY = 0.1
"""A request sent a tenth of the bound too late may be bad for that alone."""

T = TypeVar("T")
Ready: TypeAlias = "Piece | Ints"
"""What a probe begins with: a piece of its schedule, or a closed loop's requests."""


class LoadRun:
    """One target under load: opens the engine, checks the target, plays a controller's probes, closes.

    What was seen stays readable after an interruption: ``table``, ``probes``, ``health``, ``examples``.
    Use as a context manager; leaving it stops every request.
    """

    def __init__(
        self,
        target: Target,
        conditions: Conditions,
        *,
        largest_limit_ms: float | None,
        qps: float,
        source: Source | None = None,
        lenient: Leniency = STRICT,
    ) -> None:
        self.target, self.conditions = target, conditions
        self.source = source or make_source(target, conditions)
        self.encoded: Encoded = self.source.encoded
        self.late_after_s = self.encoded.timeout_s if largest_limit_ms is None else largest_limit_ms / 1000
        self.table = TurnTable(self.late_after_s) if self.source.causal else RowTable(self.late_after_s)
        self.probes: list[ProbeLog] = []
        self.examples: Mapping[Outcome, str] = {}
        self.base_s = 0.0
        self.end_s = 0.0
        self.last_s = 0.0
        self._lead_s = LEAD_S
        self.stopped: str | None = None
        self.trouble: str | None = None
        """Why the load could not be gone on with, where that is the fault of what was to be sent."""
        self._preflight = Preflight(target, self.encoded, conditions.interrupted, lenient)
        self._health = Healths()
        self._session: LoadSession | None = None
        self._stop_rule = StopRule()
        self.secrets: set[str] = set()
        for request in self.encoded.requests:
            self._remember(dict(request.headers))
        self._most_qps = qps
        self._max_in_flight = conditions.max_in_flight or default_in_flight(qps, self.encoded.timeout_s)

    @property
    def preflight(self) -> list[PreflightReply]:
        """What came of the requests sent before the load."""
        return self._preflight.replies

    @property
    def warnings(self) -> list[str]:
        """Which operations failed before the load without ending it."""
        return self._preflight.warnings

    @property
    def health(self) -> Health:
        """The generator's health in the last probe."""
        return self._health.now

    def __enter__(self) -> LoadRun:
        """Resolve, check what may be loaded, open the engine, and send one request of each operation.

        Raises CapacityUsageError where the host is not allowed, PreflightFailed where a reply that matters is
        not good.
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
            self._preflight.try_operations(self._session)
        except BaseException:
            self._session.close()
            self.source.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel what is in flight and take in what the engine still had to tell."""
        if self._session is not None:
            self._take(self._session.close())
        self._end_probe(self.last_s)
        self.source.close()

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

    def smoke(self) -> None:
        """Send some requests, one after the other; raises PreflightFailed at the first bad reply."""
        assert self._session is not None  # noqa: S101 - only inside the context
        self._preflight.smoke(self._session)

    def play(self, controller: Controller) -> None:
        """Play the controller's probes to the end; KeyboardInterrupt leaves what was seen in place.

        Raises CapacityUsageError where not even the first probe's requests can be made.
        """
        session = self._session
        assert session is not None  # noqa: S101 - only inside the context
        probe = controller.ask()
        try:
            if probe is not None and probe.rate_qps:
                self.source.ready(session, probe.rate_qps, controller.left_s())
            ready = self._prepare(session, probe)
        except CannotSend as error:
            raise CapacityUsageError(f"trace: {error}") from error
        self.base_s = self.end_s = start_s = self._beginning_s(session, probe)
        while probe is not None:
            following, ready, end_s = self._play_probe(session, controller, probe, start_s, ready)
            probe, start_s = following, end_s
        session.pause(self.end_s)
        self._drain(session, controller)

    def _prepare(self, session: LoadSession, probe: Probe | None) -> Ready:
        """Make ready what a probe begins with, while the one before goes on; raises CannotSend."""
        if probe is None or probe.kind == "drain":
            return NOTHING
        try:
            if probe.kind == "closed":
                return self.source.hold(session, probe)
            self.source.draw(probe)
            return self.source.take(session, FIRST_S)
        except CannotSend:
            self.source.end(0.0, 0)
            raise

    def _play_probe(
        self, session: LoadSession, controller: Controller, probe: Probe, start_s: float, ready: Ready
    ) -> tuple[Probe | None, Ready, float]:
        """Play one probe until the controller asks for another; returns that and when it begins."""
        log = ProbeLog(probe, start_s - self.base_s)
        self.probes.append(log)
        self._begin(session, log, start_s, ready)
        drawn_s = probe.max_s if probe.kind == "open" else np.inf
        tick = 0
        while True:
            # Ticks that were missed are skipped: observations follow the clock, not each other.
            tick = max(tick + 1, int((session.now_s() - start_s) / TICK_S))
            report = self._collect(session, start_s + tick * TICK_S)
            self._tell(controller, probe, start_s, report)
            asked = self._ask(controller, probe, report.now_s - start_s)
            try:
                if asked is None or asked.id != probe.id:
                    self._end_probe(report.now_s)
                    ready = self._prepare(session, asked)
                    end_s = self._beginning_s(session, asked)
                    self.table.withdraw(end_s)
                    self.end_s = end_s
                    log.end_s = end_s - self.base_s
                    return asked, ready, end_s
                if asked.max_s > drawn_s + TICK_S:
                    self.source.draw(asked, drawn_s)
                    drawn_s = asked.max_s
                self._send_ahead(session, start_s)
            except CannotSend as error:
                self.stopped = self.trouble = str(error)

    def _beginning_s(self, session: LoadSession, probe: Probe | None) -> float:
        """When a probe that is ready begins: a closed loop at once, so that all it sends belongs to it."""
        closed = probe is not None and probe.kind == "closed"
        return session.now_s() + (0.0 if closed else self._lead_s)

    def _send_ahead(self, session: LoadSession, start_s: float) -> None:
        """Have the engine know what is due next, some seconds before it is."""
        source = self.source
        if source.reaches_s < session.now_s() - start_s + LOW_WATER_S:
            piece = source.take(session, source.reaches_s + STEP_S)
            if len(piece.offsets_s):
                self._health.end_era()
                self._play_piece(session, start_s, piece)

    def _ask(self, controller: Controller, probe: Probe, lasted_s: float) -> Probe | None:
        asked = None if self.stopped else controller.ask()
        if asked is None and not self.stopped and controller.extend():
            asked = controller.ask()
        if asked is not None and asked.id == probe.id and lasted_s > asked.max_s + 4 * TICK_S:
            raise RuntimeError(f"the controller holds on to probe {probe.id} past its max_s")
        return asked

    def _begin(self, session: LoadSession, log: ProbeLog, start_s: float, ready: Ready) -> None:
        """Have the engine play what was made ready, from a moment on."""
        self._end_closed_loop(session)
        self._health.begin()
        log.first_row = len(self.table)
        if isinstance(ready, Piece):
            # What was due later of the probe before must not be sent until this one's first request is due.
            session.pause(start_s)
            self._play_piece(session, start_s, ready)
            late_s = max(0.0, session.now_s() - start_s)
            self._lead_s = min(self._lead_s + 2 * late_s, MOST_LEAD_S)
        else:
            session.hold(log.first_row, int(log.probe.concurrency or 1), ready)

    def _play_piece(self, session: LoadSession, start_s: float, piece: Piece) -> None:
        if len(piece.offsets_s):
            intended_s = start_s + piece.offsets_s
            first = self.table.plan(intended_s, piece.operation, piece.turns)
            session.play(first, intended_s, piece.request_index, piece.turns)

    def _end_probe(self, now_s: float) -> None:
        """Tell the source how much of its schedule was played."""
        if self.probes and self.probes[-1].end_s is None:
            log = self.probes[-1]
            start_s, came = self.base_s + log.start_s, None
            if isinstance(self.table, TurnTable) and log.probe.kind == "open":
                due_s = self.table.due_from_s(log.first_row, now_s) - start_s
                came = Came(due_s, self.table.over_from(log.first_row))
            self.source.end(max(0.0, now_s - start_s), self.table.due(start_s, now_s), came)

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
        self.table.update(report.samples, report.now_s)
        for log in self.probes[-RECENT_PROBES:]:
            end_s = np.inf if log.end_s is None else self.base_s + log.end_s
            log.tally.add(report.samples, left, self.base_s + log.start_s, end_s)
        self.last_s = max(self.last_s, report.now_s)
        self._health.tell(report.health)
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
        if self.conditions.on_progress is not None:
            self.conditions.on_progress(progress(self.table, self.base_s, report.now_s, probe, controller))

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
        health = log.tally.health(self.health, closed=closed, late_by_s=LATE_BY * self.late_after_s)
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
                gave_up=self.table.gave_up,
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


_NOTHING = Cohorts(np.empty(0), np.empty(0), np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.uint16))


def make_source(target: Target, conditions: Conditions) -> Source:
    """Where a measurement's schedules come from; raises CapacityUsageError for an unfit trace."""
    return conditions.source(target, np.random.default_rng(conditions.seed))


def default_in_flight(qps: float, timeout_s: float) -> int:
    """A bound that no server which answers within its timeout can reach, at most 10,000.

    Ten thousand connections are as many as one client address should hold against one port.
    """
    return int(min(10_000, max(64, np.ceil(2 * qps * timeout_s))))
