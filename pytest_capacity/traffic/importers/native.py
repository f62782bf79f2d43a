"""Traces in our own format, read as leniently as any other: to sort, repair or convert them."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_capacity.traffic.bodies import stored_body
from pytest_capacity.traffic.importers.job import Arrived, Job
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.times import ABSOLUTE_FROM_NS, Clock
from pytest_capacity.traffic.trace import parse_header, parse_row
from pytest_capacity.traffic.trace_fields import BAD_TIME


def read_native(job: Job) -> Iterator[Arrived]:
    """Rows of a trace in any order; a row that is none is dropped and counted.

    Raises TraceError for a bad header and for a time that is negative or not finite.
    """
    lines, findings = job.lines(), job.findings
    first = next(lines, None)
    if first is None:
        return
    findings.header = header = parse_header(first[1])
    findings.clock, findings.sampling = header.clock, header.sampling
    findings.prefix_block, findings.redacted = header.prefix_block, header.redacted
    clock = Clock("s")
    for number, text in lines:
        try:
            row = parse_row(text, number)
        except TraceError as error:
            if error.what == BAD_TIME:
                raise
            findings.drop(error.what.partition(":")[0], number)
            continue
        time_ns = clock.read(row.t, number)
        if time_ns is None or time_ns >= ABSOLUTE_FROM_NS:
            findings.drop("t is no time since the trace's start", number)
            continue
        if row.body_ref is not None:
            row.body_ref = job.bodies.put(stored_body(row.body_ref, job.path))
        yield Arrived(time_ns, row, number)
    findings.digits_ns = clock.digits_ns
