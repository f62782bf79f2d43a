"""Triton's perf_analyzer: ``--input-data`` documents, and ``--request-intervals`` in microseconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_capacity.traffic.importers.job import Arrived, Job
from pytest_capacity.traffic.lines import TraceError, read_document
from pytest_capacity.traffic.trace import PARSE, TraceRow

_NS_PER_US = 1000


def read_perf_data(job: Job) -> Iterator[Arrived]:
    """Entries of an input document: payloads only, unless they have a ``timestamp`` (ms).

    A ``payload`` is the body; an entry of tensors is kept as it is, since it names no data types. A list of
    entries is a sequence. An error's line is the number of the entry.
    """
    clock, findings = job.clock("ms"), job.findings
    number = 0
    for sequence, entries in enumerate(_sequences(job)):
        for entry in entries:
            number += 1
            if not isinstance(entry, dict):
                findings.drop("no entry", number)
                continue
            row = TraceRow(0.0)
            named = _single(entry.get("session_id"))
            session = named if named is not None else f"sequence {sequence}" if len(entries) > 1 else None
            row.session = job.hashed(session)
            payload = _single(entry.get("payload"))
            job.put_json(row, entry if payload is None else payload)
            if payload is None:
                findings.note(
                    "tensors are kept as perf_analyzer has them: a body factory makes requests of them"
                )
            yield Arrived(clock.read(_single(entry.get("timestamp")), number), row, number)
    job.tell_clock(clock)
    findings.zone = ""


def _sequences(job: Job) -> list[list[Any]]:
    try:
        data = PARSE(read_document(job.path).decode("utf-8-sig"))["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TraceError(f"no input data of perf_analyzer: {error}") from error
    if not isinstance(data, list):
        raise TraceError("no input data of perf_analyzer: 'data' is no list")
    return [one if isinstance(one, list) else [one] for one in data]


def _single(value: Any) -> Any:
    """perf_analyzer writes every value as a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def read_perf_intervals(job: Job) -> Iterator[Arrived]:
    """Arrivals from gaps, one a line: each follows a request, the last one closes the loop.

    Raises TraceError for a line that is no number of microseconds, 0 or more.
    """
    time_ns = 0
    for line, text in job.lines():
        if not text.strip().isdecimal():
            raise TraceError(f"{text.strip()[:40]!r} is no interval in whole microseconds", line=line)
        yield Arrived(time_ns, TraceRow(0.0), line)
        time_ns += int(text) * _NS_PER_US
    job.findings.digits_ns = _NS_PER_US
