"""What every importer works with: where from, how asked, what it found, and where bodies go."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pytest_capacity.traffic.bodies import BodyStore
from pytest_capacity.traffic.contents import MOST_TIMES_LARGER, UNREADABLE, LeftOut, read_content
from pytest_capacity.traffic.fields import FieldRules, Hasher, redact_document
from pytest_capacity.traffic.lines import MAX_LINE_BYTES, TraceError, numbered_lines
from pytest_capacity.traffic.safe_bodies import BODY_LEFT_OUT, safe_body
from pytest_capacity.traffic.times import Clock, Unit
from pytest_capacity.traffic.trace import PARSE, TraceHeader, TraceRow, decode

NOT_HTTP = "not an HTTP request"

NO_REQUESTS = frozenset({"replayed reply", "not a server's span", "neither a request nor a reply", NOT_HTTP})
"""Reasons to leave out what is in good order and no request."""

NOT_JSON = "not JSON"

INLINE_BYTES = 4096
"""A body that is no JSON and larger than this lies beside the trace: once, however often it was sent."""

_NAMES_ONLY = FieldRules((), ())
"""What is left out of bodies goes by the fields' names alone."""

_NO_HASHES = Hasher(b"")


@dataclass(frozen=True)
class ImportOptions:
    """How a file is to be read: columns are for tables, the rest is for every format.

    ``sizes`` gives the column of each size's name. ``sampling`` is the share of the traffic that was
    recorded, where the file does not tell. Keys and sessions are hashed with ``salt``, which is stored
    nowhere, unless ``plain_keys`` asks for them as they are.
    """

    time_col: str | None = None
    time_unit: Unit | None = None
    sizes: Mapping[str, str] = field(default_factory=dict)
    op_col: str | None = None
    key_col: str | None = None
    session_col: str | None = None
    duration_col: str | None = None
    group_col: str | None = None
    sampling: float | None = None
    mixed_zones: bool = False
    plain_keys: bool = False
    allow_cut: bool = False
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def table_options(self) -> list[str]:
        """The options given that only a table has a use for, as the command line writes them."""
        names = ("time_col", "time_unit", "op_col", "key_col", "session_col", "duration_col", "group_col")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        return given + ["--size"] * bool(self.sizes)


@dataclass(slots=True)
class Findings:
    """What an importer found out about a file.

    ``clock`` says what the times are (``arrival`` or ``completion``), ``digits_ns`` how fine, ``sampling``
    the share of the traffic that was recorded (None: unknown). ``zone`` is what a wall clock's time is
    written with. ``redacted`` is False for a trace of our own that may hold secrets: its bodies are taken as
    they are. ``header`` is that of a native trace. ``dropped`` counts the rows left out by reason,
    ``first_dropped`` tells the first line of each. ``bodies_left_out`` counts the rows that are there without
    their body, by reason. ``notes`` are for people.
    """

    clock: str = "arrival"
    digits_ns: int | None = None
    sampling: float | None = 1.0
    prefix_block: int | None = None
    redacted: bool = True
    zone: str = ""
    header: TraceHeader | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, int] = field(default_factory=dict)
    bodies_left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, line: int) -> None:
        """Count a row that is left out."""
        self.dropped[reason] += 1
        self.first_dropped.setdefault(reason, line)

    def note(self, text: str) -> None:
        """Tell something once."""
        if text not in self.notes:
            self.notes.append(text)

    def take_over(self, other: Findings) -> None:
        """Add what was found in a file of payloads, whose rows will be used."""
        self.prefix_block = other.prefix_block
        self.redacted = self.redacted and other.redacted
        self.bodies_left_out.update(other.bodies_left_out)
        for reason, count in other.dropped.items():
            self.dropped[reason] += count
            self.first_dropped.setdefault(reason, other.first_dropped[reason])
        for text in other.notes:
            self.note(text)


class Arrived(NamedTuple):
    """A row as found, its ``t`` not known yet; ``time_ns`` is None in a format without times."""

    time_ns: int | None
    row: TraceRow
    line: int
    latency_ns: int = -1


@dataclass(frozen=True)
class Job:
    """One file to be imported."""

    path: Path
    options: ImportOptions
    findings: Findings
    bodies: BodyStore

    def lines(self) -> Iterator[tuple[int, str]]:
        """The file's lines with their numbers; raises TraceError where it is no text."""
        for line in numbered_lines(self.path, allow_cut=self.options.allow_cut):
            yield line.number, decode(line)

    def json_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The file's JSON objects; a line that is none is dropped and counted, but for the first.

        Raises TraceError where the first line is no JSON.
        """
        read_any = False
        for number, text in self.lines():
            try:
                fields = PARSE(text)
            except (ValueError, RecursionError):
                # The first line says what the file is: a wrong one means a wrong file.
                if not read_any:
                    raise TraceError(NOT_JSON, line=number) from None
                self.findings.drop(NOT_JSON, number)
                continue
            read_any = True
            if isinstance(fields, dict):
                yield number, fields
            else:
                self.findings.drop("not a JSON object", number)

    def clock(self, unit: Unit | None = None) -> Clock:
        """A reader for one column of times."""
        return Clock(unit, mixed_zones=self.options.mixed_zones)

    def tell_clock(self, clock: Clock) -> None:
        """Take over what a clock has seen by the file's end."""
        self.findings.digits_ns = clock.digits_ns
        self.findings.zone = "Z" if clock.zone_s is not None or clock.unit != "iso" else ""
        if clock.daylight_saving:
            self.findings.note("time zones an hour apart, taken for daylight saving time")

    def hashed(self, value: object) -> str | None:
        """A key or session without what it says, None for an empty one; equal ones stay equal."""
        text = "" if value is None else str(value)
        if not text or self.options.plain_keys:
            return text or None
        return hashlib.blake2b(
            text.encode("utf-8", "replace"), digest_size=8, key=self.options.salt
        ).hexdigest()

    def put_body(self, row: TraceRow, data: bytes, *, content_type: str | None = None) -> None:
        """Give a row its body without the secrets in it, as a recording has it; ``size`` counts its bytes.

        What the body is, its headers tell, unless ``content_type`` does. One that may hold secrets which
        cannot be taken out is left out, and the row says why.
        """
        if not data:
            return
        row.size["bytes"] = len(data)
        kind = row.headers.get("content-type", "") if content_type is None else content_type
        encoding = row.headers.get("content-encoding", "")
        content = read_content(data, kind, encoding, limit_bytes=MAX_LINE_BYTES // MOST_TIMES_LARGER)
        kept = safe_body(content, _NAMES_ONLY, _NO_HASHES)
        if isinstance(kept, LeftOut):
            row.extra[BODY_LEFT_OUT] = kept.why
            return
        if not kept.encoded:
            row.headers.pop("content-encoding", None)
        if kept.document is not None:
            row.body = kept.document
        elif len(kept.data) > INLINE_BYTES:
            row.body_ref = self.bodies.put(kept.data)
        else:
            row.body_b64 = base64.b64encode(kept.data).decode("ascii")

    def put_json(self, row: TraceRow, body: Any) -> None:
        """Give a row its JSON body; ``size`` counts the bytes of its shortest form."""
        if body is None:
            return
        try:
            text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
            row.body = redact_document(body, _NAMES_ONLY, _NO_HASHES)
        except RecursionError:
            row.extra[BODY_LEFT_OUT] = UNREADABLE
            return
        row.size["bytes"] = len(text.encode("utf-8", "backslashreplace"))


Importer = Callable[[Job], Iterator[Arrived]]


def from_base64(text: object) -> bytes | None:
    """The bytes of a text in base64, None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def whole(value: float) -> float:
    """A number as an int where it is one: sizes mostly are."""
    return int(value) if float(value).is_integer() else value
