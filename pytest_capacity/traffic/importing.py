"""From any recorded file to a trace: read, put in order of arrival, judged, written whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from pytest_capacity.protocols import Floats, Ints, Json
from pytest_capacity.traffic.bodies import BodyStore
from pytest_capacity.traffic.importers.guess import IMPORTERS, TABLES, guess_format, guess_table
from pytest_capacity.traffic.importers.job import NO_REQUESTS, Arrived, Findings, ImportOptions, Job
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.quantised import doubts_on_times, find_resolution_ns, is_quantised
from pytest_capacity.traffic.safe_bodies import BODY_LEFT_OUT
from pytest_capacity.traffic.times import ABSOLUTE_FROM_NS, iso_text
from pytest_capacity.traffic.trace import TraceHeader, TraceWriter, row_tail


@dataclass(frozen=True)
class Imported:
    """What came of an import: the trace's header, its rows, what was left out and why, and what to know."""

    path: Path
    format: str
    header: TraceHeader
    rows: int
    dropped: dict[str, int]
    first_dropped: dict[str, int]
    bodies_left_out: dict[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


_NO_TIME = -(2**63)
_LATEST_NS = 5 * 10**18


@dataclass(frozen=True)
class _Spool:
    """Rows on their way: their times in file order, and their encoded fields in a temporary file."""

    format: str
    findings: Findings
    times_ns: Ints
    latencies_ns: Ints
    offsets: Ints
    file: IO[bytes]

    @property
    def timed(self) -> bool:
        return bool((self.times_ns != _NO_TIME).all())

    def tails(self, indexes: Iterable[int]) -> Iterator[str]:
        for index in indexes:
            self.file.seek(int(self.offsets[index]))
            yield self.file.readline().decode("utf-8").removesuffix("\n")


@dataclass(frozen=True)
class _Source:
    """A file to be read, and how."""

    path: Path
    format: str | None
    options: ImportOptions


def import_file(
    path: Path, out: Path, options: ImportOptions, *, format_name: str | None = None, name: str | None = None
) -> Imported:
    """Import a file into a trace at ``out``.

    Raises TraceError, with file and line, for what cannot be imported, ValueError for options that make no
    sense, and OSError for what cannot be read or written; then ``out`` is as it was before.
    """
    with tempfile.TemporaryFile() as file, _bodies(out) as bodies:
        spool = _read(_Source(path, format_name, options), bodies, file)
        if not spool.timed:
            raise TraceError(
                f"{spool.format} without arrival times: give them with --arrivals FILE", path=path
            )
        order = np.argsort(spool.times_ns, kind="stable")
        plan = _plan(spool, spool.times_ns[order], name or _stem(path), {})
        return _write(out, plan, spool.tails(order))


def compose(
    arrivals: Path,
    payloads: Path,
    out: Path,
    options: ImportOptions,
    *,
    arrivals_format: str | None = None,
    payloads_format: str | None = None,
    name: str | None = None,
) -> Imported:
    """A trace with the arrivals of one file and the requests of another, in their order and over and over.

    What the two had to do with each other is lost; the header says that it is composed. The options are for
    the arrivals. Errors are as for ``import_file``.
    """
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as other, _bodies(out) as bodies:
        timing = _read(_Source(arrivals, arrivals_format, options), bodies, file)
        if not timing.timed:
            raise TraceError(f"{timing.format} has no arrival times", path=arrivals)
        asked = ImportOptions(salt=options.salt, plain_keys=options.plain_keys)
        requests = _read(_Source(payloads, payloads_format, asked), bodies, other)
        times_ns, count = np.sort(timing.times_ns, kind="stable"), len(requests.offsets)
        timing.findings.take_over(requests.findings)
        timing.findings.notes.insert(0, f"composed: {len(times_ns):,} arrivals, {count:,} payloads")
        composed: Json = {"arrivals": timing.format, "payloads": requests.format}
        plan = _plan(timing, times_ns, name or _stem(arrivals), {"composed": composed})
        return _write(out, plan, requests.tails(index % count for index in range(len(times_ns))))


@dataclass(frozen=True)
class _Plan:
    """What will be written, but for the rows' fields."""

    header: TraceHeader
    t_s: Floats
    spool: _Spool
    warnings: tuple[str, ...]


def _read(source: _Source, bodies: BodyStore, file: IO[bytes]) -> _Spool:
    """Read a whole file into a spool; raises TraceError where nothing in it can be used."""
    path, options = source.path, source.options
    # Who names a column has a table, whatever else it may look like.
    name = source.format or (guess_table(path) if options.time_col else guess_format(path))
    if name not in IMPORTERS:
        raise ValueError(f"--format {name}: there is {', '.join(IMPORTERS)}")
    if name not in TABLES and (given := options.table_options()):
        raise ValueError(
            f"{', '.join(given)} has no meaning with --format {name}: it has no columns to choose"
        )
    findings = Findings()
    times_ns, latencies_ns, offsets = array("q"), array("q"), array("q")
    try:
        for arrived in IMPORTERS[name](Job(path, options, findings, bodies)):
            tail = _encoded(arrived, options)
            if tail is None:
                findings.drop("a number too large for JSON", arrived.line)
                continue
            if why := arrived.row.extra.get(BODY_LEFT_OUT):
                findings.bodies_left_out[str(why)] += 1
            times_ns.append(_NO_TIME if arrived.time_ns is None else arrived.time_ns)
            latencies_ns.append(arrived.latency_ns)
            offsets.append(file.tell())
            file.write(tail)
    except TraceError as error:
        raise error.in_file(path) from error
    _check_kept(source, findings, len(times_ns))
    if options.sampling is not None:
        findings.sampling = options.sampling
    times, latencies, places = (np.array(one, dtype=np.int64) for one in (times_ns, latencies_ns, offsets))
    return _Spool(name, findings, times, latencies, places, file)


def _encoded(arrived: Arrived, options: ImportOptions) -> bytes | None:
    """A row's line in the spool; None where it holds an infinity, which JSON knows as 1e999 only.

    Raises TraceError for a time, in nanoseconds, that no calendar has.
    """
    for value in (arrived.time_ns or 0, arrived.latency_ns):
        if abs(value) > _LATEST_NS:
            raise TraceError("a time of more than a century: is it in another unit?", line=arrived.line)
    if options.sampling is not None:
        arrived.row.weight = 1 / options.sampling
    try:
        return row_tail(arrived.row).encode("utf-8", "backslashreplace") + b"\n"
    except ValueError:
        return None


def _check_kept(source: _Source, findings: Findings, rows: int) -> None:
    """Refuse a file of which hardly a tenth can be used: it is not what it is taken for."""
    dropped = findings.dropped.total()
    unreadable = sum(count for reason, count in findings.dropped.items() if reason not in NO_REQUESTS)
    if rows and unreadable < 10 * rows:
        return
    if not rows and not dropped:
        raise TraceError("empty: it holds no rows", path=source.path, line=1)
    reason, count = findings.dropped.most_common(1)[0]
    what = f"{reason} ({count:,} of {rows + dropped:,} rows): is this another --format, column or unit?"
    raise TraceError(what, path=source.path, line=findings.first_dropped[reason])


def _plan(spool: _Spool, times_ns: Ints, name: str, extra: dict[str, Json]) -> _Plan:
    findings = spool.findings
    # A trace of our own has a start already, which need not be its first arrival.
    start_ns = 0 if findings.header else int(times_ns[0])
    resolution_s = find_resolution_ns(times_ns, findings.digits_ns or 1) / 1e9
    t_s = (times_ns - start_ns) / 1e9
    warnings = _warnings(spool, t_s, resolution_s)
    known = findings.header or TraceHeader(redacted=True)
    told = known.extra.get("warnings")
    all_warnings = list(dict.fromkeys([*(told if isinstance(told, list) else []), *warnings]))
    header = replace(
        known,
        name=known.name or name,
        resolution_s=max(resolution_s, known.resolution_s or 0.0),
        clock=findings.clock,
        sampling=findings.sampling,
        start=iso_text(start_ns, zone=findings.zone) if start_ns >= ABSOLUTE_FROM_NS else known.start,
        source=known.source or spool.format,
        prefix_block=findings.prefix_block,
        redacted=findings.redacted,
        extra={**known.extra, **extra, **({"warnings": all_warnings} if all_warnings else {})},
    )
    return _Plan(header, t_s, spool, warnings)


def _warnings(spool: _Spool, t_s: Floats, resolution_s: float) -> tuple[str, ...]:
    """What is doubtful about a recording's times, for the header: ``inspect`` tells it again."""
    findings = spool.findings
    found = doubts_on_times(spool.times_ns, spool.latencies_ns)
    back = int((np.diff(spool.times_ns) < 0).sum())
    if back:
        found.append(f"{back:,} of {len(t_s):,} rows were out of order in the file, and were sorted")
    if is_quantised(t_s, resolution_s):
        found.append(f"times are quantised to {resolution_s:g} s: a replay spreads them within the tick")
    if findings.clock == "completion":
        found.append("times are of completion, not of arrival")
    if findings.sampling is None:
        found.append("a sample of unknown share: burstiness, sessions and cache reuse are thinned away")
    elif findings.sampling < 1:
        found.append(
            f"a sample of {findings.sampling * 100:g} %: burstiness and cache reuse are thinned away"
        )
    return tuple(found)


def _write(out: Path, plan: _Plan, tails: Iterator[str]) -> Imported:
    with TraceWriter(out, plan.header) as writer:
        for t_s, tail in zip(plan.t_s.tolist(), tails, strict=True):
            writer.write_line(t_s, tail)
    findings = plan.spool.findings
    return Imported(
        path=out,
        format=plan.spool.format,
        header=plan.header,
        rows=writer.rows,
        dropped=dict(findings.dropped),
        first_dropped=findings.first_dropped,
        bodies_left_out=dict(findings.bodies_left_out),
        notes=tuple(findings.notes),
        warnings=plan.warnings,
    )


@contextlib.contextmanager
def _bodies(out: Path) -> Iterator[BodyStore]:
    """A store beside the trace, emptied of what it added where the trace does not come about."""
    bodies = BodyStore(out)
    try:
        yield bodies
    except BaseException:
        bodies.discard()
        raise


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]
