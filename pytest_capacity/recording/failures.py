"""What it means for a client that the upstream could not be asked, or did not answer. Pure."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

_KINDS: tuple[tuple[tuple[type[Exception], ...], int, str], ...] = (
    ((aiohttp.ConnectionTimeoutError,), 504, "did not accept a connection in time"),
    ((asyncio.TimeoutError, TimeoutError), 504, "said nothing for {:g} s"),
    ((aiohttp.ClientResponseError, HttpProcessingError), 502, "did not answer in valid HTTP"),
    (
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError, EOFError),
        502,
        "closed the connection before its reply was whole",
    ),
)
"""The first that fits counts."""


class NoConnection(OSError):
    """The upstream took no connection, for the reason that is its cause."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The status to answer, and why; ``is_upstream_s`` where the fault is the upstream's."""

    status: int
    why: str
    is_upstream_s: bool = True


def explain(error: Exception, timeout_s: float, *, body_broke: bool) -> Failure:
    """Tell a failed exchange; ``timeout_s`` is how long the upstream was given to say something."""
    if body_broke:
        return Failure(400, "the request's body broke off, or is no valid HTTP", is_upstream_s=False)
    if isinstance(error, NoConnection) and isinstance(error.__cause__, OSError):
        return Failure(502, f"took no connection: {_cause(error.__cause__)}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failure(502, f"took no connection: {_cause(error)}")
    for kinds, status, why in _KINDS:
        if isinstance(error, kinds):
            return Failure(status, why.format(timeout_s))
    # Its words may hold what the client sent.
    return Failure(502, f"could not be asked, or answered what cannot be passed on ({type(error).__name__})")


def _cause(error: OSError) -> str:
    if isinstance(error, (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError)):
        return "its certificate is not trusted; --no-verify-tls accepts it all the same"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:200] or type(error).__name__
