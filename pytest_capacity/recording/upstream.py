"""The server behind the proxy, and what of a request reaches it. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""What concerns one connection only (RFC 9110 section 7.6.1), and names trailers, which are dropped."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests go. ``authorization`` is sent where a request has none, and never shown."""

    scheme: str
    host: str
    port: int
    authorization: str | None = None

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """The URL without a path and without credentials."""
        return f"{self.scheme}://{self.authority}"

    def __repr__(self) -> str:
        return f"Upstream({self.origin!r})"


def parse_upstream(url: str) -> Upstream:
    """Read the URL of the server to record.

    Raises ValueError, without showing credentials, for what is no http or https URL of a host alone.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("--upstream is no URL; write http://HOST:PORT") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("--upstream must be http://HOST:PORT or https://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(
            "--upstream must end after its port: paths pass through the recorder as clients send them"
        )
    authorization = _basic(parts)
    return Upstream(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], authorization)


def origin_form(target: str) -> str | None:
    """A request's target as a server is asked for it: a path and a query; None where it is neither."""
    if "://" in target and not target.startswith("/"):
        rest = target.partition("://")[2]
        path = rest[len(rest.partition("/")[0].partition("?")[0]) :]
        target = path if path.startswith("/") else f"/{path}"
    return target.partition("#")[0] if target.startswith("/") else None


def end_to_end(headers: Iterable[tuple[str, str]], connection: str) -> list[tuple[str, str]]:
    """The headers that a proxy passes on; ``connection`` is the message's Connection header."""
    dropped = _HOP_BY_HOP | {name.strip().lower() for name in connection.split(",")}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def upstream_headers(
    headers: Mapping[str, str], upstream: Upstream, *, keep_host: bool, upgrading: bool = False
) -> list[tuple[str, str]]:
    """What of a request's headers (a multi-dict) goes upstream, with the host and credentials it is to have.

    ``upgrading`` leaves those of the connection in, which is to become something else. An expectation of 100
    Continue is met by the proxy.
    """
    kept = list(headers.items())
    if not upgrading:
        kept = end_to_end(kept, headers.get("Connection", ""))
    drop = {"expect"} if keep_host else {"expect", "host"}
    kept = [(name, value) for name, value in kept if name.lower() not in drop]
    names = {name.lower() for name, _ in kept}
    if "host" not in names:
        kept.insert(0, ("Host", upstream.authority))
    if upstream.authorization and "authorization" not in names:
        kept.append(("Authorization", upstream.authorization))
    return kept


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None and parts.password is None:
        return None
    credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(credentials.encode('utf-8')).decode('ascii')}"
