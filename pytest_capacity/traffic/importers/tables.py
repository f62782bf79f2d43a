"""Tables with named columns (CSV, TSV, JSON Lines), by a mapping of columns or by a known header."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from pytest_capacity.traffic.importers.csv_records import csv_records
from pytest_capacity.traffic.importers.job import Arrived, Job, whole
from pytest_capacity.traffic.importers.presets import Columns, preset_for
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.redaction import safe_path
from pytest_capacity.traffic.times import Clock, Unit
from pytest_capacity.traffic.trace import PARSE, TraceRow

_START = re.compile(r"start|begin|began|arriv|receiv", re.IGNORECASE)
_END = re.compile(
    r"(?i:^|[^a-z])(?i:end|finish|done|complet|stop)(?!point)|(?<=[a-z])(?:End|Finish|Complet|Done)"
)
_SUFFIX_UNIT = re.compile(r"[_ (](ms|us|ns|s|min)\)?$|(?:milli(seconds?)?|micro(seconds?)?)$", re.IGNORECASE)

_UNIT_WORDS: dict[str, Unit] = {
    "s": "s",
    "ms": "ms",
    "us": "us",
    "ns": "ns",
    "min": "min",
    "milli": "ms",
    "millisecond": "ms",
    "micro": "us",
    "microsecond": "us",
}

Record = Any
Getter = Callable[[Record], object]


def read_csv(job: Job) -> Iterator[Arrived]:
    """Rows of a CSV or TSV file with a header; columns are found by name, wherever they stand."""
    records = csv_records(job)
    first = next(records, None)
    if first is None:
        return
    names = [name.strip() for name in first[1]]

    def getter(column: str) -> Getter:
        index = names.index(column)
        return lambda record: record[index] if index < len(record) else None

    yield from _Table(job, names, getter).rows(records)


def read_jsonl(job: Job) -> Iterator[Arrived]:
    """Rows of a JSON Lines file; a column is a field, ``a.b`` one within another."""
    records = job.json_lines()
    # A field may be missing in some records: the columns are those of the first hundred.
    first = list(islice(records, 100))
    if not first:
        return
    names = list(dict.fromkeys(name for _line, record in first for name in _fields(record)))

    def getter(column: str) -> Getter:
        parts = column.split(".")

        def get(record: Record) -> object:
            if column in record:
                return record[column]
            for part in parts:
                record = record.get(part) if isinstance(record, dict) else None
            return record

        return get

    yield from _Table(job, names, getter).rows(chain(first, records))


def _fields(record: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in record.items():
        names.append(prefix + name)
        if isinstance(value, dict):
            names += _fields(value, f"{prefix}{name}.")
    return names


@dataclass(slots=True)
class _Size:
    name: str
    get: Getter


class _Table:
    """Reads records by the columns that options and a known header name."""

    def __init__(self, job: Job, names: Sequence[str], getter: Callable[[str], Getter]) -> None:
        self._job, self._names, self._getter = job, names, getter
        self._columns = columns = self._choose()
        self._time = self._clock_of(columns.time or "", columns.unit)
        self._get_time = self._required(columns.time or "")
        self._took = Clock(self._unit_of(columns.duration or columns.latency))
        self._get = {
            role: self._required(column)
            for role in (
                "duration",
                "latency",
                "op",
                "key",
                "session",
                "id",
                "method",
                "path",
                "status",
                "body",
            )
            if (column := getattr(columns, role))
        }
        self._sizes = [_Size(name, self._required(column)) for name, column in columns.sizes.items()]
        self._group = self._required(columns.group) if columns.group else None
        self._sampling = self._required(columns.sampling) if columns.sampling else None
        self._tell_clock()

    def rows(self, records: Iterator[tuple[int, Record]]) -> Iterator[Arrived]:
        """The requests; what a record lacks to be one is counted."""
        groups: dict[object, Arrived] = {}
        for line, record in records:
            arrived = self._row(line, record)
            if arrived is None:
                continue
            if self._group is None:
                yield arrived
                continue
            group = self._group(record)
            known = groups.setdefault(group, arrived)
            _add_to_group(known, arrived)
        yield from groups.values()
        self._job.tell_clock(self._time)
        if self._subtracts and self._took.digits_ns:
            # A difference is as fine as the coarser of the two.
            findings = self._job.findings
            findings.digits_ns = max(findings.digits_ns or 1, self._took.digits_ns)

    def _choose(self) -> Columns:
        """The columns: those that the options name, or a known header's with some replaced."""
        options = self._job.options
        known = preset_for(self._names) or Columns()
        # Who names the time's column names the others, too: nothing unasked is added then.
        own = Columns(time=options.time_col, sampled=known.sampled, note=known.note)
        columns = (own if options.time_col else known).replaced(
            unit=options.time_unit,
            op=options.op_col,
            key=options.key_col,
            session=options.session_col,
            duration=options.duration_col,
            group=options.group_col,
            sizes=options.sizes or None,
        )
        if columns.time is None and len(self._names) == 1:
            columns = columns.replaced(time=self._names[0])
        if columns.time is None:
            raise TraceError(
                f"which column is the time? --time-col takes one of {_listed(self._names)}", line=1
            )
        if columns.note:
            self._job.findings.note(columns.note)
        if columns.sampled:
            self._job.findings.sampling = None
        return columns

    def _required(self, column: str) -> Getter:
        if column not in self._names:
            near = difflib.get_close_matches(column, self._names, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TraceError(f"no column {column!r}{hint}; there are {_listed(self._names)}", line=1)
        if (count := self._names.count(column)) > 1:
            raise TraceError(f"{count} columns are named {column!r}: rename all but the one meant", line=1)
        return self._getter(column)

    def _clock_of(self, column: str, unit: Unit | None) -> Clock:
        return self._job.clock(unit or _unit_in(column))

    def _unit_of(self, column: str | None) -> Unit:
        """What a duration's numbers are in: as its name says, else as the times are, else seconds."""
        unit = _unit_in(column or "") or self._columns.unit or _unit_in(self._columns.time or "") or "s"
        return "s" if unit == "iso" else unit

    @property
    def _subtracts(self) -> bool:
        """Whether the time is an end, from which the duration is to be taken."""
        return bool(self._columns.duration) and not _START.search(self._columns.time or "")

    def _tell_clock(self) -> None:
        columns, findings = self._columns, self._job.findings
        time = columns.time or ""
        if columns.duration and not self._subtracts:
            findings.note(f"{time!r} is the start by its name: the duration is not taken from it")
        elif columns.duration:
            findings.note(f"arrival = {time!r} - {columns.duration!r}")
        elif _END.search(time) and not _START.search(time):
            findings.clock = "completion"
            findings.note(f"{time!r} is the end by its name; --duration-col would give the arrival")

    def _row(self, line: int, record: Record) -> Arrived | None:
        findings = self._job.findings
        value = self._get_time(record)
        if value is None or value == "":
            findings.drop("no time", line)
            return None
        time_ns = self._time.read(value, line)
        if time_ns is None:
            findings.drop("unreadable time", line)
            return None
        row = TraceRow(0.0)
        reason = self._fill_sizes(row, record) or self._fill(row, record)
        if reason:
            findings.drop(reason, line)
            return None
        latency_ns = self._fill_latency(row, record, line)
        if self._subtracts:
            if latency_ns < 0:
                findings.drop("no duration", line)
                return None
            time_ns -= latency_ns
        return Arrived(time_ns, row, line, latency_ns)

    def _fill_sizes(self, row: TraceRow, record: Record) -> str | None:
        for size in self._sizes:
            value = size.get(record)
            if value is None or value == "":
                continue
            number = _number(value)
            if number is None:
                return f"unreadable size {size.name}"
            if number < 0:
                return f"negative size {size.name}"
            row.size[size.name] = whole(number)
        return None

    def _fill(self, row: TraceRow, record: Record) -> str | None:
        got = {role: get(record) for role, get in self._get.items()}
        row.id, row.op = _text(got.get("id")), _text(got.get("op"))
        row.method = _text(got.get("method")) or ("GET" if "path" in got and "body" not in got else "POST")
        if path := _text(got.get("path")):
            row.path = safe_path(path)
        if key := self._job.hashed(got.get("key")):
            row.keys = (key,)
        row.session = self._job.hashed(got.get("session"))
        if status := _number(got.get("status")):
            row.seen["status"] = int(status)
        if "body" in got:
            self._fill_body(row, got["body"])
        if self._sampling is not None:
            return self._fill_sampling(row, self._sampling(record))
        return None

    def _fill_body(self, row: TraceRow, body: object) -> None:
        if isinstance(body, str):
            try:
                body = PARSE(body)
            except (ValueError, RecursionError):
                self._job.put_body(row, str(body).encode("utf-8", "backslashreplace"))
                return
        self._job.put_json(row, body)

    def _fill_sampling(self, row: TraceRow, value: object) -> str | None:
        share = _number(value)
        if share is None:
            return None
        if not 0 < share <= 1:
            return "sampling fraction not within 0 to 1"
        self._job.findings.sampling = share
        if share < 1:
            row.weight = 1 / share
        return None

    def _fill_latency(self, row: TraceRow, record: Record, line: int) -> int:
        for role in ("duration", "latency"):
            get = self._get.get(role)
            value = get(record) if get else None
            number = _number(value)
            if number is None or number < 0:
                continue
            latency_ns = self._took.read(value, line)
            if latency_ns is not None:
                row.seen["latency_s"] = latency_ns / 1e9
                return latency_ns
        return -1


def _add_to_group(first: Arrived, other: Arrived) -> None:
    """Count a record as one more item of a request."""
    sizes = first.row.size
    if first is not other:
        for name, value in other.row.size.items():
            sizes[name] = sizes.get(name, 0) + value
        first.row.keys += tuple(key for key in other.row.keys if key not in first.row.keys)
    sizes["items"] = sizes.get("items", 0) + 1


def _unit_in(column: str) -> Unit | None:
    """The unit that a column's name ends in, such as ``timestamp_ms``."""
    match = _SUFFIX_UNIT.search(column)
    if not match:
        return None
    word = (match[1] or match[0]).lower()
    return _UNIT_WORDS.get(word.rstrip("s") if len(word) > 3 else word)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    return str(value) if value is not None and value != "" else None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown
