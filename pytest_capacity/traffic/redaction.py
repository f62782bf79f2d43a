"""What never gets into a trace: credentials in headers, in a path's parameters and in bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

MASK = "***"

KEPT_HEADERS = frozenset(
    {"accept", "accept-encoding", "content-encoding", "content-type", "inference-header-content-length"}
)
"""Headers that change what a server does and cannot hold a credential; all others are dropped."""

_SECRET = re.compile(
    r"(?:proxy[_-]?)?authorization|(?:set[_-]?)?cookie|credentials?|passw(?:or)?d|passphrase|pwd|jwt|sig(?:nature)?"
    r"|(?:x[_-])?(?:api|access|auth|secret|private|subscription|function|account|signing|license)[_.-]?key"
    r"|key|token|(?:api|access|auth|bearer|id|refresh|security|session|csrf|x[_-]amz[_-]security)[_-]?token"
    r"|(?:client[_-]?)?secret|session[_-]?id|x[_-]amz[_-](?:signature|credential)",
    re.IGNORECASE,
)
_HARMLESS_IN_BODIES = frozenset({"key", "token", "sig", "signature", "session_id", "sessionid", "session-id"})


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


def without_secrets(body: Any) -> Any:
    """A JSON body with the values of fields named like credentials masked.

    Names that are data as often as secrets ("token", "key") are left: a trace without its inputs is useless.
    """
    if isinstance(body, dict):
        return {
            name: MASK if _is_secret_field(name, value) else without_secrets(value)
            for name, value in body.items()
        }
    if isinstance(body, list):
        return [without_secrets(one) for one in body] if body and isinstance(body[0], dict | list) else body
    return body


def _is_secret_field(name: str, value: Any) -> bool:
    return (
        isinstance(value, str) and bool(_SECRET.fullmatch(name)) and name.lower() not in _HARMLESS_IN_BODIES
    )


def _safe_parameter(parameter: str) -> str:
    name, equals, _value = parameter.partition("=")
    return f"{name}={MASK}" if equals and _SECRET.fullmatch(name) else parameter
