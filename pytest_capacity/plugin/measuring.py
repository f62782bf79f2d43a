"""Measuring for a test: from its demand to a record on disk and an outcome.

This module imports what measures; nothing imports it until a capacity test runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from pytest_capacity.load.engines import engine_named
from pytest_capacity.measurement import (
    Conditions,
    Question,
    ReplayRequest,
    ReplayRun,
    Requirement,
    Run,
    SearchRun,
    SustainRun,
)
from pytest_capacity.plugin.demand import Demand, ReplayDemand, SearchDemand
from pytest_capacity.plugin.lock import one_at_a_time
from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.outcome import OUTCOMES, enforce, properties_of
from pytest_capacity.plugin.state import INTERRUPTED, ROWS, SETTINGS, nodeid_of
from pytest_capacity.plugin.terminal import ProgressLine
from pytest_capacity.plugin.traces import ceilings_of, mode_of, recorded_for, sessions_of
from pytest_capacity.protocols import Target
from pytest_capacity.report.text import failure_text
from pytest_capacity.results.entries import TestRecord
from pytest_capacity.results.measured import Measured
from pytest_capacity.results.record import summary_of
from pytest_capacity.results.redact import redact_text
from pytest_capacity.slo import CapacityUsageError, Inconclusive, SLOViolation
from pytest_capacity.targets.resolve import as_target

RECORD = pytest.StashKey[TestRecord]()
AnyDemand: TypeAlias = "Demand | ReplayDemand | SearchDemand"


def measure(item: pytest.Item, target: object, demand: Demand, *, source: str) -> Measured:
    """Measure whether a target sustains a rate, keep the record, and end the test as the verdict says.

    Raises SLOViolation, Inconclusive or CapacityUsageError, or skips, as the options want it.
    """
    __tracebackhide__ = True

    def prepare(checked: Target, conditions: Conditions) -> Run:
        requirement = Requirement(demand.slo, demand.qps, demand.budget_s, demand.min_s)
        return SustainRun(checked, requirement, conditions)

    return _without_our_inside(lambda: _conduct(item, target, demand, prepare, source))


def measure_demand(
    item: pytest.Item, target: object, demand: Demand | ReplayDemand, *, source: str
) -> Measured:
    """Measure what a marker demands; see ``measure`` and ``replay``."""
    __tracebackhide__ = True
    if isinstance(demand, Demand):
        return measure(item, target, demand, source=source)
    return replay(item, target, demand, source=source)


def replay(item: pytest.Item, target: object, demand: ReplayDemand, *, source: str) -> Measured:
    """Judge recorded traffic as it was recorded, keep the record, and end the test as the verdict says.

    Raises SLOViolation, Inconclusive or CapacityUsageError, or skips, as the options want it.
    """
    __tracebackhide__ = True

    def prepare(checked: Target, conditions: Conditions) -> Run:
        request = ReplayRequest(demand.slo, demand.qps, demand.rate, demand.duration_s)
        return ReplayRun(checked, request, conditions)

    return _without_our_inside(lambda: _conduct(item, target, demand, prepare, source))


def search(item: pytest.Item, target: object, demand: SearchDemand) -> Measured:
    """Find how much a target takes, keep the record, and end the test as the requirement says.

    Raises SLOViolation, Inconclusive or CapacityUsageError, or skips, as the options want it.
    """
    __tracebackhide__ = True

    def prepare(checked: Target, conditions: Conditions) -> Run:
        question = Question(
            demand.slo,
            require_qps=demand.require_qps,
            min_qps=demand.min_qps,
            max_qps=demand.max_qps,
            budget_s=demand.budget_s,
            tolerance=demand.tolerance,
            allow=demand.allow,
        )
        return SearchRun(checked, question, conditions)

    return _without_our_inside(lambda: _conduct(item, target, demand, prepare, "call"))


def _without_our_inside(conduct: Callable[[], Measured]) -> Measured:
    """What ``conduct`` returns or ends with; where in here it was found out tells a test's author nothing."""
    __tracebackhide__ = True
    try:
        return conduct()
    except OUTCOMES as outcome:
        raise outcome.with_traceback(None) from None


def _conduct(
    item: pytest.Item,
    target: object,
    demand: AnyDemand,
    prepare: Callable[[Target, Conditions], Run],
    source: str,
) -> Measured:
    __tracebackhide__ = True
    settings = item.config.stash[SETTINGS]
    progress = ProgressLine(item.config, item.name)
    interrupted = INTERRUPTED.get()
    # A second measurement of a test must not send the first one's requests at the same moments again.
    seed = settings.seed + _record_of(item, settings).count
    conditions = Conditions(
        engine=engine_named(settings.engine, settings.workers),
        seed=seed,
        allow_hosts=settings.allow_hosts,
        ceilings=ceilings_of(settings),
        arrivals="constant" if demand.arrivals == "constant" else "poisson",
        trace=recorded_for(item, demand, seed),
        trace_mode=mode_of(demand),
        sessions=sessions_of(demand),
        max_in_flight=demand.max_in_flight,
        on_progress=progress.show,
        interrupted=interrupted,
    )
    try:
        run = prepare(as_target(target), conditions)
    except (TypeError, ValueError) as error:
        raise CapacityUsageError(f"capacity_target: {redact_text(str(error))}") from None
    try:
        with one_at_a_time(settings, interrupted):
            measured = run.smoke() if settings.mode == "smoke" else run.run()
    except (CapacityUsageError, Inconclusive):
        # No load was sent: there is nothing to keep.
        raise
    except BaseException:
        # Whatever ends the load from outside (Ctrl-C, SIGTERM, a timeout's exception) leaves what was seen.
        _keep(item, run.measured(), demand, settings, source)
        raise
    finally:
        progress.clear()
    if settings.mode == "smoke":
        if measured.message:
            raise SLOViolation(measured.message)
        pytest.skip("SLO not judged: smoke mode sent a few requests and all replies were good")
    text, headline = _keep(item, measured, demand, settings, source)
    enforce(measured.verdict, text, headline, settings)
    return measured


def _keep(
    item: pytest.Item, measured: Measured, demand: AnyDemand, settings: Settings, source: str
) -> tuple[str, str]:
    """Write the record anew with this measurement in it; returns its text for people and its headline."""
    record, path = _record_of(item, settings).add(measured, source, demand.model, settings.directory)
    shown = path.relative_to(item.config.rootpath) if path.is_relative_to(item.config.rootpath) else path
    row = dict(summary_of(record, artifact=str(shown)))
    # One row a test: it joins all its measurements, as the record does.
    item.stash[ROWS] = [row]
    others = [(name, value) for name, value in item.user_properties if not name.startswith("capacity.")]
    item.user_properties[:] = [*others, *properties_of(row)]
    return failure_text(record, artifact=str(shown)), str(row["headline"])


def _record_of(item: pytest.Item, settings: Settings) -> TestRecord:
    """The record of this execution of the test; a rerun begins a new one."""
    # pytest-rerunfailures counts a test's executions here; without it there is one.
    attempt = int(getattr(item, "execution_count", 1))
    record = item.stash.get(RECORD, None)
    if record is None or record.attempt != attempt:
        record = item.stash[RECORD] = TestRecord(nodeid_of(item), attempt, settings.mode, settings.overrides)
    return record
