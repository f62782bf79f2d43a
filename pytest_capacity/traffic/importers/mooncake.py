"""Mooncake's traces: relative milliseconds, lengths in tokens, ids of the prompt's blocks of 512 tokens."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_capacity.traffic.importers.job import Arrived, Job
from pytest_capacity.traffic.trace import TraceRow

BLOCK_TOKENS = 512


def read_mooncake(job: Job) -> Iterator[Arrived]:
    """Rows of a Mooncake trace, and of aiperf's of that type; ``timestamp`` is in milliseconds."""
    clock, findings = job.clock("ms"), job.findings
    findings.prefix_block = BLOCK_TOKENS
    for line, fields in job.json_lines():
        time_ns = clock.read(fields.get("timestamp"), line)
        lengths = {name: fields.get(name) for name in ("input_length", "output_length")}
        blocks = fields.get("hash_ids") or []
        if time_ns is None or not isinstance(blocks, list):
            findings.drop("no timestamp" if time_ns is None else "hash_ids is no list", line)
            continue
        row = TraceRow(0.0, prefix=tuple(blocks))
        for name, value in lengths.items():
            if isinstance(value, int) and value >= 0:
                row.size["tokens_in" if name == "input_length" else "tokens_out"] = value
        yield Arrived(time_ns, row, line)
    job.tell_clock(clock)
    findings.zone = ""
