"""A whole recording in columns: a million rows in memory, their bodies left in the file."""

from __future__ import annotations

import contextlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.lines import MAX_LINE_BYTES, Line, TraceError, numbered_lines, open_bytes
from pytest_capacity.traffic.trace import (
    OUT_OF_ORDER,
    PARSE,
    SCAN,
    SORT_IT,
    TraceHeader,
    TraceRow,
    decode,
    parse_row,
    read_header,
)
from pytest_capacity.traffic.trace_fields import BAD_TIME, LATEST_S

_COLUMN = re.compile(rb'"(?:t|op|path|keys|session|seen|size|weight)"')


@dataclass(frozen=True)
class Recording:
    """A trace in columns, one entry a row, in order of arrival.

    ``operation`` indexes ``operations``. ``sizes`` holds a column for each unit, NaN where a row does not
    have it. ``key`` and ``session`` number each row's first key and its session, -1 where a row has none;
    ``further_keys`` are a row's other keys. How many distinct ones there are, of all keys, stands in
    ``key_count`` and ``session_count``. ``latency_s`` is what was seen of each row's reply, NaN where nothing
    was. ``offset`` is where each row's line begins in the (decompressed) file, ``line`` its number there.
    Prefixes, which may be larger than all else, stay in the file.
    """

    path: Path
    header: TraceHeader
    t_s: Floats
    operation: Ints
    operations: tuple[str, ...]
    sizes: Mapping[str, Floats]
    key: Ints
    key_count: int
    session: Ints
    session_count: int
    weight: Floats
    latency_s: Floats
    offset: Ints
    line: Ints
    further_keys: FurtherKeys = field(default_factory=FurtherKeys)

    def __len__(self) -> int:
        return len(self.t_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.t_s[-1] - self.t_s[0])

    def row(self, index: int) -> TraceRow:
        """One row as it stands in the file; raises TraceError where the file has changed, OSError."""
        return next(self.rows([index]))

    def rows(self, indexes: Iterable[int]) -> Iterator[TraceRow]:
        """Rows by their indexes, in the order asked for, read one at a time.

        In a compressed file going back means reading from its start again: ask in ascending order.
        Raises TraceError where the file has changed since it was loaded, OSError where it cannot be read.
        """
        with open_bytes(self.path) as file:
            for index in indexes:
                file.seek(int(self.offset[index]))
                data = file.readline(MAX_LINE_BYTES + 1).rstrip(b"\r\n")
                try:
                    row = parse_row(decode(Line(int(self.line[index]), 0, data)), int(self.line[index]))
                except TraceError as error:
                    raise error.in_file(self.path) from error
                if row.t != self.t_s[index]:
                    raise TraceError("the file has changed since it was loaded", path=self.path)
                yield row


@dataclass(slots=True)
class _Codes:
    """Numbers texts in order of first appearance."""

    codes: array[int] = field(default_factory=lambda: array("i"))
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, text: str | None) -> None:
        """Add a row's text; None is -1."""
        self.codes.append(-1 if text is None else self.number(text))

    def number(self, text: Any) -> int:
        """The number of a text; raises TypeError for what is none."""
        if type(text) is not str:
            raise TypeError(f"{text!r} is no text")
        return self.numbers.setdefault(text, len(self.numbers))

    def column(self) -> Ints:
        return np.array(self.codes, dtype=np.int64)


@dataclass(slots=True)
class _Columns:
    """The columns of a recording while they grow."""

    t_s: array[float] = field(default_factory=lambda: array("d"))
    weight: array[float] = field(default_factory=lambda: array("d"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))
    operation: _Codes = field(default_factory=_Codes)
    key: _Codes = field(default_factory=_Codes)
    session: _Codes = field(default_factory=_Codes)
    further_row: array[int] = field(default_factory=lambda: array("i"))
    further_key: array[int] = field(default_factory=lambda: array("i"))
    sizes: dict[str, array[float]] = field(default_factory=dict)
    latency_s: array[float] = field(default_factory=lambda: array("d"))

    def add_further(self, keys: Sequence[Any], row: int) -> None:
        for key in keys:
            self.further_key.append(self.key.number(str(key) if type(key) is int else key))
            self.further_row.append(row)

    def add_sizes(self, sizes: Mapping[str, float], row: int) -> None:
        for name, value in sizes.items():
            if type(value) is bool:
                raise TypeError(f"size {name} is no number")
            column = self.sizes.get(name)
            if column is None:
                column = self.sizes[name] = array("d")
            _put(column, row, value)

    def add_latency(self, value: object, row: int) -> None:
        # What was seen is only told: a value that can be no latency is as good as none.
        if isinstance(value, int | float) and 0 <= value <= LATEST_S:
            _put(self.latency_s, row, float(value))

    def filled(self, column: array[float]) -> Floats:
        """A column as long as the others."""
        return np.concatenate([np.array(column), np.full(len(self.t_s) - len(column), math.nan)])


def _put(column: array[float], row: int, value: float) -> None:
    """Give a row its value; rows before it that have none are NaN."""
    if len(column) < row:
        column.extend([math.nan] * (row - len(column)))
    column.append(value)


def load_recording(path: Path | str, *, allow_cut: bool = False) -> Recording:
    """Read a trace into columns.

    A body is not looked at before its row is read: a damaged one is told then, and by ``validate_trace``.
    Raises TraceError, with file and line, for what ``read_rows`` refuses and for a trace without rows;
    OSError where it cannot be opened. ``allow_cut`` is as for ``read_rows``.
    """
    path = Path(path)
    lines = numbered_lines(path, allow_cut=allow_cut)
    header = read_header(path, lines)
    columns = _Columns()
    try:
        _fill(columns, lines)
    except TraceError as error:
        raise error.in_file(path) from error
    if not columns.t_s:
        raise TraceError("empty: a header and no rows", path=path, line=1)
    recording = Recording(
        path=path,
        header=header,
        t_s=np.array(columns.t_s),
        operation=columns.operation.column(),
        operations=tuple(columns.operation.numbers),
        sizes={name: columns.filled(column) for name, column in columns.sizes.items()},
        key=columns.key.column(),
        key_count=len(columns.key.numbers),
        session=columns.session.column(),
        session_count=len(columns.session.numbers),
        weight=np.array(columns.weight),
        latency_s=columns.filled(columns.latency_s),
        offset=np.array(columns.offset, dtype=np.int64),
        line=np.array(columns.line, dtype=np.int64),
        further_keys=FurtherKeys(
            np.array(columns.further_row, dtype=np.int32), np.array(columns.further_key, dtype=np.int32)
        ),
    )
    _check_order(recording)
    return recording


def _fields(data: bytes) -> dict[str, Any]:
    """A row's fields without its body, where that stands last: its writer puts it there."""
    at = data.find(b'"body":')
    if at > 0 and data.endswith(b"}") and not _COLUMN.search(data, at + 6):
        head = data[:at].rstrip(b", ") + b"}"
        # Otherwise it was the field of another object, whose end is missing now.
        with contextlib.suppress(ValueError):
            return _object(head.decode("utf-8"))
    return _object(data.decode("utf-8"))


def _object(text: str) -> dict[str, Any]:
    # A third faster than ``decode``, which looks for white space around first: there is hardly ever any.
    fields, end = SCAN(text) if text[0] == "{" else ({}, 0)
    return fields if end == len(text) else PARSE(text)


def _fill(columns: _Columns, lines: Iterator[Line]) -> None:
    t_s, weights, offsets, numbers = columns.t_s, columns.weight, columns.offset, columns.line
    operation, key, session = columns.operation, columns.key, columns.session
    for line in lines:
        try:
            fields = _fields(line.data)
            t, weight, sizes, keys = fields["t"], fields.get("weight"), fields.get("size"), fields.get("keys")
            operation.add(fields.get("op") or fields.get("path") or "request")
            if (keys and type(keys) is not list) or type(t) is bool or type(weight) is bool:
                raise TypeError("keys, t or weight")  # noqa: TRY301 - told as what is wrong with any field
            if keys:
                key.codes.append(key.number(str(keys[0]) if type(keys[0]) is int else keys[0]))
                if len(keys) > 1:
                    columns.add_further(keys[1:], len(t_s))
            else:
                key.add(None)
            session.add(fields.get("session"))
            if sizes:
                columns.add_sizes(sizes, len(t_s))
            if seen := fields.get("seen"):
                columns.add_latency(seen.get("latency_s"), len(t_s))
            t_s.append(t)
            weights.append(1.0 if weight is None else weight)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            # The slow way says precisely what is wrong; where it finds nothing, the kind of a field is.
            parse_row(decode(line), line.number)
            raise TraceError(f"a field of a wrong kind ({error})", line=line.number) from error
        offsets.append(line.offset)
        numbers.append(line.number)


def _check_order(recording: Recording) -> None:
    """Refuse times and weights that no trace has; raises TraceError with the first line that is wrong."""
    t_s = recording.t_s
    wrong = ~((t_s >= 0) & (t_s <= LATEST_S))
    if wrong.any():
        _refuse(recording, wrong, BAD_TIME)
    back = np.concatenate([[False], np.diff(t_s) < 0])
    if back.any():
        _refuse(recording, back, f"{OUT_OF_ORDER}: t goes back ({int(back.sum()):,} times in all); {SORT_IT}")
    light = ~(np.isfinite(recording.weight) & (recording.weight > 0))
    if light.any():
        _refuse(recording, light, "weight must be a positive number")
    for name, column in recording.sizes.items():
        if (wrong := (column < 0) | np.isinf(column)).any():
            _refuse(recording, wrong, f"size {name} must be a number, 0 or more")


def _refuse(recording: Recording, wrong: npt.NDArray[np.bool_], what: str) -> None:
    raise TraceError(what, path=recording.path, line=int(recording.line[int(np.argmax(wrong))]))
