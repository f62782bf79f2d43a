"""One capacity search from its question to its result."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capacity.load.guard import Ceilings, LoadRefused
from pytest_capacity.measurement.conditions import Conditions
from pytest_capacity.measurement.run import Run
from pytest_capacity.measurement.traced import verdict_with
from pytest_capacity.protocols import Target, empty_samples, join_samples
from pytest_capacity.results.measured import Measured, PlayedProbe
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.found import CapacityResult
from pytest_capacity.search.verdict import ALLOWABLE, judge_search
from pytest_capacity.slo import SLO, CapacityUsageError, Verdict
from pytest_capacity.stats.summary import latencies_ms

LEAST_BUDGET_S = 10.0
"""Warm-up and a ramp alone take most of that."""
NEAR = 0.05
"""Windows within 5 % of the capacity show what latency is like there."""


@dataclass(frozen=True)
class Question:
    """What a search is to find, and what is required of it.

    ``allow`` names the statuses that the asker accepts. Rates stay within ``min_qps`` and ``max_qps``, the
    load within ``budget_s`` seconds.
    """

    slo: SLO
    require_qps: float | None = None
    min_qps: float | None = None
    max_qps: float | None = None
    budget_s: float = 60.0
    tolerance: float = 0.08
    allow: tuple[str, ...] = ()

    def most_qps(self, conditions: Conditions) -> float:
        """The highest rate that the search may offer: its own bound or the ceiling.

        Raises CapacityUsageError for a question that cannot be asked.
        """
        if not self.budget_s >= LEAST_BUDGET_S:
            raise CapacityUsageError(
                f"budget_s={self.budget_s:g} is too short for a search: use {LEAST_BUDGET_S:g} or more"
            )
        most_qps = min(self.max_qps or conditions.ceilings.max_qps, conditions.ceilings.max_qps)
        try:
            conditions.ceilings.check(self.max_qps or 0.0, 0.0, self.budget_s)
        except LoadRefused as error:
            raise CapacityUsageError(str(error)) from error
        unknown = [name for name in self.allow if name not in ALLOWABLE]
        if unknown:
            raise CapacityUsageError(f"allow={unknown[0]!r} is none of {', '.join(ALLOWABLE)}")
        if self.require_qps is not None and self.require_qps > most_qps:
            raise CapacityUsageError(
                f"require_qps={self.require_qps:g} is above the highest rate to be tried, {most_qps:g}/s"
            )
        if self.require_qps is not None and self.require_qps < (self.min_qps or 0.0):
            raise CapacityUsageError(
                f"require_qps={self.require_qps:g} is below the lowest rate to be tried, "
                f"min_qps={self.min_qps:g}"
            )
        if not 0 < self.tolerance < 1:
            raise CapacityUsageError(
                f"tolerance={self.tolerance:g} must be a share of the capacity above 0 and below 1; "
                "0.08 is 8 %"
            )
        return most_qps


class SearchRun(Run):
    """Finds how much a target takes."""

    def __init__(self, target: Target, question: Question, conditions: Conditions) -> None:
        most_qps = question.most_qps(conditions)
        self.question = question
        try:
            self._search = CapacitySearch(
                question.slo,
                budget_s=question.budget_s,
                tolerance=question.tolerance,
                min_qps=question.min_qps,
                # Given a bound, the search warms up within it; the usual ceiling is out of warm-up's reach.
                max_qps=most_qps if question.max_qps or most_qps < Ceilings.max_qps else None,
                max_in_flight=conditions.max_in_flight,
                require_qps=question.require_qps,
                seed=conditions.seed,
            )
        except ValueError as error:
            raise CapacityUsageError(str(error)) from error
        super().__init__(target, question.slo, conditions, self._search, most_qps=most_qps)

    def measured(self) -> Measured:
        """What was found so far; without a verdict where ``run`` was interrupted."""
        load, question = self._load, self.question
        probes = tuple(self._played())
        found = self._search.result() if probes else None
        verdict, doubts = judge_search(found, question.require_qps, question.allow) if found else (None, ())
        trace_doubts = self._trace_doubts((found.capacity_qps if found else None) or 0.0)
        verdict = verdict_with(verdict, trace_doubts, question.slo.latency_bounds)
        doubts = (*trace_doubts, *doubts)
        near = _near(probes, found)
        samples = join_samples([played.samples for played in near]) if near else empty_samples()
        return Measured(
            kind="search",
            state=self._state,
            verdict=Verdict.FAIL if self._message else verdict if self._decided else None,
            qps=question.require_qps,
            slo=question.slo,
            message=self._message,
            stop_reason=load.stopped or (found.status if found else ""),
            arrivals=self.conditions.arrivals_name,
            seed=self.conditions.seed,
            budget_s=question.budget_s,
            min_s=None,
            engine=self.conditions.engine.name,
            target=load.target.describe(),
            started_at=self._started_at,
            samples=samples,
            sampled_s=sum(played.end_s - played.start_s for played in near),
            probes=probes,
            preflight=tuple(load.preflight),
            capacity=found,
            doubts=doubts,
            health=self._health_of(samples),
            examples=self._examples(),
            latencies_ms=latencies_ms(samples),
            trace=self._trace(),
            secrets=tuple(load.secrets),
        )


def _near(probes: tuple[PlayedProbe, ...], found: CapacityResult | None) -> list[PlayedProbe]:
    """The windows at rates near the capacity; without any, the last open-loop window."""
    measured = [played for played in probes if played.role == "measure"]
    capacity = found.capacity_qps if found else None
    near = [
        played
        for played in measured
        if capacity and abs((played.probe.rate_qps or 0.0) / capacity - 1) <= NEAR
    ]
    return near or measured[-1:]
