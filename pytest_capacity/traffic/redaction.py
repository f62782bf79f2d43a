"""What never gets into a trace: credentials in headers and in a path's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_plus, urlsplit

from pytest_capacity.traffic.secrets import is_secret_name

MASK = "***"

KEPT_HEADERS = frozenset(
    {"accept", "accept-encoding", "content-encoding", "content-type", "inference-header-content-length"}
)
"""Headers that change what a server does and cannot hold a credential; all others are dropped."""


def kept_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that a trace keeps, with lower-case names."""
    return {name.lower(): value for name, value in headers if name.lower() in KEPT_HEADERS}


def safe_path(url: str) -> str:
    """The path and query of a URL; values of parameters with telling names are masked, the host is left out.

    What is no URL gives ``/``.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "/"
    path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
    if not parts.query:
        return path
    return f"{path}?{'&'.join(_safe_parameter(one) for one in parts.query.split('&'))}"


def _safe_parameter(parameter: str) -> str:
    # A semicolon separates parameters for some servers.
    names = [unquote_plus(piece.partition("=")[0]) for piece in parameter.split(";") if "=" in piece]
    secret = any(map(is_secret_name, names))
    return f"{parameter.partition('=')[0]}={MASK}" if secret else parameter
