"""Small example records for tests that show, store or read them."""

from __future__ import annotations

from pytest_capacity.results.record import (
    BoundRow,
    BreachRow,
    DoubtRow,
    Environment,
    Generator,
    Latency,
    Measurement,
    Record,
    Requirement,
    Trace,
    VerdictName,
    Versions,
    breach_row,
    make_record,
)
from pytest_capacity.results.shapes import ProbeRow, State
from pytest_capacity.slo import Bound, Breach
from pytest_capacity.stats.digest import digest_of
from pytest_capacity.stats.series import Series

NODEID = "tests/test_capacity.py::test_sustains_200_per_second"

NO_LATENCY: Latency = {
    "mean": None,
    "p50": None,
    "p90": None,
    "p95": None,
    "p99": None,
    "p99_9": None,
    "max": None,
}


def requirement(qps: float | None = 200) -> Requirement:
    return {
        "qps": qps,
        "slo": {"p99_ms": 50.0, "error_rate": 0.01},
        "error_rate_is_default": True,
        "arrivals": "poisson",
        "budget_s": 60.0,
        "min_s": 10.0,
        "source": "marker",
    }


def environment() -> Environment:
    return {
        "started_at": "2026-11-20T20:15:12Z",
        "python": "3.11.7",
        "implementation": "CPython",
        "platform": "Linux 6.1.0 x86_64",
        "cpu": "A processor",
        "cores": 2,
        "cgroup_cpus": 1.5,
        "memory_bytes": 8_000_000_000,
        "ci": None,
        "mode": "enforce",
        "overrides": {},
    }


def versions() -> Versions:
    return {
        "pytest_capacity": "0.1.0",
        "pytest": "9.0.0",
        "python": "3.11.7",
        "aiohttp": "3.13.0",
        "numpy": "2.0.0",
        "tdigest": "0.5.2.2",
        "uvloop": None,
    }


def generator(late_p99_ms: float | None = 0.1, notes: tuple[str, ...] = ()) -> Generator:
    return {
        "engine": "aiohttp",
        "arrivals": "poisson",
        "seed": 7,
        "max_in_flight": 1000,
        "late_p50_ms": 0.02,
        "late_p99_ms": late_p99_ms,
        "late_max_ms": 1.4,
        "offered_qps": 200.0,
        "achieved_qps": 200.0,
        "not_sent": 0,
        "loop_stall_ms": 2.0,
        "cpu_s": 3.1,
        "wall_s": 21.3,
        "gc_collections": 0,
        "workers": 1,
        "connection_waits": 0,
        "late_share": 0.0,
        "spin_s": 0.5,
        "throttled_s": 0.0,
        "steal_share": 0.0,
        "foreign_share": 0.0,
        "notes": list(notes),
    }


def latency_bound(verdict: VerdictName = "PASS", bad_share: float = 0.001) -> BoundRow:
    """``p99 <= 50 ms``, measured at 31 ms, or at 71 ms where it is broken."""
    broken = verdict == "FAIL"
    return {
        "name": "p99_ms",
        "label": "p99",
        "operation": None,
        "limit_ms": 50.0,
        "allowed_share": 0.01,
        "bad_share": 0.031 if broken else bad_share,
        "share_low": 0.024 if broken else bad_share / 2,
        "share_high": 0.039 if broken else bad_share * 1.5,
        "measured_ms": 71.0 if broken else 31.0,
        "low_ms": 64.0 if broken else 29.0,
        "high_ms": 80.0 if broken else 34.0,
        "verdict": verdict,
    }


def error_bound(verdict: VerdictName = "PASS", bad_share: float = 0.0) -> BoundRow:
    return {
        "name": "error_rate",
        "label": "error_rate",
        "operation": None,
        "limit_ms": None,
        "allowed_share": 0.01,
        "bad_share": bad_share,
        "share_low": bad_share / 2,
        "share_high": bad_share + 0.002,
        "measured_ms": None,
        "low_ms": None,
        "high_ms": None,
        "verdict": verdict,
    }


def series(bins: int = 21) -> Series:
    return {
        "bin_s": 1.0,
        "columns": {
            "t_s": [float(i) for i in range(bins)],
            "planned": [200] * bins,
            "sent": [200] * bins,
            "answered": [200] * bins,
            "bad": [6] * bins,
            "failed": [0] * bins,
            "p50_ms": [18.0] * bins,
            "p99_ms": [71.0] * (bins - 1) + [None],
            "in_flight": [4] * bins,
        },
    }


def measurement(
    verdict: VerdictName | None = "PASS",
    bounds: tuple[BoundRow, ...] | None = None,
    *,
    state: State = "complete",
    stop_reason: str = "enough evidence",
    outcomes: dict[str, int] | None = None,
    examples: dict[str, str] | None = None,
) -> Measurement:
    if bounds is None:
        bounds = (latency_bound(), error_bound())
    centroids = digest_of([9.0 + i / 100 for i in range(4200)])
    return {
        "kind": "sustain",
        "state": state,
        "target": {"kind": "http", "url": "http://127.0.0.1:8000/rank", "method": "POST"},
        "qps": 200.0,
        "slo": {"p99_ms": 50.0, "error_rate": 0.01},
        "verdict": verdict,
        "stop_reason": stop_reason,
        "load_s": 21.0,
        "warmup_s": 2.5,
        "evidence_s": 18.5,
        "requests": 4200,
        "evidence_requests": 3700,
        "offered_qps": 200.0,
        "achieved_qps": 200.0,
        "bad_share": bounds[0]["bad_share"] if bounds else None,
        "bad_share_low": bounds[0]["share_low"] if bounds else None,
        "bad_share_high": bounds[0]["share_high"] if bounds else None,
        "bounds": list(bounds),
        "outcomes": outcomes or {"good": 4200},
        "status_counts": {"200": 4200},
        "examples": examples or {},
        "latency_ms": {
            "mean": 19.0,
            "p50": 18.0,
            "p90": 35.0,
            "p95": 44.0,
            "p99": 71.0,
            "p99_9": 83.0,
            "max": 91.5,
        },
        "digest": {"unit": "ms", "count": 4200, "centroids": centroids},
        "series": series(),
        "preflight": [{"operation": "POST /rank", "status": 200, "latency_ms": 9.1, "text": ""}],
        "notes": [],
    }


def preflight_measurement(
    text: str = "422 from POST /rank: field 'items' required", status: int | None = 422
) -> Measurement:
    """A measurement that ended before any load."""
    unloaded = measurement("FAIL", (), state="preflight", stop_reason="the preflight failed")
    return {
        **unloaded,
        "load_s": 0.0,
        "warmup_s": 0.0,
        "evidence_s": 0.0,
        "requests": 0,
        "evidence_requests": 0,
        "offered_qps": None,
        "achieved_qps": None,
        "outcomes": {},
        "status_counts": {},
        "latency_ms": NO_LATENCY,
        "digest": None,
        "series": None,
        "preflight": [{"operation": "POST /rank", "status": status, "latency_ms": 3.0, "text": text}],
    }


def probe(number: int = 0, index: int = 0) -> ProbeRow:
    return {
        "measurement": index,
        "id": number,
        "kind": "open",
        "role": "measure" if number else "warm-up",
        "rate_qps": 200.0,
        "concurrency": None,
        "start_s": 2.5 * number,
        "end_s": 2.5 * number + 18.5,
        "settle_s": 0.0,
        "planned": 3700,
        "sent": 3700,
        "bad": 115,
        "failed": 0,
    }


def record(
    verdict: VerdictName | None,
    *measurements: Measurement,
    nodeid: str = NODEID,
    breaches: tuple[BreachRow, ...] = (),
    doubts: tuple[DoubtRow, ...] = (),
    late_p99_ms: float | None = 0.1,
    notes: tuple[str, ...] = (),
    trace: Trace | None = None,
) -> Record:
    return make_record(
        nodeid=nodeid,
        verdict=verdict,
        requirement=requirement(),
        measurements=measurements,
        generator=generator(late_p99_ms, notes),
        environment=environment(),
        versions=versions(),
        breaches=breaches,
        doubts=doubts,
        probes=[probe(number) for number in range(2)] if measurements else [],
        commit={"id": "a" * 40, "branch": "main", "dirty": False},
        trace=trace,
        model={"name": "ranker", "class": "ranking", "size": 120},
    )


def trace_row() -> Trace:
    """A recording replayed at twice its rate."""
    return {
        "file": "peak.trace.jsonl.gz",
        "kind": "recording",
        "name": "rank-prod",
        "class": "ranking",
        "source": "envoy",
        "clock": "arrival",
        "sampling": 1.0,
        "resolution_s": 0.001,
        "spread_within_s": None,
        "composed": False,
        "rows": 36_000,
        "cycle_s": 600.0,
        "recorded_qps": 60.0,
        "warnings": [],
        "mode": "superpose",
        "scalings": [
            {
                "kind": "superposed",
                "factor": 2.0,
                "copies": 2,
                "last_share": 1.0,
                "text": "2 times the recorded rate: 2 shifted copies, superposed",
            }
        ],
        "sessions": "as timed",
        "turns_after_failure": None,
        "turns_held_back": None,
        "requests": 4200,
        "distinct_rows": 4200,
        "loops": 0,
        "rows_seen_share": 0.0,
        "keys_seen_share": 0.12,
        "fidelity": {"judged": 4, "outside": 0, "outside_names": []},
    }


def passed_record(nodeid: str = NODEID) -> Record:
    return record("PASS", measurement(), nodeid=nodeid)


def failed_record(nodeid: str = NODEID) -> Record:
    """``p99 > 50 ms at 200/s``, as in how_it_feels.md."""
    breach = Breach(Bound("p99_ms", 0.01, 50.0), 0.031, 0.024, 0.039, 71, 64, 80)
    broken = measurement("FAIL", (latency_bound("FAIL"), error_bound()))
    return record("FAIL", broken, nodeid=nodeid, breaches=(breach_row(breach),))


def inconclusive_record(nodeid: str = NODEID) -> Record:
    """The generator was late."""
    doubt: DoubtRow = {
        "kind": "generator_late",
        "text": "the load generator was late: p99 38 ms behind schedule, "
        "1 ms allowed (2 % of the 50 ms bound)",
        "remedy": "a quieter runner, --capacity-workers=2, or a lower rate",
    }
    undecided = measurement("INCONCLUSIVE", (latency_bound("INCONCLUSIVE", 0.009), error_bound()))
    note = "the machine's CPUs were 96 % busy with other processes; this is not the server's limit"
    return record("INCONCLUSIVE", undecided, nodeid=nodeid, doubts=(doubt,), late_p99_ms=38.0, notes=(note,))


def preflight_record(nodeid: str = NODEID) -> Record:
    return record("FAIL", preflight_measurement(), nodeid=nodeid)


def interrupted_record(nodeid: str = NODEID) -> Record:
    cut_short = measurement(None, (), state="interrupted", stop_reason="Ctrl-C")
    return record(None, cut_short, nodeid=nodeid)
