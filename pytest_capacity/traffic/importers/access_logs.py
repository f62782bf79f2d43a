"""Access logs: combined (Apache, nginx), Envoy's text format, and JSON lines of nginx and Envoy.

Apache's ``%t`` is when a request was received, nginx's ``$time_local`` and ``$msec`` when it was logged, that
is after its end (``log_request_time`` and ``ngx_http_log_msec`` in their sources); the texts look the same.
Envoy's START_TIME is the start, its DURATION is in milliseconds, and BYTES_RECEIVED counts the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.http import operation, request_target
from pytest_capacity.traffic.importers.job import Arrived, Job
from pytest_capacity.traffic.redaction import safe_path
from pytest_capacity.traffic.times import Clock
from pytest_capacity.traffic.trace import TraceRow

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
COMBINED = re.compile(
    r"(\S+) \S+ [^\[\"]*\[([^\]]+)\] "
    + _QUOTED
    + r" (\d{3}) (\d+|-)(?: "
    + _QUOTED
    + " "
    + _QUOTED
    + r")?(.*)"
)
ENVOY = re.compile(
    r"\[([^\]]+)\] " + _QUOTED + r" (\d{1,3}|-) (\S+) (?:\S+ \S+ " + _QUOTED + r" )?"
    r"(\d+) (\d+) (\d+) (\S+)(?: " + _QUOTED + " " + _QUOTED + " " + _QUOTED + r")?.*"
)
_REQUEST_TIME = re.compile(r"(?:^|[\s\"])(?:(?:rt|request_time)=)?\"?(\d+\.\d{3})(?=$|[\s\"])")


def read_combined(job: Job) -> Iterator[Arrived]:
    """Combined and common logs as Apache writes them: the time is the arrival.

    A line that ends in nginx's ``$request_time`` is nginx's: there the time is the end.
    """
    return _combined(job, nginx=False)


def read_nginx(job: Job) -> Iterator[Arrived]:
    """Combined logs of nginx: the time is the end, and the arrival is known with ``$request_time`` only."""
    return _combined(job, nginx=True)


def _combined(job: Job, *, nginx: bool) -> Iterator[Arrived]:
    clock, findings = job.clock(), job.findings
    timed: bool | None = None
    for line, text in job.lines():
        match = COMBINED.fullmatch(text)
        if not match:
            findings.drop("not a line of an access log", line)
            continue
        latency_ns = _request_time_ns(match[8])
        if timed is None:
            timed = latency_ns >= 0
        if timed and latency_ns < 0:
            findings.drop("no $request_time", line)
            continue
        time_ns = clock.read(match[2], line)
        row = _row(match[3], match[4])
        if time_ns is None or row is None:
            findings.drop("no HTTP request" if row is None else "unreadable time", line)
            continue
        if match[5] != "-":
            row.seen["bytes"] = int(match[5])
        if timed:
            row.seen["latency_s"] = latency_ns / 1e9
            time_ns -= latency_ns
        yield Arrived(time_ns, row, line, latency_ns if timed else -1)
    job.tell_clock(clock)
    _tell_combined(job, timed=bool(timed), nginx=nginx)


def _tell_combined(job: Job, *, timed: bool, nginx: bool) -> None:
    findings = job.findings
    if timed:
        findings.note("arrival = logged time - $request_time, as nginx logs the end")
    elif nginx:
        findings.clock = "completion"
        findings.note(
            "nginx logs the end of a request; $request_time in its log_format would give the arrival"
        )
    else:
        findings.note(
            "taken for Apache's log, of arrivals; --format nginx if nginx wrote it, which logs ends"
        )


def _request_time_ns(rest: str) -> int:
    match = _REQUEST_TIME.search(rest)
    return int(match[1].replace(".", "")) * 10**6 if match else -1


def _row(request: str, status: str) -> TraceRow | None:
    target = request_target(request)
    if target is None:
        return None
    method, path = target
    row = TraceRow(0.0, op=operation(method, path), method=method, path=path)
    if status.isdecimal():
        row.seen["status"] = int(status)
    return row


def read_envoy(job: Job) -> Iterator[Arrived]:
    """Envoy's default text format, and Istio's, which has three more fields."""
    clock, findings = job.clock(), job.findings
    for line, text in job.lines():
        match = ENVOY.fullmatch(text)
        if not match:
            findings.drop("not a line of Envoy's access log", line)
            continue
        time_ns = clock.read(match[1], line)
        row = _row(match[2], match[3])
        if time_ns is None or row is None:
            findings.drop("no HTTP request" if row is None else "unreadable time", line)
            continue
        row.size["bytes"] = int(match[6])
        row.seen |= {"bytes": int(match[7]), "latency_s": int(match[8]) / 1e3}
        if match[4] != "-":
            row.seen["flags"] = match[4]
        row.id = match[12] if match[12] not in (None, "-") else None
        yield Arrived(time_ns, row, line, int(match[8]) * 10**6)
    job.tell_clock(clock)


def read_json_log(job: Job) -> Iterator[Arrived]:
    """One JSON object a request, with the variables of nginx or the operators of Envoy for names."""
    clock, findings = job.clock(), job.findings
    for line, fields in job.json_lines():
        row = _json_row(fields)
        time_ns = _json_time(fields, clock, line)
        if row is None or time_ns is None:
            findings.drop("no HTTP request" if row is None else "no time", line)
            continue
        latency_ns = _json_latency_ns(fields)
        if latency_ns >= 0:
            row.seen["latency_s"] = latency_ns / 1e9
        if "start_time" not in fields:
            if latency_ns < 0:
                findings.clock = "completion"
                findings.note("nginx logs the end of a request; $request_time would give the arrival")
            else:
                findings.note("arrival = logged time - request_time, as nginx logs the end")
                time_ns -= latency_ns
        yield Arrived(time_ns, row, line, latency_ns)
    job.tell_clock(clock)


def _json_time(fields: dict[str, Any], clock: Clock, line: int) -> int | None:
    value = _first(
        fields, "start_time", "msec", "time_iso8601", "time_local", "@timestamp", "timestamp", "time"
    )
    return None if value is None else clock.read(value, line)


def _json_latency_ns(fields: dict[str, Any]) -> int:
    """Envoy's ``duration`` is in milliseconds, nginx's ``request_time`` in seconds."""
    name, unit_ns = ("duration", 10**6) if "start_time" in fields else ("request_time", 10**9)
    try:
        latency_ns = round(float(fields[name]) * unit_ns)
    except (KeyError, ValueError, TypeError, OverflowError):
        return -1
    return max(latency_ns, -1)


def _json_row(fields: dict[str, Any]) -> TraceRow | None:
    method = _first(fields, "method", "request_method")
    path = _first(fields, "path", "request_uri", "uri")
    status = str(_first(fields, "response_code", "status") or "")
    if method and path:
        method, path = str(method), safe_path(str(path))
        row: TraceRow | None = TraceRow(0.0, op=operation(method, path), method=method, path=path)
        if row and status.isdecimal():
            row.seen["status"] = int(status)
    else:
        row = _row(str(fields.get("request", "")), status)
    if row is None:
        return None
    # $request_length counts the request line and the headers, too: it is no size of a body.
    for name, size in (
        ("bytes_received", "bytes"),
        ("content_length", "bytes"),
        ("request_length", "request_bytes"),
    ):
        value = str(fields.get(name, ""))
        if value.isdecimal():
            row.size[size] = int(value)
    identity = _first(fields, "request_id", "x_request_id")
    row.id = str(identity) if identity else None
    return row


def _first(fields: dict[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "", "-")), None)
