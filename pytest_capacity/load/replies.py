"""A reply's headers and body, for the few replies that somebody wants to see."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Mapping

import httptools
from multidict import CIMultiDict, CIMultiDictProxy


class _HeaderReader:
    """Collects the headers of the first reply that is no interim one."""

    def __init__(self) -> None:
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.parser = httptools.HttpResponseParser(self)
        self._whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._whole:
            self.headers.add(name.decode("latin-1"), value.decode("utf-8", "surrogateescape"))

    def on_headers_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self._whole = True
        elif not self._whole:
            self.headers.clear()


def read_headers(head: bytes) -> Mapping[str, str]:
    """The headers of the reply whose beginning this is; names compare without case."""
    reader = _HeaderReader()
    # What follows the headers was parsed, and judged, when it came.
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        reader.parser.feed_data(head)
    return CIMultiDictProxy(reader.headers)


def decoded(body: bytes, headers: Mapping[str, str]) -> bytes:
    """The body without its content coding, where that is gzip or deflate; others are left as they came.

    Raises zlib.error or ValueError where the coding is broken.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if not body or coding not in {"gzip", "x-gzip", "deflate"}:
        return body
    # 32 detects gzip and zlib by their headers; raw deflate, which some servers send, has none.
    bits = 32 + zlib.MAX_WBITS
    if coding == "deflate" and body[0] & 0x0F != 8:
        bits = -zlib.MAX_WBITS
    unpacker = zlib.decompressobj(bits)
    plain = unpacker.decompress(body) + unpacker.flush()
    if not unpacker.eof:
        raise ValueError("it is cut short")
    return plain
