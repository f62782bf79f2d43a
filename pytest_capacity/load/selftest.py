"""What this machine's load generator can do: ``pytest-capacity selftest``.

A closed loop tells what a request costs and where the ceiling lies; open loops at several rates tell how late
requests leave. Against the null server these are the generator's own limits, against a URL those of both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

from pytest_capacity.load.engines import engine_named
from pytest_capacity.load.guard import LoadRefused, check_allowed, resolve
from pytest_capacity.load.machine import ProcessorTimes, read_processors
from pytest_capacity.load.nullserver import null_server
from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.protocols import (
    Encoded,
    Engine,
    Floats,
    Health,
    LoadReport,
    LoadSession,
    Outcome,
    Target,
    join_samples,
)
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.traffic.arrivals import poisson

CONCURRENCY = 32
WARM_S = 0.3
LEAD_S = 0.05
TICK_S = 0.25
MOST_IN_FLIGHT = 2_000
MOST_SECONDS = 60.0
MOST_REQUESTS = 20_000_000.0


class ClosedLoop(TypedDict):
    """The ceiling with 32 requests in flight; CPU is the generator's, all its processes'."""

    qps: float
    cpu_us_per_request: float | None
    requests: int


class OpenLoop(TypedDict):
    """How punctually Poisson arrivals left at one rate; lateness is sent minus intended time."""

    offered_qps: float
    achieved_qps: float
    lateness_p50_us: float | None
    lateness_p99_us: float | None
    requests: int


class Host(TypedDict):
    """What others took of the processors meanwhile, the generator and the server it loaded left out."""

    foreign_cpu_percent: float | None
    steal_percent: float | None


class SelfTest(TypedDict):
    """The answer of a self-test."""

    engine: str
    closed_loop: ClosedLoop
    open_loop: list[OpenLoop]
    host: Host


def measure_target(options: Any, rates: Sequence[float], make_target: Callable[[Any], Target]) -> SelfTest:
    """Test against the URL that the options name, or against a null server.

    Raises CapacityUsageError for a host that is not allowed or a target that does not answer well.
    """
    engine = engine_named(options.engine, options.workers)
    if options.url is not None:
        return _test(engine, make_target(options), options, rates)
    with null_server() as url:
        options.url = url
        return _test(engine, make_target(options), options, rates)


def _test(engine: Engine, target: Target, options: Any, rates: Sequence[float]) -> SelfTest:
    encoded = target.encode(np.random.default_rng(0))
    try:
        endpoint = resolve(encoded.endpoint)
        check_allowed(endpoint, options.allow_host)
        return self_test(engine, replace(encoded, endpoint=endpoint), seconds=options.seconds, rates=rates)
    except (LoadRefused, TargetUnavailable, RuntimeError) as error:
        raise CapacityUsageError(str(error)) from error


def rates_from(text: str) -> tuple[float, ...]:
    """Rates separated by commas. Raises ValueError for what is none."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--rates {text!r} must be numbers such as 100,1000") from None
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"--rates {text!r} must be positive")
    return rates


def check_extent(seconds: float, rates: Sequence[float]) -> None:
    """Raises ValueError for a self-test without end or of more requests than anyone means."""
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"--seconds {seconds:g} must be positive and at most {MOST_SECONDS:g}")
    if max(rates) * seconds > MOST_REQUESTS:
        raise ValueError(f"{max(rates) * seconds:,.0f} requests are more than {MOST_REQUESTS:,.0f}")


def self_test(
    engine: Engine, encoded: Encoded, *, seconds: float, rates: Sequence[float], seed: int = 0
) -> SelfTest:
    """Load the target in a closed loop and at each rate for so long, one after the other.

    Raises what opening the engine raises, and RuntimeError where the load was halted or nothing came back.
    """
    rng = np.random.default_rng(seed)
    before = read_processors()
    shares: list[Health] = []
    session = engine.open(encoded, max_in_flight=MOST_IN_FLIGHT, most_qps=max(rates))
    count = len(encoded.requests)
    try:
        closed = _closed_loop(session, count, seconds, shares)
        opened = [_open_loop(session, count, rate, poisson(rate, seconds, rng), shares) for rate in rates]
    finally:
        session.close()
    return {"engine": engine.name, "closed_loop": closed, "open_loop": opened, "host": _host(before, shares)}


def _closed_loop(session: LoadSession, requests: int, seconds: float, shares: list[Health]) -> ClosedLoop:
    session.hold(0, CONCURRENCY, np.arange(requests, dtype=np.int64))
    first = _collect(session, session.now_s() + WARM_S)
    began_s, own_s = session.now_s(), time.process_time()
    reports = [first]
    while session.now_s() < began_s + seconds:
        reports.append(_collect(session, min(session.now_s() + TICK_S, began_s + seconds)))
    lasted_s, own_s = session.now_s() - began_s, time.process_time() - own_s
    session.pause(session.now_s())
    good = sum(int((report.samples.outcome == Outcome.GOOD).sum()) for report in reports[1:])
    if not good:
        said = next(iter(reports[-1].examples.values()), "no reply came")
        raise RuntimeError(f"no request succeeded: {said}")
    shares.append(reports[-1].health)
    workers_s = reports[-1].health.cpu_s - first.health.cpu_s if reports[-1].health.workers else 0.0
    return {
        "qps": round(good / lasted_s, 1),
        "cpu_us_per_request": round((own_s + workers_s) / good * 1e6, 2),
        "requests": good,
    }


def _open_loop(
    session: LoadSession, requests: int, rate_qps: float, offsets_s: Floats, shares: list[Health]
) -> OpenLoop:
    if not len(offsets_s):
        # At a request in some seconds there may be none in two.
        offsets_s = np.array([1 / rate_qps])
    start_s = session.now_s() + LEAD_S
    session.play(0, start_s + offsets_s, np.arange(len(offsets_s), dtype=np.int64) % requests)
    seconds = float(offsets_s[-1])
    end_s = start_s + seconds
    reports = []
    while session.now_s() < end_s:
        reports.append(_collect(session, min(session.now_s() + TICK_S, end_s)))
    session.pause(0.0)
    shares.append(reports[-1].health)
    samples = join_samples([report.samples for report in reports])
    sent = (samples.outcome == Outcome.PENDING) & (samples.intended_s >= start_s)
    late_us = (samples.sent_s - samples.intended_s)[sent] * 1e6
    _settle(session)
    quantiles = np.quantile(late_us, [0.5, 0.99]) if len(late_us) else None
    return {
        "offered_qps": rate_qps,
        "achieved_qps": round(int(sent.sum()) / seconds, 1),
        "lateness_p50_us": None if quantiles is None else round(float(quantiles[0]), 1),
        "lateness_p99_us": None if quantiles is None else round(float(quantiles[1]), 1),
        "requests": int(sent.sum()),
    }


def _settle(session: LoadSession) -> None:
    """Let what is in flight end before the next rate begins."""
    give_up_s = session.now_s() + 2.0
    while session.now_s() < give_up_s:
        if _collect(session, session.now_s() + 0.05).in_flight == 0:
            return


def _collect(session: LoadSession, until_s: float) -> LoadReport:
    report = session.collect(until_s)
    if report.halted is not None:
        raise RuntimeError(report.halted)
    return report


def _host(before: ProcessorTimes | None, shares: Sequence[Health]) -> Host:
    after = read_processors()
    if before is None or after is None:
        return {"foreign_cpu_percent": None, "steal_percent": None}
    return {
        "foreign_cpu_percent": round(100 * max(health.foreign_share for health in shares), 1),
        "steal_percent": round(100 * after.steal_share_since(before), 2),
    }


def in_words(answer: SelfTest) -> list[str]:
    """The answer as lines for people."""
    closed, host = answer["closed_loop"], answer["host"]
    cpu = (
        "" if closed["cpu_us_per_request"] is None else f", {closed['cpu_us_per_request']:.1f} us of CPU each"
    )
    lines = [
        f"engine {answer['engine']}: {closed['qps']:,.0f} requests/s with {CONCURRENCY} in flight{cpu}",
        f"{'offered/s':>12} {'achieved/s':>12} {'late p50 us':>12} {'late p99 us':>12}",
    ]
    for row in answer["open_loop"]:
        p50, p99 = (_figure(row["lateness_p50_us"]), _figure(row["lateness_p99_us"]))
        lines.append(f"{row['offered_qps']:>12,.0f} {row['achieved_qps']:>12,.0f} {p50:>12} {p99:>12}")
    if host["steal_percent"] is not None:
        lines.append(
            f"meanwhile others took {host['foreign_cpu_percent']:g} % of the processors, "
            f"the hypervisor {host['steal_percent']:g} %"
        )
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
