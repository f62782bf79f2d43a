"""Formats of load tools and batch services: vegeta's targets and results, OpenAI's batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.http import operation
from pytest_capacity.traffic.importers.job import Arrived, Job, from_base64
from pytest_capacity.traffic.redaction import kept_headers, safe_path
from pytest_capacity.traffic.trace import TraceRow


def read_vegeta_targets(job: Job) -> Iterator[Arrived]:
    """JSON targets: payloads without times; the body is in base64."""
    for line, fields in job.json_lines():
        row = _row(fields)
        if row is None:
            job.findings.drop("no method or url", line)
            continue
        headers = fields.get("header")
        if isinstance(headers, dict):
            pairs = [(name, value) for name, values in headers.items() for value in _list(values)]
            row.headers = kept_headers((name, str(value)) for name, value in pairs)
        body = from_base64(fields.get("body") or "")
        if body is None:
            job.findings.drop("body is not base64", line)
            continue
        job.put_body(row, body)
        yield Arrived(None, row, line)


def read_vegeta_results(job: Job) -> Iterator[Arrived]:
    """JSON results: starts, latencies and sizes; their body is the reply's, so that there is none to send."""
    clock = job.clock("iso")
    for line, fields in job.json_lines():
        time_ns = clock.read(fields.get("timestamp"), line)
        if time_ns is None:
            job.findings.drop("no timestamp", line)
            continue
        row = _row(fields) or TraceRow(0.0)
        sent, took_ns = fields.get("bytes_out"), fields.get("latency")
        if isinstance(sent, int) and sent > 0:
            row.size["bytes"] = sent
        if isinstance(fields.get("code"), int):
            row.seen["status"] = fields["code"]
        latency_ns = took_ns if isinstance(took_ns, int) and took_ns >= 0 else -1
        if latency_ns >= 0:
            row.seen["latency_s"] = latency_ns / 1e9
        yield Arrived(time_ns, row, line, latency_ns)
    job.tell_clock(clock)
    job.findings.note("a load test's results: the arrivals are the tool's own, not those of users")


def read_openai_batch(job: Job) -> Iterator[Arrived]:
    """Requests of a batch: payloads without times. Some providers leave out method and url (Together)."""
    for line, fields in job.json_lines():
        if not isinstance(fields.get("body"), dict):
            job.findings.drop("no body", line)
            continue
        row = _row(fields) or TraceRow(0.0)
        row.id = str(fields.get("custom_id") or "") or None
        row.headers = {"content-type": "application/json"}
        job.put_json(row, fields["body"])
        yield Arrived(None, row, line)


def _row(fields: dict[str, Any]) -> TraceRow | None:
    method, url = fields.get("method"), fields.get("url")
    if not (isinstance(method, str) and method and isinstance(url, str) and url):
        return None
    path = safe_path(url)
    return TraceRow(0.0, op=operation(method.upper(), path), method=method.upper(), path=path)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
