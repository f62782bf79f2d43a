"""OpenTelemetry in JSON, as the collector's file exporter writes it: server spans, or log records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.http import operation
from pytest_capacity.traffic.importers.job import NOT_JSON, Arrived, Job
from pytest_capacity.traffic.lines import TraceError, read_document
from pytest_capacity.traffic.redaction import safe_path
from pytest_capacity.traffic.trace import PARSE, TraceRow

_SERVER_KINDS = {2, "SPAN_KIND_SERVER"}
_NO_KINDS = {None, 0, "SPAN_KIND_UNSPECIFIED"}

# Names of the present conventions and of those before.
_METHOD = ("http.request.method", "http.method")
_STATUS = ("http.response.status_code", "http.status_code")
_SIZES = {
    "bytes": ("http.request.body.size", "http.request_content_length"),
    "tokens_in": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "tokens_out": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
}


def read_otlp(job: Job) -> Iterator[Arrived]:
    """Spans of servers with their start, and log records; both may come in any order, and be sampled.

    A span inside another process's, or of a client, is no arrival. An error's line is that of the document.
    """
    findings, services = job.findings, set[str]()
    findings.sampling, findings.digits_ns, findings.zone = None, 1, "Z"
    for line, document in _documents(job):
        for service, kind, one in _entries(document):
            if kind == "span" and not _is_arrival(one):
                findings.drop("not a server's span", line)
                continue
            time_ns = _nanoseconds(one.get("startTimeUnixNano" if kind == "span" else "timeUnixNano"))
            if time_ns is None:
                findings.drop("no time", line)
                continue
            services.add(service)
            end_ns = _nanoseconds(one.get("endTimeUnixNano"))
            latency_ns = end_ns - time_ns if end_ns is not None and end_ns >= time_ns else -1
            yield Arrived(time_ns, _row(job, one, latency_ns), line, latency_ns)
    findings.note("traces are mostly sampled, and do not tell by how much: --sampling does")
    if len(services) > 1:
        findings.note(
            f"requests to {len(services)} services in one file, of which one may have caused another"
        )


def _documents(job: Job) -> Iterator[tuple[int, dict[str, Any]]]:
    """One document a line or, where the first line is none, a file."""
    lines = job.json_lines()
    try:
        first = next(lines, None)
    except TraceError as error:
        if error.what != NOT_JSON:
            raise
        yield 1, _whole_document(job)
        return
    if first is not None:
        yield first
        yield from lines


def _whole_document(job: Job) -> dict[str, Any]:
    try:
        document = PARSE(read_document(job.path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON: {error}") from error
    return document if isinstance(document, dict) else {}


def _entries(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The spans and log records of a document with their service's name."""
    for outer, middle, inner, kind in (
        ("resourceSpans", "scopeSpans", "spans", "span"),
        ("resourceLogs", "scopeLogs", "logRecords", "log"),
    ):
        for resource in _objects(document.get(outer)):
            described = resource.get("resource")
            attributes = _attributes(described.get("attributes")) if isinstance(described, dict) else {}
            for scope in _objects(resource.get(middle)):
                for one in _objects(scope.get(inner)):
                    yield str(attributes.get("service.name", "")), kind, one


def _is_arrival(span: dict[str, Any]) -> bool:
    kind = span.get("kind")
    return kind in _SERVER_KINDS or (kind in _NO_KINDS and not span.get("parentSpanId"))


def _row(job: Job, one: dict[str, Any], latency_ns: int) -> TraceRow:
    attributes = _attributes(one.get("attributes"))
    method = str(_first(attributes, _METHOD) or "POST")
    path = _first(attributes, ("url.path", "http.target"))
    query = attributes.get("url.query")
    row = TraceRow(0.0, id=str(one.get("spanId") or "") or None, method=method)
    if path:
        row.path = safe_path(f"{path}?{query}" if query else str(path))
    route = attributes.get("http.route")
    named = str(one.get("name") or "") or None
    row.op = f"{method} {route}" if route else named or (operation(method, row.path) if row.path else None)
    status = _first(attributes, _STATUS)
    if isinstance(status, int):
        row.seen["status"] = status
    if latency_ns >= 0:
        row.seen["latency_s"] = latency_ns / 1e9
    for name, keys in _SIZES.items():
        value = _first(attributes, keys)
        if isinstance(value, int) and value >= 0:
            row.size[name] = value
    row.session = job.hashed(attributes.get("session.id") or attributes.get("gen_ai.conversation.id"))
    return row


def _attributes(pairs: Any) -> dict[str, Any]:
    """Attributes by their names; whole numbers are texts in OTLP's JSON."""
    found = {}
    for pair in _objects(pairs):
        value = pair.get("value")
        if isinstance(value, dict) and value:
            kind, content = next(iter(value.items()))
            found[str(pair.get("key"))] = _nanoseconds(content) if kind == "intValue" else content
    return found


def _nanoseconds(value: Any) -> int | None:
    """A whole number, written as a text or not; None and 0 mean none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) or None if text.isdecimal() and len(text) < 20 else None


def _first(attributes: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
