"""Making requests of what users write: URLs, headers and payloads, checked and encoded before the load."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

MASK = "***"

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a header name or method may be made of (RFC 9110, section 5.6.2)."""

SHOWN_HEADERS = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})
"""Everything else may carry a secret."""

FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})

SECRET_KEY = re.compile(
    r"token|key|secret|passw|pwd|sig|auth|credential|session|jwt|bearer|code", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Address:
    """A URL taken apart; ``path`` holds the query, ``authorization`` is made of the URL's credentials."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    authorization: str | None

    @property
    def shown(self) -> str:
        """The URL without its credentials, secret-looking values of its query masked."""
        path, mark, query = self.path.partition("?")
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        port = "" if self.port == default else f":{self.port}"
        return f"{self.scheme}://{host}{port}{path}{mark}{mask_query(query)}"


def parse_url(url: str) -> Address:
    """Take a URL apart; its fragment is dropped.

    Raises TypeError for what is no string, ValueError for a URL that cannot be loaded. No message repeats
    the URL's credentials.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a string such as 'http://127.0.0.1:8000/predict', not {url!r}")
    text = url.strip()
    shown = re.sub(r"//[^/?#]*@", "//", text)
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise ValueError(f"URL {shown!r} holds a space, a backslash or a control character")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"URL {shown!r} cannot be read: {error}") from None
    scheme = _scheme(parts, shown)
    if not parts.hostname:
        raise ValueError(f"URL {shown!r} names no host; write it like http://127.0.0.1:8000/predict")
    if port == 0:
        raise ValueError(f"URL {shown!r} has port 0; ports run from 1 to 65535")
    default = 443 if scheme == "https" else 80
    return Address(scheme, _host(parts.hostname, shown), port or default, _path(parts), _credentials(parts))


def _scheme(parts: SplitResult, shown: str) -> Literal["http", "https"]:
    # urlsplit takes "localhost" of "localhost:8000/predict" for a scheme.
    if not parts.netloc or not parts.scheme:
        raise ValueError(f"URL {shown!r} needs a scheme; did you mean 'http://{shown.lstrip('/')}'?")
    if parts.scheme == "http":
        return "http"
    if parts.scheme == "https":
        return "https"
    raise ValueError(f"URL {shown!r} has scheme {parts.scheme!r}; only http and https can be loaded")


def _host(host: str, shown: str) -> str:
    # Resolvers read 127.1 and 0x7f000001 as addresses, and clients differ in which they take.
    if re.fullmatch(r"(0x[0-9a-f]+|[0-9]+)(\.(0x[0-9a-f]+|[0-9]+))*", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"URL {shown!r}: {host} is no IPv4 address of four decimal numbers") from None
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"URL {shown!r}: host {host!r} is no host name ({error})") from None


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return f"{path}?{query}" if query else path


def _credentials(parts: SplitResult) -> str | None:
    if parts.username is None and parts.password is None:
        return None
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")


def mask_query(query: str) -> str:
    """A query string with the values of secret-looking keys masked."""
    if not query:
        return ""
    pairs = parse_qsl(query, keep_blank_values=True)
    if not any(SECRET_KEY.search(key) for key, _ in pairs):
        return query
    return urlencode([(k, MASK if SECRET_KEY.search(k) else v) for k, v in pairs], safe="*")


def check_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Headers as pairs.

    Raises TypeError where a value is no string, ValueError where a name or value cannot stand in HTTP or
    belongs to the engine. No message repeats a value.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to strings, not {type(headers).__name__}")
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items():
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is no header name")
        if name.lower() in FRAMING_HEADERS:
            raise ValueError(f"header {name} is set by the load engine; leave it out")
        if not isinstance(value, str):
            raise TypeError(f"header {name} must be a string, not {type(value).__name__}")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError(f"header {name} holds a line break or control character; strip() it")
        pairs.append((name, value.strip()))
    if len({name.lower() for name, _ in pairs}) < len(pairs):
        raise ValueError("headers name the same header twice, in different letter case")
    return tuple(pairs)


def mask_headers(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Headers as a record may hold them: only harmless ones keep their values."""
    return {name: value if name.lower() in SHOWN_HEADERS else MASK for name, value in headers}


def encode_json(value: object, what: str) -> bytes:
    """``value`` as compact UTF-8 JSON. Raises TypeError or ValueError, naming ``what``, where it has none."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{what} is no JSON ({error}); give plain dicts, lists, strings and finite numbers "
            "(numpy: .tolist()), or bytes"
        ) from error


def encode_payload(value: object, what: str) -> tuple[bytes, bool]:
    """A body and whether we made JSON of it: bytes and strings are sent as they are."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), False
    if isinstance(value, str):
        return value.encode(), False
    return encode_json(value, what), True
