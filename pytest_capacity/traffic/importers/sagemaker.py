"""SageMaker's data capture, one JSON object a line: bodies as CSV, JSON or base64, mostly a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.job import Arrived, Job, from_base64
from pytest_capacity.traffic.trace import TraceRow

PATH = "/invocations"


def read_sagemaker(job: Job) -> Iterator[Arrived]:
    """Captured requests. The sampling percentage is in the endpoint's configuration, not in the files.

    ``inferenceTime`` is not documented as start or end; it is taken for the arrival.
    """
    clock, findings = job.clock("iso"), job.findings
    findings.sampling = None
    for line, fields in job.json_lines():
        capture, metadata = fields.get("captureData"), fields.get("eventMetadata")
        sent = capture.get("endpointInput") if isinstance(capture, dict) else None
        if not isinstance(sent, dict) or not isinstance(metadata, dict):
            findings.drop("no captured input", line)
            continue
        time_ns = clock.read(metadata.get("inferenceTime"), line)
        if time_ns is None:
            findings.drop("no inferenceTime", line)
            continue
        row = TraceRow(0.0, id=str(metadata.get("eventId") or "") or None, op="invocations", path=PATH)
        _put_body(job, row, sent)
        yield Arrived(time_ns, row, line)
    job.tell_clock(clock)
    findings.note("inferenceTime is taken for the arrival; SageMaker does not say which it is")


def _put_body(job: Job, row: TraceRow, sent: dict[str, Any]) -> None:
    if sent.get("observedContentType"):
        row.headers["content-type"] = str(sent["observedContentType"])
    data, encoding = sent.get("data"), str(sent.get("encoding", "")).upper()
    if not isinstance(data, str):
        job.put_json(row, data)
    elif encoding == "BASE64" and (decoded := from_base64(data)) is not None:
        job.put_body(row, decoded)
    else:
        kind = "application/json" if encoding == "JSON" else None
        job.put_body(row, data.encode("utf-8", "backslashreplace"), content_type=kind)
