"""Requests as the bytes that go over the wire (RFC 9112), made before the load."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pytest_capacity import __version__
from pytest_capacity.protocols import Endpoint, Request

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_FORBIDDEN = re.compile(r"[\r\n\x00]")
_DEFAULT_PORT = {"http": 80, "https": 443}


def host_header(endpoint: Endpoint) -> str:
    """What the Host header says: the port only where it is not the scheme's own."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return host if endpoint.port == _DEFAULT_PORT[endpoint.scheme] else f"{host}:{endpoint.port}"


def head_of(request: Request, host: str, fresh: Mapping[str, str]) -> bytes:
    """A request's first line and headers, with the empty line; ``fresh`` replaces headers of the same name.

    Raises ValueError for a header or path that would break out of its line.
    """
    replaced = {name.lower() for name in fresh}
    headers = [(name, value) for name, value in request.headers if name.lower() not in replaced]
    headers += fresh.items()
    names = {name.lower() for name, _ in headers}
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in headers]
    if "accept" not in names:
        lines.append("Accept: */*")
    if "user-agent" not in names:
        lines.append(f"User-Agent: pytest-capacity/{__version__}")
    if request.body or request.method not in _BODILESS:
        lines = [line for line in lines if not line.lower().startswith("content-length:")]
        lines.append(f"Content-Length: {len(request.body)}")
    for line in lines:
        if _FORBIDDEN.search(line):
            raise ValueError(f"a line break in a header of {request.operation} ({line.partition(':')[0]!r})")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


class Wires:
    """All requests' bytes; fresh headers make them anew, each when it is next needed."""

    def __init__(self, endpoint: Endpoint, requests: tuple[Request, ...], fresh: Mapping[str, str]) -> None:
        self._host = host_header(endpoint)
        self._requests = list(requests)
        self._fresh = dict(fresh)
        self._made: list[bytes | None] = [None] * len(requests)

    def prepare(self) -> None:
        """Make them all. Raises ValueError for a request that cannot be written."""
        for index in range(len(self._requests)):
            self[index]

    def add(self, requests: Sequence[Request]) -> None:
        """Make the bytes of more requests. Raises ValueError for one that cannot be written."""
        self._made += [self.of(request) for request in requests]
        self._requests += requests

    def renew(self, fresh: Mapping[str, str]) -> None:
        """Replace headers of the same name from now on."""
        self._fresh = dict(fresh)
        self._made = [None] * len(self._requests)

    def __getitem__(self, index: int) -> bytes:
        made = self._made[index]
        if made is None:
            made = self._made[index] = self.of(self._requests[index])
        return made

    def of(self, request: Request) -> bytes:
        """One request's bytes, whether or not it is of these."""
        return head_of(request, self._host, self._fresh) + request.body
