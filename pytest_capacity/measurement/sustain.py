"""One sustain measurement from its requirement to its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone

from pytest_capacity.load.guard import LoadRefused
from pytest_capacity.measurement.loop import Conditions, LoadRun, PreflightFailed, sigterm_interrupts
from pytest_capacity.protocols import Health, Target, empty_samples
from pytest_capacity.results.measured import Measured, PlayedProbe
from pytest_capacity.results.shapes import State
from pytest_capacity.search.plan import SustainPlan, plan_sustain
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.slo import SLO, CapacityUsageError, Verdict
from pytest_capacity.stats.summary import latencies_ms, lateness_of


@dataclass(frozen=True)
class Requirement:
    """What is asked of the target: ``slo`` at ``qps``, shown within ``budget_s`` seconds of load."""

    slo: SLO
    qps: float
    budget_s: float = 60.0
    min_s: float = 10.0

    def plan(self, conditions: Conditions) -> SustainPlan:
        """What deciding will cost.

        Raises CapacityUsageError for a plan that cannot decide or goes over a ceiling.
        """
        try:
            plan = plan_sustain(self.slo, self.qps, min_s=self.min_s, budget_s=self.budget_s)
            # The one extension doubles the budget: what may happen is what the ceilings must allow.
            most_s = self.budget_s * (2 if plan.extension else 1)
            conditions.ceilings.check(self.qps, self.qps * most_s, most_s)
        except (ValueError, LoadRefused) as error:
            raise CapacityUsageError(str(error)) from error
        return plan


class SustainRun:
    """Measures whether a target sustains a requirement.

    ``run`` measures; ``measured`` gives what is known, also after ``run`` was interrupted.
    """

    def __init__(self, target: Target, requirement: Requirement, conditions: Conditions) -> None:
        self.plan = requirement.plan(conditions)
        self.requirement, self.conditions = requirement, conditions
        self._controller = Sustain(
            requirement.slo,
            requirement.qps,
            min_s=requirement.min_s,
            budget_s=requirement.budget_s,
            seed=conditions.seed,
        )
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._load = LoadRun(
            target,
            conditions,
            largest_limit_ms=requirement.slo.largest_limit_ms,
            qps=requirement.qps,
        )
        self._state: State = "interrupted"
        self._message = ""

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

    def measured(self) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""
        load, requirement = self._load, self.requirement
        decided = self._state in ("complete", "stopped")
        probes = tuple(self._played())
        evidence = next((played.samples for played in reversed(probes) if played.role == "measure"), None)
        samples = evidence if evidence is not None and len(evidence) else None
        if samples is None:
            samples = probes[-1].samples if probes else empty_samples()
        late = lateness_of(samples)
        result = self._controller.result() if probes else None
        return Measured(
            state=self._state,
            verdict=Verdict.FAIL if self._message else result.verdict if result and decided else None,
            qps=requirement.qps,
            slo=requirement.slo,
            message=self._message,
            stop_reason=load.stopped or (result.stop_reason if result else ""),
            arrivals=self.conditions.arrivals,
            seed=self.conditions.seed,
            budget_s=requirement.budget_s,
            min_s=requirement.min_s,
            engine=self.conditions.engine.name,
            target=load.target.describe(),
            started_at=self._started_at,
            samples=samples,
            probes=probes,
            preflight=tuple(load.preflight),
            result=result,
            health=replace(
                load.health if probes else Health(),
                late_p50_s=late.p50_s,
                late_p99_s=late.p99_s,
                late_max_s=late.max_s,
            ),
            examples={outcome.name.lower(): text for outcome, text in load.examples.items()},
            latencies_ms=latencies_ms(samples),
            secrets=tuple(load.secrets),
        )

    def _played(self) -> list[PlayedProbe]:
        load = self._load
        played = []
        for log in load.probes:
            end_s = log.end_s if log.end_s is not None else load.last_s - load.base_s
            samples = load.table.between(load.base_s + log.start_s, load.base_s + end_s)
            role = "warm-up" if log.probe.settle_s >= log.probe.max_s else "measure"
            played.append(PlayedProbe(log.probe, role, log.start_s, end_s, samples, load.late_after_s))
        return played
