"""One sustain measurement from its requirement to its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_capacity.load.guard import LoadRefused
from pytest_capacity.measurement.conditions import Conditions
from pytest_capacity.measurement.loop import make_source
from pytest_capacity.measurement.run import Run
from pytest_capacity.measurement.sources import Source
from pytest_capacity.measurement.traced import verdict_with
from pytest_capacity.protocols import Target, empty_samples
from pytest_capacity.results.measured import Measured
from pytest_capacity.results.shapes import Kind
from pytest_capacity.search.found import SustainResult
from pytest_capacity.search.operations import (
    Part,
    SideBySide,
    SustainOperations,
    parts_of,
    plan_operations,
)
from pytest_capacity.search.plan import SustainPlan, plan_sustain
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.slo import SLO, AnySLO, CapacityUsageError, Verdict
from pytest_capacity.stats.summary import latencies_ms


@dataclass(frozen=True)
class Requirement:
    """What is asked of the target: ``slo`` at ``qps``, shown within ``budget_s`` seconds of load."""

    slo: AnySLO
    qps: float
    budget_s: float = 60.0
    min_s: float = 10.0

    def plan(self, conditions: Conditions, parts: Sequence[Part] = ()) -> SustainPlan:
        """What deciding will cost; ``parts`` are the operations that have an SLO each.

        Raises CapacityUsageError for a plan that cannot decide or goes over a ceiling.
        """
        try:
            if isinstance(self.slo, SLO):
                plan = plan_sustain(self.slo, self.qps, min_s=self.min_s, budget_s=self.budget_s)
            else:
                plan = plan_operations(parts, self.qps, min_s=self.min_s, budget_s=self.budget_s)
            # The one extension doubles the budget: what may happen is what the ceilings must allow.
            most_s = self.budget_s * (2 if plan.extension else 1)
            conditions.ceilings.check(self.qps, self.qps * most_s, most_s)
        except (ValueError, LoadRefused) as error:
            raise CapacityUsageError(str(error)) from error
        return plan


def judged_parts(slo: AnySLO, source: Source) -> tuple[Part, ...]:
    """What an SLO judges of what a source sends; raises CapacityUsageError for an operation it does not."""
    try:
        return parts_of(slo, source.encoded.operations, source.shares)
    except ValueError as error:
        raise CapacityUsageError(str(error)) from error


class JudgingRun(Run):
    """A measurement at one rate that ends with a verdict."""

    kind: Kind
    _judge: Sustain | SideBySide

    def _measured(self, slo: AnySLO, qps: float, budget_s: float, min_s: float) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""
        load = self._load
        probes = tuple(self._played())
        evidence = next((played for played in reversed(probes) if played.role == "measure"), None)
        if (evidence is None or not len(evidence.samples)) and probes:
            evidence = probes[-1]
        samples = evidence.samples if evidence else empty_samples()
        result = self._judge.result() if probes else None
        doubts = (*self._trace_doubts(), *(result.doubts if result else ()))
        return Measured(
            kind=self.kind,
            state=self._state,
            verdict=Verdict.FAIL if self._message else self._verdict(result),
            qps=qps,
            slo=slo,
            message=self._message,
            stop_reason=load.stopped or (result.stop_reason if result else ""),
            arrivals=self.conditions.arrivals_name,
            seed=self.conditions.seed,
            budget_s=budget_s,
            min_s=min_s,
            engine=self.conditions.engine.name,
            target=load.target.describe(),
            started_at=self._started_at,
            samples=samples,
            sampled_s=evidence.end_s - evidence.start_s if evidence else 0.0,
            probes=probes,
            preflight=tuple(load.preflight),
            result=result,
            doubts=doubts,
            health=self._health_of(samples),
            examples=self._examples(),
            latencies_ms=latencies_ms(samples),
            latencies_of=self._latencies_of(samples),
            trace=self._trace(),
            secrets=tuple(load.secrets),
        )

    def _verdict(self, result: SustainResult | None) -> Verdict | None:
        if result is None or not self._decided:
            return None
        return verdict_with(
            result.verdict, self._trace_doubts(), (judged.bound for judged in result.breached)
        )


class SustainRun(JudgingRun):
    """Measures whether a target sustains a requirement."""

    kind: Kind = "sustain"

    def __init__(self, target: Target, requirement: Requirement, conditions: Conditions) -> None:
        self.requirement = requirement
        slo, qps = requirement.slo, requirement.qps
        how = {"min_s": requirement.min_s, "budget_s": requirement.budget_s}
        if isinstance(slo, SLO):
            self.plan = requirement.plan(conditions)
            source = make_source(target, conditions)
            self._judge = Sustain(slo, qps, **how, seed=conditions.seed)
        else:
            source = make_source(target, conditions)
            parts = judged_parts(slo, source)
            self.plan = requirement.plan(conditions, parts)
            self._judge = SustainOperations(parts, qps, **how)
        super().__init__(target, slo, conditions, self._judge, most_qps=requirement.qps, source=source)

    def measured(self) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""
        requirement = self.requirement
        return self._measured(requirement.slo, requirement.qps, requirement.budget_s, requirement.min_s)
