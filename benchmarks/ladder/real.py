"""The ladder on real servers: ``python -m benchmarks.ladder.real ranking|embedding|both``.

Awkward traffic (``benchmarks.awkward``) is sent to an example's server through the recording proxy, once.
Every repeat cuts the recording in two: what the rungs know, and what is held out; of two repeats the second
exchanges them. Searches find the capacity under each rung and, as the reference, under the replay of what was
held out, in random order, since the machine's own speed changes. Results are appended to JSON lines as they
come; the same command goes on where a stopped one ended. At the end: a table with the error of each rung.

A server of both takes a recording and seven searches a repeat: with the defaults some 55 minutes.
``--smoke`` takes three minutes a server. It shows that all works, and says nothing about the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.awkward import Bodies, awkward, bodies_of, requests_of
from benchmarks.examples import EXAMPLES, LIMITS_MS, PATHS, example, serving
from benchmarks.ladder.parts import Part, Site, cut, prepared
from benchmarks.ladder.results import table_of
from benchmarks.ladder.rungs import RUNGS
from benchmarks.openloop import Client, recording
from benchmarks.search.files import Appending, Row, read_rows
from pytest_capacity.measurement import Question, SearchRun
from pytest_capacity.slo import SLO
from pytest_capacity.traffic.columns import load_recording

RECORD_QPS = {"ranking": 200.0, "embedding": 20.0}
OUT = {False: Path(".benchmarks/ladder"), True: Path(".benchmarks/ladder-smoke")}
SMOKE = {"record_s": 24.0, "budget_s": 20.0, "repeats": 1}


@dataclass(frozen=True)
class Settings:
    """What makes results comparable; they stand in the results' first line."""

    server: str
    slo: str
    limit_ms: float
    record_qps: float
    record_s: float
    budget_s: float
    seed: int

    def as_row(self) -> Row:
        return {"settings": {name: getattr(self, name) for name in self.__dataclass_fields__}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the tables."""
    options = _parser().parse_args(arguments)
    if options.smoke:
        vars(options).update(SMOKE)
    servers = sorted(PATHS, reverse=True) if options.server == "both" else [options.server]
    tables = [climb(name, options) for name in servers]
    print("\n\n".join(tables))
    return 0


def climb(name: str, options: argparse.Namespace) -> str:
    """One server's ladder: record, search what is missing, and give the table."""
    settings = Settings(
        server=name,
        slo=options.slo,
        limit_ms=options.limit_ms or LIMITS_MS[name],
        record_qps=options.record_qps or RECORD_QPS[name],
        record_s=options.record_s,
        budget_s=options.budget_s,
        seed=options.seed,
    )
    folder: Path = options.out or OUT[options.smoke]
    path = folder / f"{name}.jsonl"
    done = {(row["repeat"], row["rung"]) for row in results_of(path, settings)}
    missing = [job for job in jobs(options.rungs, options.repeats, options.seed) if job not in done]
    trace = folder / f"{name}.trace.jsonl.gz"
    begin(path, settings)
    if missing:
        bodies = bodies_of(name, example(name, options.examples))
        with serving(name, options.examples) as url:
            if not trace.exists():
                _say(f"{name}: recording {settings.record_s:g} s")
                record(trace, url, settings, bodies)
            _say(f"{name}: {len(missing)} searches of {settings.budget_s:g} s at most")
            search_all(missing, trace, path, settings, Site(url + PATHS[name], bodies.body_for))
    recorded = load_recording(trace)
    header = (
        f"{name}: {settings.slo} within {settings.limit_ms:g} ms; {len(recorded):,} requests "
        f"recorded in {recorded.span_s:.0f} s ({len(recorded) / recorded.span_s:.4g}/s); "
        f"searches of {settings.budget_s:g} s at most"
    )
    return table_of(header, results_of(path, settings), options.rungs)


def jobs(rungs: Sequence[str], repeats: int, seed: int) -> list[tuple[int, str]]:
    """Every search, repeat after repeat, the rungs and the reference of each in random order."""
    arms = ["R", *rungs]
    return [
        (repeat, arms[place])
        for repeat in range(repeats)
        for place in np.random.default_rng([seed, repeat]).permutation(len(arms)).tolist()
    ]


def results_of(path: Path, settings: Settings) -> list[Row]:
    """The searches done so far, each once; raises SystemExit for those of other settings."""
    found: dict[tuple[int, str], Row] = {}
    for row in read_rows(path):
        if "settings" in row:
            if row != settings.as_row():
                raise SystemExit(f"{path} holds results of other settings: choose another --out")
        elif "error" not in row:
            found[row["repeat"], row["rung"]] = row
    return list(found.values())


def begin(path: Path, settings: Settings) -> None:
    """See that the results, and the recording beside them, are of these settings from the first on."""
    if not path.exists():
        with Appending(path) as file:
            file.add(settings.as_row())


def record(trace: Path, url: str, settings: Settings, bodies: Bodies) -> None:
    """Send awkward traffic through the recording proxy; the trace is there whole or not at all."""
    traffic = awkward(settings.record_qps, settings.record_s, settings.seed)
    requests = requests_of(settings.server, traffic, bodies.draw, settings.seed)
    trace.parent.mkdir(parents=True, exist_ok=True)
    unfinished = trace.with_name(f"unfinished-{trace.name}")
    unfinished.unlink(missing_ok=True)
    with recording(url, unfinished, "--class", settings.server, *bodies.record_options) as port:
        latencies_ms = asyncio.run(Client(port).play(traffic.t_s.tolist(), requests))
    rows = len(load_recording(unfinished))
    lost = latencies_ms.count(None)
    if lost or rows != len(requests):
        raise SystemExit(f"{rows} of {len(requests)} requests recorded, {lost} not answered: ask for less")
    unfinished.rename(trace)


def search_all(
    missing: Sequence[tuple[int, str]], trace: Path, path: Path, settings: Settings, site: Site
) -> None:
    """Do the searches in their order, each result written as it comes."""
    with Appending(path) as file, tempfile.TemporaryDirectory() as folder:
        parts: dict[int, tuple[Part, Part]] = {}
        for number, job in enumerate(missing, 1):
            repeat = job[0]
            if repeat not in parts:
                parts = {repeat: cut(trace, repeat, Path(folder))}
            row = searched(job, parts[repeat], site, settings)
            file.add(row)
            _say(f"{settings.server} {number}/{len(missing)}: repeat {repeat}, {_told(row)}")


def searched(job: tuple[int, str], parts: tuple[Part, Part], site: Site, settings: Settings) -> Row:
    """One search, as a line of the results."""
    repeat, rung = job
    target, conditions = prepared(rung, *parts, site, settings.seed + repeat)
    question = Question(SLO(**{f"{settings.slo}_ms": settings.limit_ms}), budget_s=settings.budget_s)
    measured = SearchRun(target, question, conditions).run()
    row: Row = {"repeat": repeat, "rung": rung, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    found = measured.capacity
    if found is None:
        return row | {"error": measured.message or measured.stop_reason}
    return row | {
        "capacity_qps": found.capacity_qps,
        "ci_low_qps": found.ci_low_qps,
        "ci_high_qps": found.ci_high_qps,
        "status": found.status,
        "condition_number": found.condition_number,
        "load_s": round(found.load_s, 3),
        "requests": found.requests,
        "late_p99_ms": round(measured.health.late_p99_s * 1000, 3),
        "doubts": [doubt.text for doubt in measured.doubts],
    }


def _told(row: Row) -> str:
    if "error" in row:
        return f"{row['rung']}: {row['error']}"
    low, middle, high = (row[name] or float("nan") for name in ("ci_low_qps", "capacity_qps", "ci_high_qps"))
    return f"{row['rung']}: {middle:.1f}/s ({low:.1f}-{high:.1f}), {row['status']}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder.real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("server", choices=("ranking", "embedding", "both"))
    parser.add_argument("--out", type=Path, help=f"folder of recordings and results ({OUT[False]})")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where make demo has set them up")
    parser.add_argument("--repeats", type=int, default=6, help="of every search, an even number (6)")
    parser.add_argument("--budget-s", type=float, default=60.0, help="of load for each search (60)")
    parser.add_argument("--rungs", type=_rungs, default=RUNGS, help=", ".join(RUNGS))
    parser.add_argument("--slo", choices=("p95", "p99"), default="p95", help="what must be in time (p95)")
    parser.add_argument("--limit-ms", type=float, help="what in time is (that of benchmarks.examples)")
    parser.add_argument("--record-qps", type=float, help=f"mean rate of the recording ({RECORD_QPS})")
    parser.add_argument("--record-s", type=float, default=600.0, help="length of the recording (600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="short and for nothing but to see that it works")
    return parser


def _rungs(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in RUNGS]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; known are {', '.join(RUNGS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
