"""From an exchange to a row of a trace: sampling, redaction, and what form the body takes. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pytest_capacity.protocols import Json
from pytest_capacity.recording.exchange import Exchange
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.traffic.contents import Content, Document, Form, LeftOut, Opaque, read_content
from pytest_capacity.traffic.fields import (
    FieldRules,
    Hasher,
    fits,
    parameters,
    redact_headers,
    redact_target,
    split_target,
    trail_of,
    values_of,
)
from pytest_capacity.traffic.redaction import KEPT_HEADERS
from pytest_capacity.traffic.safe_bodies import BODY_LEFT_OUT, safe_body
from pytest_capacity.traffic.trace import TraceRow

UNFINISHED = "it had not ended when its row was due"
NOT_READ = "it was not read to its end"
NOT_ASKED_FOR = "bodies of this kind are not kept"


@dataclass(frozen=True, slots=True)
class Made:
    """A row whose ``t`` is not set yet; ``stored`` is a body to be put beside the trace and referred to."""

    row: TraceRow
    stored: bytes | None
    left_out: str | None


class RowMaker:
    """Makes rows as the options say. The same exchanges and salt give the same rows."""

    def __init__(self, options: RecordingOptions, salt: bytes) -> None:
        self._options = options
        self._hasher = Hasher(salt)
        self._rules = FieldRules.of(options.drop_fields, options.hash_fields)
        self._keys = tuple(map(trail_of, options.key_fields))
        self._session_field = trail_of(options.session_field) if options.session_field else None
        self._session_header = options.session_header.lower() if options.session_header else None
        self._keep = KEPT_HEADERS | {name.lower() for name in options.keep_headers}

    def make(self, exchange: Exchange) -> Made | None:
        """The row of an exchange, None where sampling leaves it out."""
        headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in exchange.headers
        ]
        sent = dict(headers)
        content = self._content(exchange, sent)
        query = split_target(exchange.target)[1]
        session = self._session(sent, content, query)
        if not self._is_sampled(session, exchange.number):
            return None
        path = split_target(exchange.target)[0]
        row = TraceRow(
            t=0.0,
            id=str(exchange.number),
            op=operation_of(path, self._options.operations),
            method=exchange.method,
            path=redact_target(exchange.target, self._rules, self._hasher),
            headers=redact_headers(headers, self._keep),
            size={"bytes": exchange.body_bytes} if exchange.body_bytes else {},
            keys=tuple(
                dict.fromkeys(
                    self._hasher.text(value) for rule in self._keys for value in _values(content, query, rule)
                )
            ),
            session=session,
            seen=seen_of(exchange),
        )
        stored, left_out = self._give_body(row, content)
        if left_out:
            row.extra[BODY_LEFT_OUT] = left_out
        return Made(row, stored, left_out)

    def _content(self, exchange: Exchange, sent: dict[str, str]) -> Content | None:
        """What is in the body; None where there is no body."""
        if exchange.body_left_out:
            return LeftOut(exchange.body_left_out)
        if not exchange.body_ended and (exchange.body_bytes or has_body(sent)):
            return LeftOut(UNFINISHED if exchange.done_s is None else NOT_READ)
        if not (data := exchange.body):
            return None
        content_type, encoding = sent.get("content-type", ""), sent.get("content-encoding", "")
        return read_content(data, content_type, encoding, limit_bytes=self._options.max_body_bytes)

    def _session(self, sent: dict[str, str], content: Content | None, query: str) -> str | None:
        """The hash of what tells sessions apart, the header first; None where neither is there."""
        if self._session_header and (value := sent.get(self._session_header)):
            return self._hasher.text(value)
        if self._session_field:
            for found in _values(content, query, self._session_field):
                return self._hasher.text(found)
        return None

    def _is_sampled(self, session: str | None, number: int) -> bool:
        if self._options.sample >= 1:
            return True
        return self._hasher.share(session or f"request {number}") < self._options.sample

    def _give_body(self, row: TraceRow, content: Content | None) -> tuple[bytes | None, str | None]:
        """Put the body into the row, or return it to be stored, or why it is left out."""
        if content is None:
            return None, None
        kept = safe_body(content, self._rules, self._hasher)
        if isinstance(kept, LeftOut):
            return None, kept.why
        opaque = isinstance(content, Opaque)
        if self._options.bodies == "none" or (opaque and self._options.bodies == "json"):
            return None, NOT_ASKED_FOR
        if not kept.encoded:
            row.headers.pop("content-encoding", None)
        if len(kept.data) >= self._options.reference_bytes:
            return kept.data, None
        if kept.document is not None:
            row.body = kept.document
        else:
            row.body_b64 = base64.b64encode(kept.data).decode("ascii")
        return None, None


def has_body(sent: dict[str, str]) -> bool:
    """Whether a request's headers, by lower-case names, announce a body."""
    return "transfer-encoding" in sent or sent.get("content-length", "0").strip() not in ("", "0")


def operation_of(path: str, operations: Iterable[tuple[str, str]]) -> str:
    """The name of the first pattern that a path fits, else the path."""
    return next((name for name, pattern in operations if fnmatchcase(path, pattern)), path)


def seen_of(exchange: Exchange) -> dict[str, Json]:
    """What was observed of the reply; nothing where it had not ended when the row was due."""
    if exchange.done_s is None:
        return {}
    seen: dict[str, Json] = {}
    if exchange.status is not None:
        seen["status"] = exchange.status
    seen["latency_s"] = _microseconds(exchange.done_s - exchange.arrived_s)
    if exchange.first_byte_s is not None:
        seen["first_byte_s"] = _microseconds(exchange.first_byte_s - exchange.arrived_s)
    if exchange.reply_bytes:
        seen["bytes"] = exchange.reply_bytes
    if exchange.trouble is not None:
        seen["error"] = exchange.trouble
    return seen


def _values(content: Content | None, query: str, rule: tuple[str, ...]) -> Iterator[str | int | float]:
    if isinstance(content, Document):
        yield from values_of(content.value, rule)
    pairs = parameters(query)
    if isinstance(content, Form):
        pairs += parameters(content.text)
    yield from (value for name, value in pairs if fits((name,), rule))


def _microseconds(duration_s: float) -> float:
    return round(max(duration_s, 0.0), 6)
