"""What is replayed: a recording or a workload model, loaded, with its rows ready to be read one by one."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from pytest_capacity.protocols import Floats, Ints, Json
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.traffic.calibrate_command import OUTSIDE, TOO_FEW
from pytest_capacity.traffic.columns import Recording, load_recording
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.lines import MAX_LINE_BYTES, Line, TraceError, open_bytes
from pytest_capacity.traffic.pattern import Observed, Traffic, observe
from pytest_capacity.traffic.quantised import doubts_on_times
from pytest_capacity.traffic.trace import TraceRow, body_bytes, decode, parse_row, read_rows
from pytest_capacity.traffic.workload import Workload
from pytest_capacity.traffic.workload_reading import WorkloadError, read_workload

MOST_OPERATIONS = 24
"""One request of each operation is tried before the load; the rarest are one operation together."""

OTHER = "(other)"
LOOKED_AT = 1000
"""So many rows of an operation are looked at for one that was answered well."""

IN_MEMORY_BYTES = 64 * 2**20
"""A compressed trace is unpacked to be read in any order: in memory up to this, in a temporary file above."""

NOT_CREDIBLE = "arrivals not credible"
"""How a recording's warning of that begins."""
SAMPLED = "of the traffic was recorded"
"""A workload model's note says so of the recording that it was made of."""

WORKLOAD_SUFFIXES = (".yaml", ".yml")


class Rows(Protocol):
    """Rows that can be read one at a time, in any order, between ``open`` and ``close``."""

    def open(self) -> None:
        """Make ready to read."""
        ...

    def read(self, index: int) -> tuple[TraceRow, bytes | None]:
        """A row and its body, None where it has none; raises TraceError or OSError."""
        ...

    def place(self, index: int) -> str:
        """Where the row stands, for messages."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


class RecordedRows:
    """The rows of a trace, read from its file when they are needed."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._file: IO[bytes] | BufferedIOBase | None = None

    def open(self) -> None:
        """Open the file, unpacked; raises TraceError or OSError where it cannot be read."""
        if self._file is not None:
            return
        raw = open_bytes(self._recording.path)
        if not isinstance(raw, gzip.GzipFile):
            self._file = raw
            return
        # Going back in a compressed file means reading it from its start again.
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - close() closes it
        with raw:
            shutil.copyfileobj(raw, self._file, 2**20)

    def read(self, index: int) -> tuple[TraceRow, bytes | None]:
        """A row and its body; raises TraceError where the file has changed, or a body is missing."""
        self.open()
        recording, line = self._recording, int(self._recording.line[index])
        assert self._file is not None  # noqa: S101 - open() has seen to it
        self._file.seek(int(recording.offset[index]))
        data = self._file.readline(MAX_LINE_BYTES + 1).rstrip(b"\r\n")
        try:
            row = parse_row(decode(Line(line, 0, data)), line)
        except TraceError as error:
            raise error.in_file(recording.path) from error
        if row.t != recording.t_s[index]:
            raise TraceError("the file has changed since it was loaded", path=recording.path)
        return row, body_bytes(row, recording.path)

    def place(self, index: int) -> str:
        """The trace's name and the row's line."""
        return f"{self._recording.path.name}, line {int(self._recording.line[index])}"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class GeneratedRows:
    """Rows drawn from a workload model: operation, sizes, keys and session; a factory makes their bodies."""

    def __init__(self, path: Path, traffic: Traffic) -> None:
        self._path, self._traffic = path, traffic

    def open(self) -> None:
        """Nothing has to be made ready."""

    def read(self, index: int) -> tuple[TraceRow, bytes | None]:
        """The row; it has no body."""
        traffic = self._traffic
        session = int(traffic.session[index])
        row = TraceRow(
            t=float(traffic.t_s[index]),
            id=str(index),
            op=traffic.operations[int(traffic.operation[index])],
            size={
                name: float(column[index])
                for name, column in traffic.sizes.items()
                if np.isfinite(column[index])
            },
            keys=tuple(f"k{key}" for key in traffic.keys_of(np.array([index]))),
            session=None if session < 0 else f"s{session}",
        )
        return row, None

    def place(self, index: int) -> str:
        """The model's name and the row's number in the cycle drawn from it."""
        return f"{self._path.name}, request {index + 1} drawn from it"

    def close(self) -> None:
        """Nothing was opened."""


@dataclass(frozen=True)
class Recorded:
    """Recorded traffic, or traffic of the same kind, that can be sent at any rate.

    ``traffic`` names at most ``MOST_OPERATIONS`` operations. ``facts`` is what the record tells of it,
    without any body, key or session; ``doubts`` are reasons not to trust what is found with it.
    """

    path: Path
    traffic: Traffic
    rows: Rows
    facts: dict[str, Json]
    doubts: tuple[Doubt, ...] = ()
    latency_s: Floats | None = None
    """What was seen of each row's reply, NaN where nothing was; None where there was no reply to see."""

    def check_causal(self) -> None:
        """Raises CapacityUsageError where there are no sessions whose turns could wait for replies."""
        if not self.traffic.session_count:
            raise CapacityUsageError(
                f"trace: {self.path.name} has no sessions, so nothing can be replayed causally: leave out "
                "sessions='causal' (--trace-sessions causal), or import it with the column that tells them "
                "(import --session-col)"
            )

    @property
    def is_model(self) -> bool:
        """Whether it was drawn from a workload model."""
        return self.path.suffix in WORKLOAD_SUFFIXES


def load_recorded(path: Path, seed: int, keep: Iterable[str] = (), *, spread: bool = True) -> Recorded:
    """Load a trace, or draw from a workload model (``.yaml``); ``keep`` names operations to be told apart.

    What a coarse clock put together is spread within its tick, unless ``spread`` is False.

    Raises CapacityUsageError for what is neither, with file and line.
    """
    try:
        if path.suffix in WORKLOAD_SUFFIXES:
            if not spread:
                raise CapacityUsageError(f"trace {path}: a workload model has no ticks that could be kept")
            return _from_model(path, read_workload(path), seed, keep)
        recording = load_recording(path)
        return _from_recording(recording, observe(recording, spread=spread, seed=seed), keep)
    except (TraceError, WorkloadError) as error:
        raise CapacityUsageError(f"trace: {error}") from error
    except OSError as error:
        raise CapacityUsageError(f"trace {path}: {error.strerror or error}") from error


def check_recorded(path: Path) -> None:
    """See that a file is a trace or a workload model, as far as its beginning tells.

    Raises CapacityUsageError, with file and line.
    """
    try:
        if path.suffix in WORKLOAD_SUFFIXES:
            read_workload(path)
        else:
            read_rows(path)
    except (TraceError, WorkloadError) as error:
        raise CapacityUsageError(f"trace: {error}") from error
    except OSError as error:
        raise CapacityUsageError(f"trace {path}: {error.strerror or error}") from error


def _from_recording(recording: Recording, observed: Observed, keep: Iterable[str]) -> Recorded:
    header = recording.header
    traffic = with_fewer_operations(observed.traffic, keep)
    warnings = _not_credible_because(recording)
    facts: dict[str, Json] = {
        "file": recording.path.name,
        "kind": "recording",
        "name": header.name,
        "class": header.class_,
        "source": header.source,
        "clock": header.clock,
        "sampling": header.sampling,
        "resolution_s": header.resolution_s,
        "spread_within_s": observed.tick_s,
        "composed": "composed" in header.extra,
        "rows": len(recording),
        "cycle_s": traffic.cycle_s,
        "recorded_qps": traffic.rate_qps,
        "warnings": [*warnings, *observed.warnings],
    }
    doubts = [_not_credible(warning) for warning in warnings]
    if header.sampling is None or header.sampling < 1:
        doubts.append(_sampled(header.sampling))
    rows = RecordedRows(recording)
    return Recorded(recording.path, traffic, rows, facts, tuple(doubts), recording.latency_s)


def _from_model(path: Path, workload: Workload, seed: int, keep: Iterable[str]) -> Recorded:
    drawn = generate(workload, seed)
    traffic = with_fewer_operations(drawn, keep)
    facts: dict[str, Json] = {
        "file": path.name,
        "kind": "workload",
        "name": workload.name,
        "class": workload.class_,
        "source": None,
        "clock": None,
        "sampling": None,
        "resolution_s": workload.tick_s,
        "spread_within_s": workload.tick_s,
        "composed": False,
        "rows": len(traffic),
        "cycle_s": traffic.cycle_s,
        "recorded_qps": traffic.rate_qps,
        "warnings": list(workload.notes),
    }
    return Recorded(path, traffic, GeneratedRows(path, drawn), facts, tuple(_doubts_on(workload)))


def _not_credible_because(recording: Recording) -> list[str]:
    """What the importer found of a log's own order, or what its times show."""
    told = recording.header.extra.get("warnings")
    found = [one for one in told if isinstance(one, str)] if isinstance(told, list) else []
    times_ns = np.round(recording.t_s * 1e9).astype(np.int64)
    found += doubts_on_times(times_ns, np.full(len(times_ns), -1, dtype=np.int64))
    return [one for one in found if one.startswith(NOT_CREDIBLE)][:1]


def _not_credible(warning: str) -> Doubt:
    return Doubt(
        "trace_not_credible",
        f"the trace's {warning}",
        "a recording with the times of arrival (pytest-capacity record, or another log)",
        ("latency",),
    )


def _sampled(share: float | None) -> Doubt:
    what = "an unknown share" if share is None else f"{share * 100:g} %"
    return Doubt(
        "trace_sampled",
        f"{what} of the traffic was recorded: its bursts, sessions and reuse are thinned away",
        "a recording of all requests"
        + (", or, where it is one, import --sampling 1" if share is None else " for a shorter time"),
    )


def _doubts_on(workload: Workload) -> list[Doubt]:
    doubts = []
    outside = [note.partition(": ")[2] for note in workload.notes if note.startswith(OUTSIDE)]
    if outside:
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        doubts.append(
            Doubt(
                "workload_outside_tolerance",
                f"the workload model is not as the recording was: {outside[0]}{more} outside tolerance",
                "the recording itself, or a model of a longer one",
                ("latency",),
            )
        )
    too_few = next((note for note in workload.notes if note.startswith(TOO_FEW)), None)
    if too_few is not None:
        doubts.append(
            Doubt(
                "workload_not_judged",
                f"nobody knows whether the workload model is as the recording was: {too_few}",
                "the recording itself, or a model of a longer one",
                ("latency",),
            )
        )
    if any(SAMPLED in note for note in workload.notes):
        doubts.append(_sampled(None))
    return doubts


def with_fewer_operations(traffic: Traffic, keep: Iterable[str] = ()) -> Traffic:
    """The rarest operations as one, where there are many: paths that hold ids are.

    Those named by ``keep`` stay.
    """
    if len(traffic.operations) <= MOST_OPERATIONS:
        return traffic
    counts = np.bincount(traffic.operation, minlength=len(traffic.operations))
    kept = set(keep)
    first = np.array([name in kept for name in traffic.operations])
    order = np.lexsort((-counts, ~first))[: max(MOST_OPERATIONS - 1, int(first.sum()))]
    place = np.full(len(traffic.operations), len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    names = (*(traffic.operations[int(index)] for index in order), OTHER)
    return replace(traffic, operation=place[traffic.operation], operations=names)


def first_rows(recorded: Recorded) -> Ints:
    """One row of each operation, to be tried before the load: where possible one that was answered well."""
    chosen = []
    for operation in range(len(recorded.traffic.operations)):
        rows = np.flatnonzero(recorded.traffic.operation == operation)
        if len(rows):
            chosen.append(_well_answered(recorded.rows, rows[:LOOKED_AT]))
    return np.array(chosen, dtype=np.int64)


def _well_answered(rows: Rows, candidates: Ints) -> int:
    for index in map(int, candidates):
        if saw_good(rows.read(index)[0]):
            return index
    return int(candidates[0])


def saw_good(row: TraceRow) -> bool:
    """Whether the recording saw a request go well, or did not look."""
    status = row.seen.get("status")
    return not row.seen.get("error") and (not isinstance(status, int) or 200 <= status <= 299)
