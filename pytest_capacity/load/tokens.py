"""When the pieces of a streamed reply came: each chunk, or each server-sent event."""

from __future__ import annotations

import re
from array import array

from pytest_capacity.protocols import Stream

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONGEST_END = 4


class TokenTimes:
    """The times of one reply's pieces, in seconds of the session's clock.

    An event counts when its closing empty line has come (WHATWG HTML, "Server-sent events"), however the
    network cut it.
    """

    __slots__ = ("_rest", "_stream", "times_s")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = b""
        self.times_s = array("d")

    def add(self, part: bytes, now_s: float) -> None:
        """Take in a part of the body that has just come."""
        if self._stream == "chunks":
            self.times_s.append(now_s)
            return
        text = self._rest + part
        end = 0
        for match in _EVENT_END.finditer(text):
            # Empty lines after an event, or before the first, are no event of their own.
            if text[end : match.start()].strip(b"\r\n"):
                self.times_s.append(now_s)
            end = match.end()
        rest = text[end:]
        # A long event is not searched again from its beginning with each part: one byte tells that it began.
        began = b"x" if rest[:-_LONGEST_END].strip(b"\r\n") else b""
        self._rest = began + rest[-_LONGEST_END:]
