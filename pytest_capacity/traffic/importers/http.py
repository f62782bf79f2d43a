"""What importers of HTTP traffic share: request lines, messages and names of operations."""

from __future__ import annotations

import re
from typing import NamedTuple

from pytest_capacity.traffic.redaction import safe_path

_REQUEST_LINE = re.compile(r"([A-Z]{3,12}) (\S+)(?: HTTP/\d(?:\.\d)?)?")
_ID = re.compile(r"\d+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{13,}|[0-9a-f]{16,}", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r\n")


class Message(NamedTuple):
    """An HTTP/1 message: its first line, its headers and its body, chunks joined."""

    first_line: str
    headers: list[tuple[str, str]]
    body: bytes


def request_target(line: str) -> tuple[str, str] | None:
    """Method and path of a request line, secrets in the path masked; None where it is none."""
    match = _REQUEST_LINE.fullmatch(line)
    return (match[1], safe_path(match[2])) if match else None


def operation(method: str, path: str) -> str:
    """A name for the endpoint: the path without its query, ids in it as ``{id}``."""
    segments = path.partition("?")[0].split("/")
    return f"{method} {'/'.join('{id}' if _ID.fullmatch(segment) else segment for segment in segments)}"


def parse_message(data: bytes) -> Message | None:
    """Read an HTTP/1 message; None where it has no head."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        head, end, body = data.partition(b"\n\n")
    lines = head.decode("latin-1").splitlines()
    if not lines:
        return None
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.append((name.strip(), value.strip()))
    chunked = any(
        name.lower() == "transfer-encoding" and "chunked" in value.lower() for name, value in headers
    )
    return Message(lines[0].strip(), headers, _join_chunks(body) if chunked else body)


def _join_chunks(data: bytes) -> bytes:
    """The body of a chunked message; what a recorder has joined already is given as it is."""
    parts: list[bytes] = []
    at = 0
    while match := _CHUNK.match(data, at):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[match.end() : match.end() + size])
        at = match.end() + size + 2
    return b"".join(parts) if parts else data
