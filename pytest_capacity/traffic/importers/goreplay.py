"""GoReplay's captures: a header line of type, id and nanoseconds, the raw message, and three monkeys."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.importers.http import operation, parse_message, request_target
from pytest_capacity.traffic.importers.job import Arrived, Job
from pytest_capacity.traffic.importers.pairing import Pairing
from pytest_capacity.traffic.lines import split_file
from pytest_capacity.traffic.redaction import kept_headers
from pytest_capacity.traffic.trace import TraceRow

SEPARATOR = "\n🐵🙈🙉\n".encode()
HEADER = re.compile(rb"([123]) ([0-9A-Za-z-]+) (\d{1,20})(?: (-?\d+))?\r?")
_REQUEST, _REPLY = b"1", b"2"


def read_goreplay(job: Job) -> Iterator[Arrived]:
    """Requests of a ``.gor`` file with their start; a reply gives status and latency.

    The time of a message is that of its start (``payloadHeader`` in GoReplay's source); replayed replies are
    left out. An error's line is the number of the message.
    """
    pairing, findings = Pairing(), job.findings
    findings.digits_ns, findings.zone = 1, "Z"
    for number, piece in split_file(job.path, SEPARATOR):
        head, _, message = piece.lstrip(b"\r\n").partition(b"\n")
        header = HEADER.fullmatch(head)
        if not header:
            if piece.strip():
                findings.drop("no GoReplay header", number)
            continue
        kind, key, time_ns = header[1], header[2].decode(), int(header[3])
        if kind == _REQUEST:
            row = _request(job, message)
            if row is None:
                findings.drop("no HTTP request", number)
                continue
            row.id = key
            yield from pairing.request(key, Arrived(time_ns, row, number))
        elif kind == _REPLY:
            start_ns = pairing.time_of(key)
            latency_ns = int(header[4] or -1)
            if latency_ns <= 0 and start_ns is not None and time_ns > start_ns:
                latency_ns = time_ns - start_ns
            yield from pairing.reply(key, latency_ns, _seen(message))
        else:
            findings.drop("replayed reply", number)
    yield from pairing.rest()


def _request(job: Job, message: bytes) -> TraceRow | None:
    parsed = parse_message(message)
    target = request_target(parsed.first_line) if parsed else None
    if parsed is None or target is None:
        return None
    method, path = target
    row = TraceRow(0.0, op=operation(method, path), method=method, path=path)
    row.headers = kept_headers(parsed.headers)
    job.put_body(row, parsed.body)
    return row


def _seen(message: bytes) -> dict[str, Json]:
    parsed = parse_message(message)
    words = parsed.first_line.split() if parsed else []
    if parsed is None or len(words) < 2 or not words[1].isdecimal():
        return {}
    return {"status": int(words[1]), "bytes": len(parsed.body)}
