"""Recorded requests as requests to a target: method, path and headers of a trace's row, made safe to send."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable
from urllib.parse import quote, urlsplit

from pytest_capacity.protocols import Request, Target
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.targets.encoding import FRAMING_HEADERS, TOKEN
from pytest_capacity.traffic.trace import TraceRow

BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
"""Methods whose requests usually have no body."""

NOT_REPLAYED = FRAMING_HEADERS | {
    "host",
    "expect",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "authorization",
    "proxy-authorization",
    "cookie",
}
"""They belong to one connection or one host, or are credentials: those of the target hold."""

_OPERATION = re.compile(r"([A-Z]{3,12}) (/.*)")


@runtime_checkable
class ReplayTarget(Protocol):
    """What a target offers that can send recorded requests, beside all that any target does."""

    def encode_row(self, row: TraceRow, body: bytes | None) -> Request:
        """Encode one recorded request under its row's operation; ``body`` is None where none was recorded.

        Raises ValueError or TypeError for a request that cannot be sent.
        """
        ...


@runtime_checkable
class KnowsPaths(Protocol):
    """What a target may offer beside that: which operations it has no path of their own for."""

    def without_path(self, operations: Iterable[str]) -> list[str]:
        """Those of the operations whose requests would go to the target's own path."""
        ...


class NoBody(ValueError):
    """A row's body is not known; the message says what to do."""


def as_replay_target(target: Target) -> ReplayTarget:
    """The target, where it can send recorded requests; raises CapacityUsageError where it cannot."""
    if not isinstance(target, ReplayTarget):
        raise CapacityUsageError(
            f"{type(target).__name__} cannot send recorded requests: it has no encode_row(row, body); "
            "HttpTarget has"
        )
    return cast("ReplayTarget", target)


def check_model_paths(target: Target, operations: Sequence[str]) -> None:
    """Raises CapacityUsageError where several modelled operations would all go to the target's own path.

    A workload model holds no paths: that of an operation is known by its name, or by the target's ``paths``.
    """
    if len(operations) == 1 or not isinstance(target, KnowsPaths):
        return
    nameless = target.without_path(operations)
    if nameless:
        example = {name: f"/{name.strip('/() ')}" for name in nameless[:2]}
        dots = ", ..." if len(nameless) > len(example) else ""
        raise CapacityUsageError(
            f"trace: a workload model holds no paths, and the target has none for {_listed(nameless)}: name "
            f"them, as in HttpTarget(url, paths={{{str(example)[1:-1]}{dots}}}, body_for=...)"
        )


def _listed(operations: Sequence[str]) -> str:
    shown = ", ".join(map(repr, operations[:5]))
    more = f" and {len(operations) - 5} more" if len(operations) > 5 else ""
    return f"operation{'s' if len(operations) > 1 else ''} {shown}{more}"


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What is asked for: a method and a path with its query."""

    method: str
    path: str


def request_line(row: TraceRow, own_path: str, paths: Mapping[str, str]) -> RequestLine:
    """Method and path of a recorded request.

    Without a recorded path it is that of ``paths`` for the operation, else one that the operation's name
    tells (``"POST /rank"``, ``"/rank"``), else ``own_path``. Raises ValueError for a method that is none.
    """
    method, path = row.method, row.path
    if path is None:
        path = paths.get(row.operation)
    if path is None:
        named = _OPERATION.fullmatch(row.operation)
        if named:
            method, path = named[1], named[2]
        else:
            path = row.operation if names_path(row.operation) else own_path
    if not TOKEN.fullmatch(method) or method.upper() in {"CONNECT", "TRACE"}:
        raise ValueError(f"method {method!r} cannot be replayed")
    return RequestLine(method.upper(), safe_target(path))


def names_path(operation: str) -> bool:
    """Whether an operation's name tells its path, as ``"POST /rank"`` and ``"/rank"`` do."""
    return operation.startswith("/") or _OPERATION.fullmatch(operation) is not None


def safe_target(path: str) -> str:
    """Path and query as they may stand in a request line; of a whole URL the host is left out."""
    parts = urlsplit(path) if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", path) else None
    if parts is not None:
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    path = path.partition("#")[0]
    plain, mark, query = path.partition("?")
    plain = quote(plain if plain.startswith("/") else f"/{plain}", safe="/%:@!$&'()*+,;=~-._")
    return plain + mark + quote(query, safe="/%:@!$&'()*+,;=~-._?")


def recorded_headers(
    recorded: Mapping[str, str], own: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """The headers to send: the recorded ones that may be sent again, and the target's own, which win."""
    taken = {name.lower() for name, _ in own} | NOT_REPLAYED
    kept = [
        (name, re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", " ", value).strip())
        for name, value in recorded.items()
        if TOKEN.fullmatch(name) and name.lower() not in taken
    ]
    return (*own, *kept)


def with_content_type(headers: tuple[tuple[str, str], ...], is_json: bool) -> tuple[tuple[str, str], ...]:
    """The headers, with a content type where the body is JSON of our making and none says otherwise."""
    if is_json and not any(name.lower() == "content-type" for name, _ in headers):
        return (*headers, ("Content-Type", "application/json"))
    return headers


def check_paths(paths: Mapping[str, str] | None) -> dict[str, str]:
    """Paths by operation; raises TypeError or ValueError for what is none."""
    if paths is None:
        return {}
    if not isinstance(paths, Mapping):
        raise TypeError(f"paths must map operations to paths, as in {{'rank': '/rank'}}, not {paths!r:.80}")
    for operation, path in paths.items():
        if not isinstance(operation, str) or not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"paths[{operation!r}]={path!r:.80} must be a path such as '/rank'")
    return dict(paths)


def missing_body(line: RequestLine) -> NoBody:
    """What is wrong with a row whose body is not known, and what to do."""
    path = line.path.partition("?")[0]
    return NoBody(
        f"{line.method} {path} has no body in the recording: give the target a factory, as in "
        "HttpTarget(url, body_for=lambda row: {'items': [0] * int(row.size['items'])})"
    )
