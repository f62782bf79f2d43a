"""One replay of recorded traffic, judged as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capacity.load.guard import Ceilings, LoadRefused
from pytest_capacity.measurement.conditions import Conditions
from pytest_capacity.measurement.loop import make_source
from pytest_capacity.measurement.recorded import Recorded
from pytest_capacity.measurement.sustain import JudgingRun, judged_parts
from pytest_capacity.protocols import Target
from pytest_capacity.results.measured import Measured
from pytest_capacity.results.shapes import Kind
from pytest_capacity.search.operations import Part
from pytest_capacity.search.replaying import Replay, check_replay, warmup_s
from pytest_capacity.slo import SLO, AnySLO, CapacityUsageError
from pytest_capacity.traffic.pattern import Traffic
from pytest_capacity.traffic.scaling import Mode, scaling_for


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay sends: ``qps`` on average, for ``warmup_s`` at most and then for ``duration_s``.

    ``variance`` is that of the number of requests over its mean, where some are left out by chance.
    """

    qps: float
    duration_s: float
    warmup_s: float
    variance: float = 0.0

    @property
    def most_s(self) -> float:
        """Seconds of load, warm-up included."""
        return self.duration_s + self.warmup_s

    @property
    def most_requests(self) -> int:
        """Requests sent, on average."""
        return round(self.qps * self.most_s)


@dataclass(frozen=True)
class ReplayRequest:
    """What is asked of the target: ``slo`` over recorded traffic.

    It is sent at ``qps`` requests a second on average, or at ``rate`` times the recorded rate. It lasts for
    ``duration_s`` seconds of load, by default the whole recording once.
    """

    slo: AnySLO
    qps: float | None = None
    rate: float = 1.0
    duration_s: float | None = None

    def plan(self, conditions: Conditions) -> ReplayPlan:
        """What it will cost; raises CapacityUsageError without a trace, and for one over a ceiling."""
        return self.plan_for(conditions.trace, conditions.trace_mode, conditions.ceilings)

    def plan_for(self, trace: Recorded | None, mode: Mode, ceilings: Ceilings) -> ReplayPlan:
        """The same from the conditions that it depends on."""
        if trace is None:
            raise CapacityUsageError("a replay needs a trace")
        traffic = trace.traffic
        qps = self.rate * traffic.rate_qps if self.qps is None else self.qps
        pace = qps / traffic.rate_qps if mode == "compress" else 1.0
        duration_s = traffic.cycle_s / pace if self.duration_s is None else self.duration_s
        plan = ReplayPlan(qps, duration_s, warmup_s(duration_s), _variance(traffic, qps, mode))
        try:
            if isinstance(self.slo, SLO):
                check_replay([Part(self.slo)], qps, duration_s, variance=plan.variance)
            ceilings.check(plan.qps, plan.most_requests, plan.most_s)
        except LoadRefused as error:
            hint = "; duration_s replays a part of it" if self.duration_s is None else ""
            raise CapacityUsageError(f"{error}{hint}") from error
        except ValueError as error:
            raise CapacityUsageError(str(error)) from error
        return plan


def _variance(traffic: Traffic, qps: float, mode: Mode) -> float:
    """That of the number of requests over its mean: those without a session are left out one by one."""
    scaling = scaling_for(qps / traffic.rate_qps, mode)
    alone = float((traffic.session < 0).mean())
    return alone * scaling.last_share * (1 - scaling.last_share) / scaling.factor


class ReplayRun(JudgingRun):
    """Measures whether a target keeps its SLO over recorded traffic."""

    kind: Kind = "replay"

    def __init__(self, target: Target, request: ReplayRequest, conditions: Conditions) -> None:
        self.request = request
        self.plan = plan = request.plan(conditions)
        source = make_source(target, conditions)
        parts = judged_parts(request.slo, source)
        try:
            self._judge = Replay(parts, plan.qps, plan.duration_s, variance=plan.variance)
        except ValueError as error:
            raise CapacityUsageError(str(error)) from error
        super().__init__(target, request.slo, conditions, self._judge, most_qps=plan.qps, source=source)

    def measured(self) -> Measured:
        """What was seen so far; without a verdict where ``run`` was interrupted."""
        return self._measured(self.request.slo, self.plan.qps, self.plan.most_s, self.plan.duration_s)
