"""One sustain measurement from its requirement to its result."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capacity.load.guard import LoadRefused
from pytest_capacity.measurement.loop import Conditions
from pytest_capacity.measurement.run import Run
from pytest_capacity.protocols import Target, empty_samples
from pytest_capacity.results.measured import Measured
from pytest_capacity.search.plan import SustainPlan, plan_sustain
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.slo import SLO, CapacityUsageError, Verdict
from pytest_capacity.stats.summary import latencies_ms


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


class SustainRun(Run):
    """Measures whether a target sustains a requirement."""

    def __init__(self, target: Target, requirement: Requirement, conditions: Conditions) -> None:
        self.plan = requirement.plan(conditions)
        self.requirement = requirement
        self._sustain = Sustain(
            requirement.slo,
            requirement.qps,
            min_s=requirement.min_s,
            budget_s=requirement.budget_s,
            seed=conditions.seed,
        )
        super().__init__(target, requirement.slo, conditions, self._sustain, most_qps=requirement.qps)

    def measured(self) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""
        load, requirement = self._load, self.requirement
        probes = tuple(self._played())
        evidence = next((played.samples for played in reversed(probes) if played.role == "measure"), None)
        samples = evidence if evidence is not None and len(evidence) else None
        if samples is None:
            samples = probes[-1].samples if probes else empty_samples()
        result = self._sustain.result() if probes else None
        return Measured(
            kind="sustain",
            state=self._state,
            verdict=Verdict.FAIL if self._message else result.verdict if result and self._decided else None,
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
            doubts=result.doubts if result else (),
            health=self._health_of(samples),
            examples=self._examples(),
            latencies_ms=latencies_ms(samples),
            secrets=tuple(load.secrets),
        )
