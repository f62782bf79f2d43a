"""A target that speaks plain HTTP: one URL, any body, replies judged by status and the user's own check."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, get_args

import numpy as np

from pytest_capacity.protocols import Encoded, Endpoint, Json, Judge, Reply, Request, Stream
from pytest_capacity.targets.encoding import (
    TOKEN,
    check_headers,
    encode_json,
    encode_payload,
    mask_headers,
    parse_url,
)
from pytest_capacity.targets.judging import by_name_or_object, judge_reply, name_of, one_line, server_says
from pytest_capacity.targets.recorded import (
    BODILESS_METHODS,
    check_paths,
    missing_body,
    names_path,
    recorded_headers,
    request_line,
    with_content_type,
)
from pytest_capacity.traffic.trace import TraceRow

__all__ = ["HttpTarget", "judge_reply"]

Payload: TypeAlias = "Json | bytes"
Draw: TypeAlias = Callable[[np.random.Generator], Payload]
Headers: TypeAlias = Mapping[str, str] | Callable[[], Mapping[str, str]]

STREAMS = get_args(Stream)

DRAWN_PAYLOADS = 256
"""Enough that a cache in the server does not see a handful of requests over and over, and few enough that a
payload of 100 kB each costs 25 MB and a slow callable a moment."""


class _Unset:
    """Marks an argument that was not given where None is a value."""

    def __repr__(self) -> str:
        return "<not given>"


UNSET: Final = _Unset()


class HttpTarget:
    """Requests to one URL.

    ``method`` is GET without a payload and POST with one. ``headers`` is a mapping, or a callable returning
    one, which is called before the load and every ``refresh_headers_s`` seconds, never between two sends.
    At most one of ``json``, ``body`` and ``payloads`` says what is sent: a JSON value; bytes or a string as
    they are; or several of those, given as a list or drawn before the load by a callable of a numpy
    Generator. Replies with a status in ``good_statuses`` (200 to 299) that pass ``check`` are good. A
    request unanswered after ``timeout_s`` has failed. ``operation`` names the requests in reports.

    ``verify_tls`` may name a PEM file of certificates to trust in place of the system's, ``client_cert`` the
    PEM file of the client's own, alone or with that of its key. With ``unix_socket`` the connection is made
    to that path. ``stream`` records when each "chunks" or server-sent "events" of a reply came.

    Recorded traffic is sent to this URL's host, each request by its own method, path, headers and body. Where
    the recording has no body, ``body_for`` is given the row (with its ``operation``, ``size`` and ``keys``)
    and returns a payload; where it has no path, ``paths`` gives one by operation, or the URL's own is taken.

    Credentials in the URL are sent as Basic authorization and shown nowhere.
    Raises TypeError or ValueError, saying what to write instead, for arguments that cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str | None = None,
        headers: Headers | None = None,
        json: Json | _Unset = UNSET,
        body: bytes | str | None = None,
        payloads: Sequence[Payload] | Draw | None = None,
        good_statuses: Iterable[int] | None = None,
        check: Callable[[Reply], object] | None = None,
        timeout_s: float = 10.0,
        operation: str | None = None,
        verify_tls: bool | str = True,
        client_cert: str | tuple[str, str] | None = None,
        unix_socket: str | None = None,
        stream: Stream = "",
        refresh_headers_s: float = 60.0,
        body_for: Callable[[TraceRow], Payload] | None = None,
        paths: Mapping[str, str] | None = None,
    ) -> None:
        self._address = parse_url(url)
        self._draw: Draw | None = payloads if callable(payloads) else None
        self._bodies = _given_bodies(json, body, payloads)
        self._method = _method(method, with_payload=self._draw is not None or self._bodies is not None)
        self._headers_from = headers if callable(headers) else None
        self._headers = check_headers(headers if headers is not None and not callable(headers) else {})
        if self._address.authorization is not None:
            self._headers = _with_authorization(self._headers, self._address.authorization)
        self._good_statuses = _statuses(good_statuses)
        self._check = _checkable(check)
        self._timeout_s = _positive_s("timeout_s", timeout_s)
        self._refresh_headers_s = _positive_s("refresh_headers_s", refresh_headers_s)
        self._operation = operation or f"{self._method} {self._plain_path}"
        self._verify_tls, self._ca_file = _verification(verify_tls)
        self._cert_file, self._key_file = _certificate(client_cert)
        self._unix_socket = _path("unix_socket", unix_socket)
        if stream not in STREAMS:
            raise ValueError(f"stream={stream!r} must be 'chunks' or 'events', or be left out")
        self._stream: Stream = stream
        self._body_for = _body_factory(body_for)
        self._paths = check_paths(paths)
        self._drawn_mean_bytes: float | None = None

    @property
    def _plain_path(self) -> str:
        return self._address.path.partition("?")[0]

    def encode(self, rng: np.random.Generator) -> Encoded:
        """Encode every payload; a callable of payloads is called some 256 times with ``rng``.

        Raises TypeError or ValueError for a drawn payload that cannot be sent, and what the callable raises.
        """
        bodies = self._bodies if self._draw is None else self._drawn_bodies(self._draw, rng)
        return Encoded(
            endpoint=self._endpoint(),
            requests=tuple(self._request(*body) for body in bodies or [(b"", False)]),
            judge=Judge(
                "pytest_capacity.targets.http:judge_reply",
                self._settings(),
                self._judge_check(),
                by_status=self._check is None,
            ),
            timeout_s=self._timeout_s,
            refresh_headers=None if self._headers_from is None else self._fresh_headers,
            refresh_every_s=self._refresh_headers_s,
            stream=self._stream,
        )

    def encode_row(self, row: TraceRow, body: bytes | None) -> Request:
        """Encode one recorded request; ``body`` is the recorded one, None where there is none.

        Raises ValueError or TypeError, saying what to do, for a request that cannot be sent, and what
        ``body_for`` raises.
        """
        line = request_line(row, self._address.path, self._paths)
        is_json = row.body is not None
        if body is None and line.method not in BODILESS_METHODS:
            if self._body_for is None:
                raise missing_body(line)
            body, is_json = encode_payload(self._body_for(row), f"what {name_of(self._body_for)} returned")
        headers = recorded_headers(row.headers, self._headers)
        return Request(
            row.operation, line.method, line.path, with_content_type(headers, is_json), body or b""
        )

    def without_path(self, operations: Iterable[str]) -> list[str]:
        """The operations whose requests would go to the URL's own path where none was recorded."""
        return [name for name in operations if name not in self._paths and not names_path(name)]

    def describe(self) -> dict[str, Json]:
        """What the record holds: no credentials, no header that may be a secret, no payload."""
        bodies = self._bodies or ()
        count = len(bodies) if self._draw is None else DRAWN_PAYLOADS
        mean_bytes = sum(len(body) for body, _ in bodies) / len(bodies) if bodies else self._drawn_mean_bytes
        statuses = self._good_statuses
        return {
            "kind": "http",
            "url": self._address.shown,
            "method": self._method,
            "operation": self._operation,
            "headers": mask_headers(self._headers),
            "headers_from": None if self._headers_from is None else name_of(self._headers_from),
            "payloads": count,
            "payload_mean_bytes": mean_bytes,
            "good_statuses": "200-299" if statuses is None else list(statuses),
            "check": None if self._check is None else name_of(self._check),
            "timeout_s": self._timeout_s,
            "unix_socket": self._unix_socket,
            "stream": self._stream or None,
            "body_for": None if self._body_for is None else name_of(self._body_for),
        }

    def explain(self, reply: Reply, request: Request) -> str:
        """A reply in one line: ``422 from POST /rank: field 'items' required``."""
        said = server_says(reply)
        path = request.path.partition("?")[0]
        return one_line(f"{reply.status} from {request.method} {path}" + (f": {said}" if said else ""))

    def __repr__(self) -> str:
        return f"HttpTarget({self._address.shown!r}, method={self._method!r})"

    def _endpoint(self) -> Endpoint:
        address = self._address
        return Endpoint(
            address.scheme,
            address.host,
            address.port,
            verify_tls=self._verify_tls,
            unix_path=self._unix_socket,
            ca_file=self._ca_file,
            cert_file=self._cert_file,
            key_file=self._key_file,
        )

    def _request(self, body: bytes, is_json: bool) -> Request:
        headers = with_content_type(self._headers, is_json)
        return Request(self._operation, self._method, self._address.path, headers, body)

    def _drawn_bodies(self, draw: Draw, rng: np.random.Generator) -> tuple[tuple[bytes, bool], ...]:
        what = f"a payload drawn by {name_of(draw)}"
        bodies = tuple(encode_payload(draw(rng), what) for _ in range(DRAWN_PAYLOADS))
        self._drawn_mean_bytes = sum(len(body) for body, _ in bodies) / len(bodies)
        return bodies

    def _fresh_headers(self) -> Mapping[str, str]:
        """What the user's callable returns now, checked; raises what it raises."""
        headers = {} if self._headers_from is None else self._headers_from()
        return dict(check_headers(headers))

    def _settings(self) -> dict[str, Json]:
        settings: dict[str, Json] = {}
        if self._good_statuses is not None:
            settings["good_statuses"] = list(self._good_statuses)
        if self._method == "HEAD":
            settings["empty_is_good"] = True
        return settings

    def _judge_check(self) -> Callable[[Reply], object] | str | None:
        return by_name_or_object(self._check)


def _given_bodies(
    json: Json | _Unset, body: bytes | str | None, payloads: Sequence[Payload] | Draw | None
) -> tuple[tuple[bytes, bool], ...] | None:
    given = [not isinstance(json, _Unset), body is not None, payloads is not None]
    if sum(given) > 1:
        raise ValueError("json, body and payloads exclude each other; give one of them")
    if not isinstance(json, _Unset):
        return ((encode_json(json, "json"), True),)
    if body is not None:
        if not isinstance(body, (bytes, str)):
            raise TypeError(f"body must be bytes or a string, not {type(body).__name__}; for JSON say json=")
        return (encode_payload(body, "body"),)
    if payloads is None or callable(payloads):
        return None
    if isinstance(payloads, (str, bytes, Mapping)) or not isinstance(payloads, Iterable):
        raise TypeError(
            f"payloads must be a list or a callable, not {type(payloads).__name__}; for one payload "
            "say json= or body="
        )
    bodies = tuple(encode_payload(payload, f"payloads[{i}]") for i, payload in enumerate(payloads))
    if not bodies:
        raise ValueError("payloads is empty; give at least one, or leave it out to send no body")
    return bodies


def _method(method: str | None, *, with_payload: bool) -> str:
    if method is None:
        return "POST" if with_payload else "GET"
    if not isinstance(method, str) or not TOKEN.fullmatch(method):
        raise ValueError(f"method={method!r} is no HTTP method; write 'GET' or 'POST'")
    if method.upper() in {"CONNECT", "TRACE"}:
        raise ValueError(f"method={method!r} asks nothing of a model server; write 'GET' or 'POST'")
    return method.upper()


def _with_authorization(
    headers: tuple[tuple[str, str], ...], authorization: str
) -> tuple[tuple[str, str], ...]:
    if any(name.lower() == "authorization" for name, _ in headers):
        raise ValueError("the URL's credentials and the header Authorization exclude each other; give one")
    return (*headers, ("Authorization", authorization))


def _statuses(statuses: Iterable[int] | None) -> tuple[int, ...] | None:
    if statuses is None:
        return None
    if isinstance(statuses, (str, bytes)) or not isinstance(statuses, Iterable):
        raise TypeError(f"good_statuses must be a list of statuses such as [200, 404], not {statuses!r}")
    found = tuple(sorted(set(statuses)))
    if not found:
        raise ValueError("good_statuses is empty: no reply could ever be good")
    for status in found:
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise ValueError(f"good_statuses holds {status!r}; statuses are integers from 100 to 599")
    return found


def _checkable(check: Callable[[Reply], object] | None) -> Callable[[Reply], object] | None:
    if check is not None and not callable(check):
        raise TypeError(f"check must be a function of a reply, not {type(check).__name__}")
    if inspect.iscoroutinefunction(check):
        raise TypeError("check must not be async: it is given the whole reply and has nothing to await")
    return check


def _body_factory(body_for: Callable[[TraceRow], Payload] | None) -> Callable[[TraceRow], Payload] | None:
    if body_for is not None and (not callable(body_for) or inspect.iscoroutinefunction(body_for)):
        raise TypeError("body_for must be a function of a recorded row that returns a payload")
    return body_for


def _verification(verify_tls: bool | str) -> tuple[bool, str | None]:
    if isinstance(verify_tls, bool):
        return verify_tls, None
    return True, _path("verify_tls", verify_tls)


def _certificate(client_cert: str | tuple[str, str] | None) -> tuple[str | None, str | None]:
    if isinstance(client_cert, (tuple, list)):
        if len(client_cert) != 2:
            raise ValueError("client_cert must be a PEM file, or a pair of those of certificate and key")
        return _path("client_cert", client_cert[0]), _path("client_cert", client_cert[1])
    return _path("client_cert", client_cert), None


def _path(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, not {type(value).__name__}")
    # Another process may have another working folder by then.
    return str(Path(value).absolute())


def _positive_s(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be a positive number of seconds")
    return float(value)
