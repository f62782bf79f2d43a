"""What every measurement shares: opening the target, playing a controller, and keeping what was seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from pytest_capacity.measurement.conditions import Conditions, Controller
from pytest_capacity.measurement.loop import LATE_BY, LoadRun, make_source
from pytest_capacity.measurement.preflight import STRICT, Leniency, PreflightFailed, leniency
from pytest_capacity.measurement.replaying import Replay
from pytest_capacity.measurement.sources import Source
from pytest_capacity.measurement.traced import trace_doubts, trace_facts
from pytest_capacity.measurement.waiting import sigterm_interrupts
from pytest_capacity.protocols import Floats, Health, Json, Probe, Samples, Target
from pytest_capacity.results.measured import Measured, PlayedProbe
from pytest_capacity.results.shapes import State
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.slo import AnySLO
from pytest_capacity.stats.summary import late_share, latencies_ms, lateness_of, requests_sent

_ROLES = {"closed": "warm-up", "drain": "drain", "open": "measure"}


class Run(ABC):
    """One measurement of a target: ``run`` measures, ``measured`` gives what is known, also afterwards."""

    def __init__(
        self,
        target: Target,
        slo: AnySLO,
        conditions: Conditions,
        controller: Controller,
        *,
        most_qps: float,
        source: Source | None = None,
    ) -> None:
        self.conditions = conditions
        self._controller = controller
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        source = source or make_source(target, conditions)
        self._load = LoadRun(
            target,
            conditions,
            largest_limit_ms=slo.largest_limit_ms,
            qps=most_qps,
            source=source,
            lenient=_leniency(slo, source),
        )
        self._state: State = "interrupted"
        self._message = ""

    @abstractmethod
    def measured(self) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""

    def run(self) -> Measured:
        """Send the preflight, then the load, and judge it.

        Raises CapacityUsageError where the target may not be loaded; KeyboardInterrupt passes through, also
        for SIGTERM, after the load was stopped.
        """
        with sigterm_interrupts():
            try:
                with self._load:
                    self._load.play(self._controller)
                self._state = "stopped" if self._load.stopped else "complete"
            except PreflightFailed as failure:
                self._state, self._message = "preflight", str(failure)
        return self.measured()

    def smoke(self) -> Measured:
        """Send the preflight and a few requests, judge nothing but their replies."""
        with sigterm_interrupts():
            try:
                with self._load:
                    self._load.smoke()
            except PreflightFailed as failure:
                self._message = str(failure)
        self._state = "preflight"
        return self.measured()

    @property
    def _decided(self) -> bool:
        return self._state in ("complete", "stopped")

    def _health_of(self, samples: Samples) -> Health:
        """The generator's health over these requests; lateness is theirs alone."""
        late = lateness_of(samples)
        health = self._load.health if self._load.probes else Health()
        return replace(
            health,
            late_p50_s=late.p50_s,
            late_p99_s=late.p99_s,
            late_max_s=late.max_s,
            late_share=late_share(samples, LATE_BY * self._load.late_after_s),
        )

    def _trace(self) -> dict[str, Json] | None:
        """What the record tells of recorded traffic, once some was sent."""
        if not self._load.probes:
            return None
        sent = sum(requests_sent(played.samples) for played in self._played())
        return trace_facts(self._load.source, self._load.warnings, sent)

    def _trace_doubts(self, most_qps: float = np.inf) -> tuple[Doubt, ...]:
        return trace_doubts(self._load.source, self._load.trouble, most_qps) if self._load.probes else ()

    def _latencies_of(self, samples: Samples) -> dict[str, Floats]:
        """Latencies by operation, in milliseconds and ascending, where there are several."""
        names = self._load.encoded.operations
        if len(names) == 1:
            return {}
        parts = {name: rows_of(samples, samples.operation == i) for i, name in enumerate(names)}
        return {name: latencies_ms(part) for name, part in parts.items()}

    def _examples(self) -> dict[str, str]:
        return {outcome.name.lower(): text for outcome, text in self._load.examples.items()}

    def _played(self) -> list[PlayedProbe]:
        load = self._load
        played = []
        for log in load.probes:
            end_s = log.end_s if log.end_s is not None else load.last_s - load.base_s
            # What the last probe sent before its end had reached the engine is no other's.
            overran = log is load.probes[-1] and log.end_s is not None
            until_s = np.inf if overran else load.base_s + end_s
            samples = load.table.between(load.base_s + log.start_s, until_s)
            role = role_of(log.probe)
            played.append(PlayedProbe(log.probe, role, log.start_s, end_s, samples, load.late_after_s))
        return played


def _leniency(slo: AnySLO, source: Source) -> Leniency:
    """Recorded requests may be such as never go well; a target's own are meant to."""
    if not isinstance(source, Replay):
        return STRICT
    shares = dict(zip(source.encoded.operations, source.shares, strict=True))
    return leniency(slo, shares, source.seen_failing)


def rows_of(samples: Samples, chosen: npt.NDArray[np.bool_]) -> Samples:
    """Some of the samples, without the times of their tokens."""
    ragged = {"token_times_s", "token_start"}
    return Samples(
        **{
            column.name: getattr(samples, column.name)[chosen]
            for column in fields(Samples)
            if column.name not in ragged
        }
    )


def role_of(probe: Probe) -> str:
    """What a probe was for: ``warm-up``, ``drain`` or ``measure``."""
    return "warm-up" if probe.settle_s >= probe.max_s > 0 else _ROLES[probe.kind]
