"""HTTP Archives (HAR 1.2) of browsers and proxies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from pytest_capacity.traffic.contents import FORM
from pytest_capacity.traffic.importers.http import operation
from pytest_capacity.traffic.importers.job import NOT_HTTP, Arrived, Job, from_base64
from pytest_capacity.traffic.lines import TraceError, read_document
from pytest_capacity.traffic.redaction import kept_headers, safe_path
from pytest_capacity.traffic.safe_bodies import BODY_LEFT_OUT
from pytest_capacity.traffic.trace import PARSE, TraceRow

PARTS_ONLY = "it came in parts, of which the archive has no bytes"

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)


def read_har(job: Job) -> Iterator[Arrived]:
    """Entries of an archive, with full bodies; ``startedDateTime`` is the start, ``time`` the milliseconds.

    An error's line is the number of the entry.
    """
    clock, findings = job.clock("iso"), job.findings
    for number, entry in enumerate(_entries(job), 1):
        request = entry.get("request") if isinstance(entry, dict) else None
        if not isinstance(request, dict) or not request.get("url"):
            findings.drop("no request", number)
            continue
        if not _is_http(request):
            findings.drop(NOT_HTTP, number)
            continue
        time_ns = clock.read(entry.get("startedDateTime"), number)
        if time_ns is None:
            findings.drop("no startedDateTime", number)
            continue
        row = _row(job, request)
        response = entry.get("response")
        status = response.get("status") if isinstance(response, dict) else None
        if isinstance(status, int) and status > 0:
            row.seen["status"] = status
        took_ms = entry.get("time")
        latency_ns = round(took_ms * 1e6) if isinstance(took_ms, int | float) and took_ms >= 0 else -1
        if latency_ns >= 0:
            row.seen["latency_s"] = latency_ns / 1e9
        yield Arrived(time_ns, row, number, latency_ns)
    job.tell_clock(clock)
    findings.note("an archive holds one client's requests: think of --arrivals for those of all")


def _entries(job: Job) -> list[Any]:
    try:
        document = PARSE(read_document(job.path).decode("utf-8-sig"))
        entries = document["log"]["entries"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TraceError(f"no HTTP archive: {error}") from error
    if not isinstance(entries, list):
        raise TraceError("no HTTP archive: log.entries is no list")
    return entries


def _is_http(request: dict[str, Any]) -> bool:
    """Whether it is what a browser asked a server over HTTP: not a websocket, an extension or inline data."""
    scheme = _SCHEME.match(str(request["url"]).lstrip())
    is_fetched = scheme is None or scheme[1].lower() in ("http", "https")
    return is_fetched and str(request.get("method")).upper() != "CONNECT"


def _row(job: Job, request: dict[str, Any]) -> TraceRow:
    method, path = str(request.get("method") or "GET").upper(), safe_path(str(request["url"]))
    row = TraceRow(0.0, op=operation(method, path), method=method, path=path)
    headers = request.get("headers")
    if isinstance(headers, list):
        named = [one for one in headers if isinstance(one, dict)]
        row.headers = kept_headers((str(one.get("name")), str(one.get("value"))) for one in named)
    posted = request.get("postData")
    if isinstance(posted, dict):
        if posted.get("mimeType"):
            row.headers.setdefault("content-type", str(posted["mimeType"]))
        _put_body(job, row, posted)
    return row


def _put_body(job: Job, row: TraceRow, posted: dict[str, Any]) -> None:
    text, params = posted.get("text"), posted.get("params")
    if isinstance(text, str) and text:
        decoded = from_base64(text) if posted.get("encoding") == "base64" else None
        if decoded is None:
            # Compressed bytes are no text: it was decompressed.
            row.headers.pop("content-encoding", None)
            decoded = text.encode("utf-8", "backslashreplace")
        job.put_body(row, decoded)
    elif isinstance(params, list) and row.headers.get("content-type", "").lower().startswith("multipart/"):
        row.extra[BODY_LEFT_OUT] = PARTS_ONLY
    elif isinstance(params, list):
        pairs = [(str(one.get("name")), str(one.get("value", ""))) for one in params if isinstance(one, dict)]
        row.headers.pop("content-encoding", None)
        row.headers.setdefault("content-type", FORM)
        job.put_body(row, urlencode(pairs).encode(), content_type=FORM)
