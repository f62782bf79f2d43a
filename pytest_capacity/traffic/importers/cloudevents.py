"""CloudEvents of KServe's and Seldon's loggers, one a line: a request and its reply share an id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.job import Arrived, Job, from_base64
from pytest_capacity.traffic.importers.pairing import Pairing
from pytest_capacity.traffic.trace import TraceRow

_REQUEST, _REPLY = ".serving.inference.request", ".serving.inference.response"


def read_cloudevents(job: Job) -> Iterator[Arrived]:
    """Inference requests from a dump of events, structured or with attributes as ``ce-`` headers.

    KServe's logger stamps an event when it makes it, which is when the request came in or, where its queue
    was full, somewhat later (``sendHttpCloudEvent`` in its source).
    """
    clock, pairing, findings = job.clock("iso"), Pairing(), job.findings
    for line, record in job.json_lines():
        event = _attributes(record)
        kind, key = str(event.get("type", "")), str(event.get("requestid") or event.get("id") or "")
        time_ns = clock.read(event.get("time"), line)
        if not kind.endswith((_REQUEST, _REPLY)):
            findings.drop("neither a request nor a reply", line)
        elif not key or (time_ns is None and kind.endswith(_REQUEST)):
            findings.drop("no time" if key else "no id", line)
        elif kind.endswith(_REQUEST):
            yield from pairing.request(key, Arrived(time_ns, _row(job, event, key), line))
        else:
            start_ns = pairing.time_of(key)
            latency_ns = None if time_ns is None or start_ns is None else time_ns - start_ns
            yield from pairing.reply(key, latency_ns, {})
    yield from pairing.rest()
    if pairing.unmatched_replies:
        findings.note(f"{pairing.unmatched_replies:,} replies without a request")
    job.tell_clock(clock)


def _attributes(record: dict[str, Any]) -> dict[str, Any]:
    """The event's attributes and its data, also where a dump has them as HTTP or Kafka headers and a body."""
    headers = record.get("headers")
    if "type" in record or not isinstance(headers, dict):
        return record
    event: dict[str, Any] = {}
    for name, value in headers.items():
        prefix, mark, attribute = name.lower().replace("_", "-").partition("-")
        if prefix == "ce" and mark:
            event[attribute] = value
    event["data"] = record.get("body", record.get("value", record.get("data")))
    event["datacontenttype"] = headers.get("content-type")
    return event


def _row(job: Job, event: dict[str, Any], key: str) -> TraceRow:
    name = str(event.get("inferenceservicename") or event.get("modelid") or "")
    row = TraceRow(0.0, id=key, op=name or None)
    if event.get("component") not in (None, "", "predictor"):
        row.op = f"{name} {event['component']}".strip()
    if event.get("datacontenttype"):
        row.headers["content-type"] = str(event["datacontenttype"])
    data = event.get("data")
    if "data_base64" in event:
        job.put_body(row, from_base64(event["data_base64"]) or b"")
    elif isinstance(data, str):
        # KServe's own example calls JSON a form: what the data is counts more than what it is called.
        job.put_body(row, data.encode("utf-8", "backslashreplace"))
    else:
        job.put_json(row, data)
    if row.body is not None:
        row.headers["content-type"] = "application/json"
    if name:
        row.path = _path(str(event.get("type")), name, row.body)
    return row


def _path(kind: str, name: str, body: Any) -> str:
    """Where such a request is posted to; the events do not say it."""
    if kind.startswith("io.seldon") and not (isinstance(body, dict) and "inputs" in body):
        return "/api/v1.0/predictions"
    if isinstance(body, dict) and "inputs" in body:
        return f"/v2/models/{name}/infer"
    return f"/v1/models/{name}:predict"
