"""How a reply is framed towards the client, byte by byte. Pure.

The proxy writes replies itself, because aiohttp's own response adds a server's name, a date and a content
type where the upstream sent none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pytest_capacity.recording.upstream import end_to_end


class Framing(Enum):
    """How a client knows where a reply's body ends."""

    NONE = "there is none"
    LENGTH = "it has the length that was announced"
    CHUNKED = "after the last chunk"
    CLOSE = "where the connection closes"


@dataclass(frozen=True, slots=True)
class ReplyPlan:
    """How to write a reply, and whether the client may send another request afterwards."""

    framing: Framing
    keep_alive: bool
    head: bytes

    def piece(self, data: bytes) -> bytes:
        """A piece of the body as it goes out."""
        if self.framing is Framing.NONE or not data:
            return b""
        return b"%x\r\n%b\r\n" % (len(data), data) if self.framing is Framing.CHUNKED else data

    @property
    def end(self) -> bytes:
        """What follows the last piece."""
        return b"0\r\n\r\n" if self.framing is Framing.CHUNKED else b""


def plan_reply(
    *,
    method: str,
    is_http_1_1: bool,
    keep_alive: bool,
    status: int,
    reason: str,
    headers: Iterable[tuple[bytes, bytes]],
) -> ReplyPlan:
    """Plan a reply from the upstream's; ``keep_alive`` is what the client asked for.

    ``headers`` are as they came, and leave as they came, but for those of the connection (RFC 9112 section
    6.3 says which replies have a body).
    """
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    connection = ",".join(value for name, value in pairs if name.lower() == "connection")
    kept = end_to_end(pairs, connection)
    framing = _framing(method, status, kept, is_http_1_1=is_http_1_1)
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in kept)]
    if framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    keep_alive = keep_alive and framing is not Framing.CLOSE
    if not keep_alive:
        lines.append("Connection: close")
    elif not is_http_1_1:
        lines.append("Connection: keep-alive")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    return ReplyPlan(framing, keep_alive, head)


def _framing(method: str, status: int, kept: list[tuple[str, str]], *, is_http_1_1: bool) -> Framing:
    if method == "HEAD" or status in (204, 304) or status < 200:
        return Framing.NONE
    if any(name.lower() == "content-length" for name, _ in kept):
        return Framing.LENGTH
    return Framing.CHUNKED if is_http_1_1 else Framing.CLOSE
