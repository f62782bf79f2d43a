"""The native form of recorded traffic: JSON Lines, a header and then one request a line, in order of arrival.

``t`` is the arrival in seconds since the trace's start and the one required field of a row; it never goes
back. What this version does not know is kept (``extra``), in the header as in the rows. Files ending in
``.gz`` are compressed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.atomic import written_whole
from pytest_capacity.traffic.bodies import BodyStore, bodies_directory, stored_body
from pytest_capacity.traffic.lines import MAX_LINE_BYTES, Line, TraceError, numbered_lines
from pytest_capacity.traffic.trace_fields import BAD_TIME, HEADER_FIELDS, ROW_FIELDS

__all__ = [
    "FORMAT_VERSION",
    "BodyStore",
    "TraceError",
    "TraceHeader",
    "TraceRow",
    "TraceWriter",
    "bodies_directory",
    "body_bytes",
    "header_line",
    "parse_header",
    "parse_row",
    "read_rows",
    "row_line",
]

OUT_OF_ORDER = "rows out of order"
SORT_IT = "'pytest-capacity import' sorts them"

FORMAT_VERSION = 1
_VERSION_FIELD = "pytest_capacity_trace"


@dataclass(frozen=True)
class TraceHeader:
    """What a whole trace has in common.

    ``class_`` is the kind of model ("class" in JSON). ``resolution_s`` is how finely the recording's clock
    told arrivals apart, None where unknown. ``clock`` is ``"arrival"``, or ``"completion"`` where only the
    end of each request was known. ``sampling`` is the share of the traffic that was recorded, None where
    unknown. ``start`` is the wall-clock time of ``t`` = 0, ISO 8601. ``prefix_block`` is the tokens in one
    block of a row's ``prefix``. ``extra`` holds fields that this version does not know.
    """

    name: str = ""
    class_: str | None = None
    resolution_s: float | None = None
    clock: str = "arrival"
    sampling: float | None = 1.0
    start: str | None = None
    source: str | None = None
    redacted: bool = False
    license: str | None = None
    prefix_block: int | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)


@dataclass(slots=True)
class TraceRow:
    """One recorded request.

    ``t`` is its arrival in seconds since the trace's start, ``op`` the endpoint for the mix. At most one of
    ``body`` (JSON; None means none), ``body_b64`` and ``body_ref`` (into the directory beside the trace) is
    there. ``size`` is in declared units, such as bytes, items, tokens_in. ``keys``, ``prefix`` (ids of blocks
    of tokens) and ``session`` are hashed and tell locality only. ``weight`` is the requests that this one
    stands for. ``seen`` is what was observed of the reply; it never drives load.
    """

    t: float
    id: str | None = None
    op: str | None = None
    method: str = "POST"
    path: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Json = None
    body_b64: str | None = None
    body_ref: str | None = None
    size: dict[str, float] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    prefix: tuple[int | str, ...] = ()
    session: str | None = None
    weight: float = 1.0
    seen: dict[str, Json] = field(default_factory=dict)
    extra: dict[str, Json] = field(default_factory=dict)

    @property
    def operation(self) -> str:
        """The operation's name: ``op``, else the path, else ``"request"``."""
        return self.op or self.path or "request"


def header_line(header: TraceHeader) -> str:
    """The header as one line of JSON, without its end."""
    fields: dict[str, Any] = {
        _VERSION_FIELD: FORMAT_VERSION,
        "name": header.name,
        "class": header.class_,
        "time_unit": "s",
        "resolution_s": header.resolution_s,
        "clock": header.clock,
        "sampling": header.sampling,
        "start": header.start,
        "source": header.source,
        "redacted": header.redacted,
        "license": header.license,
    }
    if header.prefix_block is not None:
        fields["prefix_block"] = header.prefix_block
    return _dumps(fields | {name: value for name, value in header.extra.items() if name not in fields})


def row_line(row: TraceRow) -> str:
    """The row as one line of JSON, without its end; absent fields are left out.

    Raises ValueError where the row holds NaN or an infinity.
    """
    if not math.isfinite(row.t):
        raise ValueError(f"t={row.t} must be a finite number")
    return line_at(row.t, row_tail(row))


def line_at(t_s: float, tail: str) -> str:
    """A row's line from its time and what ``row_tail`` gave."""
    return f'{{"t":{t_s!r}{tail}'


def row_tail(row: TraceRow) -> str:
    """All of a row's line behind its time: what an importer can write before it knows when the trace starts.

    Raises ValueError where the row holds NaN or an infinity.
    """
    fields: dict[str, Any] = {}
    for name in ("id", "op"):
        if (value := getattr(row, name)) is not None:
            fields[name] = value
    if row.method != "POST":
        fields["method"] = row.method
    for name in ("path", "headers", "size", "keys", "prefix", "session", "seen"):
        if value := getattr(row, name):
            fields[name] = value
    if row.weight != 1.0:
        fields["weight"] = row.weight
    fields.update(item for item in row.extra.items() if item[0] not in ROW_FIELDS)
    for name in ("body", "body_b64", "body_ref"):
        if (value := getattr(row, name)) is not None:
            fields[name] = value
    text = _dumps(fields)
    return f",{text[1:]}" if fields else "}"


def parse_header(line: str) -> TraceHeader:
    """Read the first line of a trace.

    Raises TraceError where it is no header, one of a later version, or has fields of a wrong kind.
    """
    fields = _parse(line, 1)
    version = fields.pop(_VERSION_FIELD, None)
    if version is None:
        raise TraceError(f"no trace: its first line must be a header with {_VERSION_FIELD!r}", line=1)
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise TraceError(f"{_VERSION_FIELD} {version!r}: this version reads {FORMAT_VERSION} only", line=1)
    if fields.pop("time_unit", "s") != "s":
        raise TraceError("time_unit must be 's'", line=1)
    known: dict[str, Any] = {}
    for name, (attribute, is_right, kind) in HEADER_FIELDS.items():
        if name == "sampling" and fields.get(name, 1.0) is None:
            known[attribute] = fields.pop(name)
        elif (value := fields.pop(name, None)) is not None:
            if not is_right(value):
                raise TraceError(f"{name} must be {kind}", line=1)
            known[attribute] = value
    return TraceHeader(**known, extra=fields)


def parse_row(line: str, number: int) -> TraceRow:
    """Read one line after the header; ``number`` is its place in the file, for errors.

    Raises TraceError where it is no JSON object, has no ``t`` or a field of a wrong kind.
    """
    fields = _parse(line, number)
    if "t" not in fields:
        raise TraceError("no arrival time 't'", line=number)
    known: dict[str, Any] = {}
    for name, (is_right, kind) in ROW_FIELDS.items():
        if (value := fields.pop(name, None)) is not None:
            if not is_right(value):
                raise TraceError(f"{name} must be {kind}", line=number)
            known[name] = value
        elif name == "t":
            raise TraceError(BAD_TIME, line=number)
    known["t"] = float(known["t"])
    if "keys" in known:
        known["keys"] = tuple(str(key) for key in known["keys"])
    if "prefix" in known:
        known["prefix"] = tuple(known["prefix"])
    if len(known.keys() & {"body", "body_b64", "body_ref"}) > 1:
        raise TraceError("at most one of body, body_b64 and body_ref", line=number)
    return TraceRow(**known, extra=fields)


class TraceWriter:
    """Writes a trace as a context manager: the file is there whole at the end, not at all after an error.

    A suffix ``.gz`` compresses. ``bodies`` stores bodies beside it for rows with ``body_ref``. Raises OSError
    where the file cannot be written, ValueError for a row whose ``t`` goes back, is negative or not finite.
    """

    def __init__(self, path: Path | str, header: TraceHeader) -> None:
        self.path, self.header, self.rows = Path(path), header, 0
        self.bodies = BodyStore(self.path)
        self._last_s = 0.0
        self._open = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> TraceWriter:
        self._file = self._open.enter_context(written_whole(self.path))
        try:
            self._put(header_line(self.header))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
        except BaseException:
            self.bodies.discard()
            raise
        if kind is not None:
            self.bodies.discard()

    def write(self, row: TraceRow) -> None:
        """Add a row."""
        self.write_line(row.t, row_tail(row))

    def write_line(self, t_s: float, tail: str) -> None:
        """Add a row whose fields ``row_tail`` has encoded."""
        if not (math.isfinite(t_s) and t_s >= self._last_s):
            raise ValueError(f"{self.path}: row {self.rows + 1}: t={t_s!r} follows {self._last_s!r}")
        self._put(line_at(t_s, tail))
        self._last_s = t_s
        self.rows += 1

    def _put(self, line: str) -> None:
        if self._file is None:
            raise ValueError(f"{self.path}: a TraceWriter writes inside its with block only")
        # Only lone surrogates cannot be encoded, and what this writes for them is their form in JSON.
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")


def read_rows(
    path: Path | str, *, allow_cut: bool = False, limit_bytes: int = MAX_LINE_BYTES
) -> tuple[TraceHeader, Iterator[TraceRow]]:
    """The header of a trace and its rows, one at a time.

    Raises TraceError with file and line, now for the header and while iterating for a row: for a file that
    is no trace, a field of a wrong kind, a time that goes back, a line above ``limit_bytes``, damaged gzip.
    With ``allow_cut`` a trace whose writer was killed ends before its unfinished line. Raises OSError where
    the file cannot be opened.
    """
    path = Path(path)
    lines = numbered_lines(path, limit_bytes=limit_bytes, allow_cut=allow_cut)
    header = read_header(path, lines)
    return header, _rows(path, lines)


def read_header(path: Path, lines: Iterator[Line]) -> TraceHeader:
    """The header from the first of a trace's lines; raises TraceError with the file's name."""
    first = next(lines, None)
    if first is None:
        raise TraceError("empty: a trace begins with a header line", path=path)
    try:
        return parse_header(decode(first))
    except TraceError as error:
        raise error.in_file(path) from error


def decode(line: Line) -> str:
    """A line as text; raises TraceError where it is not UTF-8."""
    try:
        return line.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TraceError(f"not UTF-8 text ({error.reason})", line=line.number) from error


def body_bytes(row: TraceRow, path: Path | str) -> bytes | None:
    """The body to send for a row of the trace at ``path``; None where the recording has none.

    Raises TraceError for a body that is missing, altered or wrongly encoded.
    """
    if row.body is not None:
        return json.dumps(row.body, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )
    if row.body_b64 is not None:
        try:
            return base64.b64decode(row.body_b64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise TraceError(f"row {row.id or row.t}: body_b64 is not base64", path=Path(path)) from error
    return None if row.body_ref is None else stored_body(row.body_ref, Path(path))


def _rows(path: Path, lines: Iterator[Line]) -> Iterator[TraceRow]:
    last_s = 0.0
    for line in lines:
        try:
            row = parse_row(decode(line), line.number)
        except TraceError as error:
            raise error.in_file(path) from error
        if row.t < last_s:
            what = f"{OUT_OF_ORDER}: t={row.t!r} after {last_s!r}; {SORT_IT}"
            raise TraceError(what, path=path, line=line.number)
        last_s = row.t
        yield row


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

PARSE = _DECODER.decode
"""Strict JSON from a text: NaN and infinities are refused. Raises ValueError or RecursionError."""

SCAN = _DECODER.raw_decode
"""The same without white space around; gives where the value ends, too."""


def _parse(line: str, number: int) -> dict[str, Any]:
    try:
        fields = PARSE(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"not JSON: {error}", line=number) from error
    if not isinstance(fields, dict):
        raise TraceError("not a JSON object", line=number)
    return fields


def _dumps(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
