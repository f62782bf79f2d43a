"""One HTTP/1.1 connection: a request goes out, its reply is parsed as it comes, and the connection is free.

This is the hot path. A reply costs one call of ``data_received`` and three of the parser's; headers are read
only where somebody asks for them, from the bytes that were kept.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
import zlib
from typing import Any, Protocol

import httptools

from pytest_capacity.load.failures import in_words, one_line
from pytest_capacity.load.replies import decoded, read_headers
from pytest_capacity.load.rows import Rows
from pytest_capacity.load.sending import Desk
from pytest_capacity.load.tokens import TokenTimes
from pytest_capacity.protocols import Judgement, Outcome, Reply, Stream

HEAD_BYTES = 65_536
"""More than any server's reply needs; one that sends headers without end fails long before memory does."""

BUFFER_BYTES = 262_144

_GOOD = int(Outcome.GOOD)
_NAN = math.nan
_monotonic = time.monotonic


class Owner(Protocol):
    """What a connection knows of the sender that it belongs to."""

    desk: Desk
    rows: Rows
    origin_s: float
    stream: Stream
    good: set[int]
    plain: set[int]
    buffer: memoryview

    def opened(self, connection: Connection) -> None:
        """The connection can be used."""
        ...

    def free(self, connection: Connection) -> None:
        """The connection's request has ended and another may use it."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection can never be used again."""
        ...

    def finished(self) -> None:
        """One request has ended; its row is told."""
        ...


class Connection(asyncio.Protocol):
    """Carries one request at a time; times are the session's seconds.

    ``row`` is -1 while an ``answer`` is awaited in place of a row.
    """

    __slots__ = (
        "_complete",
        "_dirty",
        "_done_s",
        "_first_byte_s",
        "_head",
        "_headed",
        "_headless_body",
        "_keep",
        "_operation",
        "_owner",
        "_parser",
        "_parts",
        "_received",
        "_reuse",
        "_status",
        "_tokens",
        "_transport",
        "answer",
        "busy",
        "intended_s",
        "open",
        "row",
        "sent_s",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._tokens: TokenTimes | None = None
        self.answer: asyncio.Future[tuple[Reply | None, Judgement]] | None = None
        self.busy = self.open = False
        self.row, self._operation = -1, 0
        self.intended_s = self.sent_s = self._first_byte_s = self._done_s = _NAN
        self._head = b""
        self._headed = self._complete = self._dirty = self._keep = self._reuse = False
        self._headless_body = False
        self._status = self._received = 0
        self._parts: list[bytes] = []

    # What the owner asks for.

    def send(
        self, wire: bytes, row: int, operation: int, intended_s: float, *, headless_body: bool = False
    ) -> None:
        """Send a request now and tell of it. A reply with ``headless_body`` (to HEAD) has none."""
        owner = self._owner
        # As near to the system call as can be: with a limit of 0 the transport writes at once.
        sent_s = _monotonic() - owner.origin_s
        self._transport.write(wire)
        self.busy = True
        self._expect(row, operation, intended_s, sent_s, headless_body=headless_body)
        owner.rows.sent(row, operation, intended_s, sent_s)

    def send_late(
        self,
        wire: bytes,
        row: int,
        operation: int,
        intended_s: float,
        sent_s: float,
        *,
        headless_body: bool,
    ) -> None:
        """Send a request that waited for this connection, and that was told as sent when it began to."""
        self._transport.write(wire)
        self.busy = True
        self._expect(row, operation, intended_s, sent_s, headless_body=headless_body)

    def give_up(self, judgement: Judgement, now_s: float) -> None:
        """End the request without its reply; the connection cannot be used again."""
        self._done_s = now_s
        self._status_unknown()
        self._tell(judgement.outcome, judgement.reason, None)
        self.drop()

    def drop(self) -> None:
        """Break the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=0)
        self.open = True

    def pause_writing(self) -> None:
        """A large body waits for the server to read it; no other request uses this connection meanwhile."""

    def resume_writing(self) -> None:
        """The body has gone out."""

    def data_received(self, data: bytes) -> None:
        """Parse a part of a reply."""
        now_s = _monotonic() - self._owner.origin_s
        if not self.busy:
            # A word without a question: whatever came next could not be told from its answer.
            self._retire()
            return
        self._done_s = now_s
        if self._first_byte_s != self._first_byte_s:
            self._first_byte_s = now_s
        if not self._headed:
            self._head = self._head + data if self._head else data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(Outcome.BAD_REPLY, "no valid HTTP reply: the server wants another protocol")
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(Outcome.BAD_REPLY, f"no valid HTTP reply: {one_line(str(error))}")
                return
            self._dirty = True
        if self._complete:
            self._finish()
        elif not self._headed and len(self._head) > HEAD_BYTES:
            self._fail(Outcome.BAD_REPLY, f"no valid HTTP reply: headers of more than {HEAD_BYTES} bytes")

    def eof_received(self) -> bool:
        """The server has said all; without a length in its headers that ends the reply."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End the request in flight, if there is one."""
        self.open = False
        if self.busy:
            self._done_s = _monotonic() - self._owner.origin_s
            if error is None and self._headed and self._ends_with_connection():
                self._reuse = False
                self._finish()
            elif self._head and (error is None or isinstance(error, ssl.SSLError)):
                self._fail(Outcome.BAD_REPLY, "no valid HTTP reply: the connection ended in the middle of it")
            else:
                self._fail(Outcome.DISCONNECTED, f"the connection broke: {in_words(error)}")
        self._owner.lost(self)

    # What the parser tells.

    def on_headers_complete(self) -> None:
        """Learn the status, and whether the body is of interest."""
        if self._complete:
            self._dirty = True
            return
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._status = status
        self._headed = True
        self._keep = status not in self._owner.plain or self.row < 0
        if self._headless_body:
            self._complete = True
            self._reuse = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Count a part of the body, stamp it where replies are streamed, keep it where it is judged."""
        if self._complete:
            self._dirty = True
            return
        self._received += len(body)
        if self._tokens is not None:
            self._tokens.add(body, self._done_s)
        if self._keep:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The reply is whole."""
        if self._headed and not self._complete:
            self._complete = True
            self._reuse = self._parser.should_keep_alive()

    # How it is done.

    def _expect(
        self, row: int, operation: int, intended_s: float, sent_s: float, *, headless_body: bool
    ) -> None:
        self.row = row
        self._operation = operation
        self.intended_s = intended_s
        self.sent_s = sent_s
        self._headless_body = headless_body
        self._first_byte_s = _NAN
        self._head = b""
        self._headed = self._complete = self._dirty = False
        self._status = self._received = 0
        self._parts = []
        self._reuse = True
        if self._owner.stream:
            self._tokens = TokenTimes(self._owner.stream)

    def _finish(self) -> None:
        """Judge a whole reply and tell of it; then the connection is free, or closed."""
        owner = self._owner
        if self.row < 0:
            self._judge()
            self._retire()
            return
        if self._looks() in owner.good:
            self._tell(_GOOD, "", None)
        else:
            self._judge()
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if self._headless_body:
            # The parser waits for the body that the headers promise and that never comes.
            self._parser = httptools.HttpResponseParser(self)
        if self.open and self._reuse and not self._dirty and not unsent:
            owner.free(self)
        else:
            self._retire()
        owner.finished()

    def _looks(self) -> int:
        """All that a judgement by status depends on, as one number."""
        return self._status * 4 + self._headless_body * 2 + (self._received > 0)

    def _judge(self) -> None:
        owner = self._owner
        headers = read_headers(self._head)
        try:
            body = decoded(b"".join(self._parts), headers)
        except (zlib.error, ValueError) as error:
            self._status_unknown()
            reason = f"no valid HTTP reply: its content coding is broken ({error})"
            self._tell(Outcome.BAD_REPLY, reason, None)
            return
        reply = Reply(self._status, headers, body, to_head=self._headless_body)
        judgement = owner.desk.judged(reply)
        if judgement.outcome is Outcome.GOOD and owner.desk.encoded.judge.by_status:
            owner.good.add(self._looks())
            if self._received:
                owner.plain.add(self._status)
        self._tell(judgement.outcome, judgement.reason, reply)

    def _status_unknown(self) -> None:
        self._status = self._received = 0

    def _fail(self, outcome: Outcome, reason: str) -> None:
        self._status_unknown()
        self._tell(outcome, reason, None)
        self._retire()
        if self.row >= 0:
            self._owner.finished()

    def _tell(self, outcome: int, reason: str, reply: Reply | None) -> None:
        self.busy = False
        answer = self.answer
        if answer is not None:
            self.answer = None
            if not answer.done():
                answer.set_result((reply, Judgement(Outcome(outcome), reason)))
            return
        owner = self._owner
        if reason:
            owner.desk.example(Outcome(outcome), reason)
        tokens = self._tokens
        owner.rows.final(
            self.row,
            self._operation,
            self.intended_s,
            outcome,
            self.sent_s,
            self._first_byte_s,
            _NAN if outcome == Outcome.CANCELLED else self._done_s,
            self._status,
            self._received,
            None if tokens is None else tokens.times_s,
        )

    def _retire(self) -> None:
        self.drop()

    def _ends_with_connection(self) -> bool:
        """Whether only the connection's end can have ended this reply (RFC 9112, section 6.3)."""
        headers = read_headers(self._head)
        return "content-length" not in headers and "transfer-encoding" not in headers


class BufferedConnection(Connection, asyncio.BufferedProtocol):
    """The same for asyncio's own loop, which otherwise makes a new buffer of 256 KiB for every read."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        """All connections read into one buffer: each takes out its part before the next one reads."""
        del sizehint
        return self._owner.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.data_received(bytes(self._owner.buffer[:nbytes]))
