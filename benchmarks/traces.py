"""What a large trace costs: ``python -m benchmarks.traces [--rows 1000000] [--gzip] [--folder DIR]``.

Makes a trace of so many rows, with bodies, sizes, keys and sessions, and in processes of their own loads it,
reads what a replay at a high rate reads, and looks at it as ``inspect`` does. Prints seconds and memory at
its peak, and tells by the exit code whether a million rows load in time and in little memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pytest_capacity.measurement.recorded import RecordedRows
from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.inspecting import describe
from pytest_capacity.traffic.pattern import observe
from pytest_capacity.traffic.scaling import draw, start
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter

LOAD_S, LOAD_MIB = 10.0, 1024.0
BARS_AT_ROWS = 1_000_000
RATE_QPS, PLAYED_S, STEP_S = 2_000.0, 60.0, 0.25
KIB = 1024.0


def make_trace(path: Path, rows: int, seed: int = 0) -> None:
    """Rankings of two operations: a user and up to nineteen items each, some 250 bytes a row."""
    rng = np.random.default_rng(seed)
    with TraceWriter(path, TraceHeader(name="made", resolution_s=1e-6, source="benchmark")) as writer:
        times_s = np.cumsum(rng.exponential(1 / 500, rows))
        users, many = rng.zipf(1.3, rows) % 50_000, rng.integers(1, 20, rows)
        for number, (at_s, user, items) in enumerate(
            zip(times_s.tolist(), users.tolist(), many.tolist(), strict=True)
        ):
            name = "rank" if number % 4 else "embed"
            row = TraceRow(
                t=at_s,
                id=f"r{number}",
                op=name,
                path=f"/{name}",
                body={"user": f"u{user}", "items": [(number * 7 + item) % 9973 for item in range(items)]},
                size={"items": items, "bytes": 30 + 6 * items},
                keys=(f"u{user}",),
                session=f"s{user}-{number // 100_000}",
                seen={"status": 200, "latency_s": 0.01},
            )
            writer.write(row)


def load(path: Path) -> str:
    """Load it, as each command and test that is given a trace does first."""
    return f"{len(load_recording(path)):,} rows"


def play(path: Path) -> str:
    """Read what a minute of replay at 2,000 a second sends, a quarter of a second at a time."""
    recording = load_recording(path)
    traffic, rows = observe(recording).traffic, RecordedRows(recording)
    # Of a compressed trace this unpacks all: it happens before the load begins.
    rows.open()
    stretch = draw(traffic, start(traffic), RATE_QPS, PLAYED_S)
    ends = np.searchsorted(stretch.schedule.offsets_s, np.arange(STEP_S, PLAYED_S + STEP_S, STEP_S))
    body_bytes, began_s, slowest_s = 0, time.perf_counter(), 0.0
    for first, last in zip(np.concatenate([[0], ends]).tolist(), ends.tolist(), strict=False):
        step_s = time.perf_counter()
        for index in stretch.schedule.request_index[first:last].tolist():
            body_bytes += len(rows.read(index)[1] or b"")
        slowest_s = max(slowest_s, time.perf_counter() - step_s)
    took_s = time.perf_counter() - began_s
    rows.close()
    count = len(stretch.schedule.request_index)
    return (
        f"{count:,} rows at {count / took_s:,.0f}/s, {body_bytes / KIB**2:.1f} MiB of bodies, "
        f"{slowest_s * 1000:.0f} ms at most for {STEP_S:g} s of load"
    )


def look(path: Path) -> str:
    """Load it and describe it."""
    return f"{describe(load_recording(path))['rows']:,} rows"


PARTS: dict[str, Callable[[Path], str]] = {"load": load, "replay": play, "inspect": look}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each part, print, and give 1 where a bar for a million rows is missed."""
    options = _parser().parse_args(arguments)
    if options.part:
        return _one(options.part, options.trace)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "made.trace.jsonl" + (".gz" if options.gzip else ""))
        began_s = time.perf_counter()
        make_trace(path, options.rows)
        took_s = time.perf_counter() - began_s
        size_mib = path.stat().st_size / KIB**2
        print(f"write    {took_s:6.1f} s             {options.rows:,} rows, {size_mib:,.0f} MiB", flush=True)
        met = True
        for name in PARTS:
            seconds, mib, text = _measured(name, path)
            print(f"{name:<8} {seconds:6.1f} s  {mib:6.0f} MiB  {text}", flush=True)
            if name == "load" and options.rows <= BARS_AT_ROWS:
                met = seconds < LOAD_S and mib < LOAD_MIB
                bar = f"{options.rows:,} rows load in less than {LOAD_S:g} s and {LOAD_MIB:g} MiB"
                print(f"{'met   ' if met else 'MISSED'} {bar}", flush=True)
    return int(not met)


def _measured(name: str, path: Path) -> tuple[float, float, str]:
    """Seconds and mebibytes at the peak of a process that does one part, and what it says."""
    command = [sys.executable, "-m", "benchmarks.traces", "--part", name, "--trace", str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, mib, text = done.stdout.rstrip("\n").split(" ", 2)
    return float(seconds), float(mib), text


def _one(name: str, path: Path) -> int:
    began_s = time.perf_counter()
    text = PARTS[name](path)
    took_s = time.perf_counter() - began_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in kibibytes, macOS in bytes.
    mib = peak / KIB / (KIB if sys.platform == "darwin" else 1)
    print(f"{took_s:.3f} {mib:.1f} {text}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traces", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--rows", type=int, default=BARS_AT_ROWS)
    parser.add_argument("--gzip", action="store_true", help="a compressed trace")
    parser.add_argument("--folder", type=Path, help="where the trace is made (and taken away again)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
