"""The traces that tests name: where they lie, whether they can be read, what replaying them costs.

This module imports what measures; nothing imports it until a capacity test runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_capacity.load.guard import Ceilings, LoadRefused
from pytest_capacity.measurement.recorded import Recorded, check_recorded, load_recorded
from pytest_capacity.measurement.replay import ReplayRequest
from pytest_capacity.plugin.demand import Demand, ReplayDemand, SearchDemand
from pytest_capacity.plugin.options import Settings
from pytest_capacity.report.text import plan_line
from pytest_capacity.search.plan import SustainPlan, plan_sustain
from pytest_capacity.slo import SLO, CapacityUsageError, OperationSLOs
from pytest_capacity.traffic.scaling import Mode, Sessions


def find_trace(item: pytest.Item, written: str) -> Path:
    """The file that a test names, beside the test's own or in the root directory.

    Raises ValueError where it is in neither.
    """
    for folder in (item.path.parent, item.config.rootpath):
        path = folder / written
        if path.is_file():
            return path
    places = dict.fromkeys(str(folder) for folder in (item.path.parent, item.config.rootpath))
    raise ValueError(f"trace={written!r}: no such file in {' or '.join(places)}")


def check_demand(item: pytest.Item, demand: Demand | ReplayDemand, settings: Settings) -> None:
    """See before any load that a marked test can be measured.

    Raises ValueError for a trace that is none, and a plan that cannot decide or goes over a ceiling.
    """
    try:
        if demand.trace is not None:
            check_recorded(find_trace(item, demand.trace))
        if isinstance(demand, ReplayDemand):
            return
        plan = sustain_plan(demand)
        most_s = demand.budget_s * (2 if plan is None or plan.extension else 1)
        ceilings_of(settings).check(demand.qps, demand.qps * most_s, most_s)
    except (LoadRefused, CapacityUsageError) as error:
        raise ValueError(str(error)) from error


def sustain_plan(demand: Demand) -> SustainPlan | None:
    """What a demand costs; None where only the target or the trace tells how often each operation is sent."""
    if not isinstance(demand.slo, SLO):
        return None
    return plan_sustain(demand.slo, demand.qps, min_s=demand.min_s, budget_s=demand.budget_s)


def cost_of(item: pytest.Item, demand: Demand | ReplayDemand, settings: Settings) -> tuple[str, float]:
    """What a marked test would send, in words, and its most seconds."""
    if isinstance(demand, ReplayDemand):
        return _cost_of_replay(item, demand, settings)
    plan, qps, most_s = sustain_plan(demand), demand.qps, demand.budget_s
    if plan is None:
        least_s = min(demand.min_s, most_s)
        return plan_line(least_s, most_s, round(qps * least_s), round(qps * most_s), qps), most_s
    return plan_line(plan.min_s, plan.max_s, plan.min_requests, plan.max_requests, qps), plan.max_s


def _cost_of_replay(item: pytest.Item, demand: ReplayDemand, settings: Settings) -> tuple[str, float]:
    """The same from the recording itself."""
    request = ReplayRequest(demand.slo, demand.qps, demand.rate, demand.duration_s)
    try:
        recorded = recorded_for(item, demand, settings.seed)
        if recorded is not None and sessions_of(demand) == "causal":
            recorded.check_causal()
        plan = request.plan_for(recorded, mode_of(demand), ceilings_of(settings))
    except CapacityUsageError as error:
        return f"cannot run: {error}", 0.0
    least = round(plan.qps * plan.duration_s)
    return plan_line(plan.duration_s, plan.most_s, least, plan.most_requests, plan.qps), plan.most_s


def mode_of(demand: Demand | ReplayDemand | SearchDemand) -> Mode:
    """How recorded traffic is brought above its own rate."""
    return "compress" if demand.trace_mode == "compress" else "superpose"


def sessions_of(demand: Demand | ReplayDemand | SearchDemand) -> Sessions:
    """When the turns of recorded sessions are sent."""
    return "causal" if demand.sessions == "causal" else "timed"


def recorded_for(
    item: pytest.Item, demand: Demand | ReplayDemand | SearchDemand, seed: int
) -> Recorded | None:
    """The traffic that a demand names, loaded; None where it names none. Raises CapacityUsageError."""
    if demand.trace is None:
        return None
    try:
        path = find_trace(item, demand.trace)
    except ValueError as error:
        raise CapacityUsageError(str(error)) from None
    keep = demand.slo.by_operation if isinstance(demand.slo, OperationSLOs) else ()
    return load_recorded(path, seed, keep, spread=demand.trace_ticks == "spread")


def ceilings_of(settings: Settings) -> Ceilings:
    """The ceilings that the options set."""
    return Ceilings(settings.max_qps, settings.max_requests, settings.max_s)
