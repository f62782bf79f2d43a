"""One request and what is seen of its reply, while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

RawHeaders = Iterable[tuple[bytes, bytes]]

TOO_LARGE: Final = "larger than the bound on a body"
NO_MEMORY: Final = "too much waited in memory"


class Memory:
    """How many bytes of bodies are held by all exchanges together; used by several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self.lock = threading.Lock()


class Exchange:
    """A request as it came in, filled while it is answered; the recorder's thread reads it afterwards.

    ``arrived_s``, ``first_byte_s`` and ``done_s`` are seconds of one monotonic clock. ``body_bytes`` counts
    the whole body, kept or not. ``body_left_out`` tells why it is not kept. ``trouble`` tells what kept a
    whole reply from reaching the client.
    """

    __slots__ = (
        "_closed",
        "_max_body_bytes",
        "_memory",
        "_parts",
        "_parts_bytes",
        "arrived_s",
        "body_bytes",
        "body_ended",
        "body_left_out",
        "done_s",
        "first_byte_s",
        "headers",
        "method",
        "number",
        "reply_bytes",
        "status",
        "target",
        "trouble",
    )

    def __init__(
        self,
        number: int,
        arrived_s: float,
        *,
        method: str,
        target: str,
        headers: RawHeaders,
        memory: Memory,
        max_body_bytes: int,
    ) -> None:
        self.number, self.arrived_s = number, arrived_s
        self.method, self.target, self.headers = method, target, headers
        self.status: int | None = None
        self.first_byte_s: float | None = None
        self.done_s: float | None = None
        self.trouble: str | None = None
        self.body_bytes = self.reply_bytes = 0
        self.body_ended = False
        self.body_left_out: str | None = None
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._memory, self._max_body_bytes = memory, max_body_bytes
        self._closed = False

    def add_body(self, data: bytes) -> None:
        """Take another piece of the request's body, as far as the bounds allow."""
        self.body_bytes += len(data)
        if not data or self.body_left_out:
            return
        memory = self._memory
        with memory.lock:
            if self._closed:
                return
            if self.body_bytes > self._max_body_bytes:
                self._leave_out(TOO_LARGE)
            elif memory.used_bytes + len(data) > memory.limit_bytes:
                self._leave_out(NO_MEMORY)
            else:
                memory.used_bytes += len(data)
                self._parts_bytes += len(data)
                self._parts.append(data)

    @property
    def body(self) -> bytes:
        """What was kept of the body: all of it, or nothing."""
        return b"".join(self._parts)

    def close(self) -> None:
        """Give back the memory; what comes in from now on is not kept."""
        with self._memory.lock:
            self._closed = True
            self._give_back()

    def _leave_out(self, why: str) -> None:
        self.body_left_out = why
        self._give_back()

    def _give_back(self) -> None:
        self._memory.used_bytes -= self._parts_bytes
        self._parts_bytes = 0
        self._parts = []
