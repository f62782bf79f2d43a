"""The process in which an engine is measured: ``python -m benchmarks.loadgen.client``.

It reads a job on standard input and does nothing besides, as pytest does nothing while load runs. What it is
bound to is decided outside.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.loadgen.engines import NotThereYet, make_engine
from benchmarks.loadgen.jobs import TAG, WARM_TAG, Answer, Job, Kind
from benchmarks.loadgen.measuring import memory, sustain, switch, target_of
from benchmarks.loadgen.processes import tree_cpu_s
from pytest_capacity.load.guard import resolve
from pytest_capacity.protocols import Encoded, LoadReport, LoadSession, Outcome, Samples
from pytest_capacity.traffic.arrivals import Arrivals, make_schedule

TICK_S = 0.25
"""How often the product's own loop collects."""
LEAD_S = 0.2
DRAIN_S = 1.0
ORIGIN_TRIES = 50


def main() -> int:
    """Do the job, print its answer, and stay until nobody listens: the witness still looks at us."""
    job = Job.from_json(sys.stdin.readline())
    try:
        answer = KINDS[job.kind](job)
    except NotThereYet as missing:
        answer = {"not_there": str(missing)}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()
    return 0


def closed(job: Job) -> Answer:
    """Keep so many requests in flight, record each, and see what one costs."""
    session = _open(job)
    try:
        session.hold(0, job.concurrency, np.array([TAG], dtype=np.int64))
        kept = [session.collect(session.now_s() + job.warm_s)]
        begin_s, begin_cpu_s = time.monotonic(), tree_cpu_s(os.getpid())
        origin_s = origin_of(session)
        while time.monotonic() < begin_s + job.seconds:
            kept.append(session.collect(session.now_s() + TICK_S))
        end_s, end_cpu_s = time.monotonic(), tree_cpu_s(os.getpid())
        session.pause(session.now_s())
        kept.append(session.collect(session.now_s() + TICK_S))
    finally:
        last = session.close()
    kept.append(last)
    ended = [_final(report.samples) for report in kept]
    done_s = np.concatenate([samples.done_s for samples in ended]) + origin_s
    good = np.concatenate([samples.outcome for samples in ended]) == Outcome.GOOD
    inside = (done_s >= begin_s) & (done_s < end_s)
    return {
        "begin_s": begin_s,
        "end_s": end_s,
        "requests": int((inside & good).sum()),
        "failed": int((~good & ~np.isnan(done_s)).sum()),
        "cpu_s": end_cpu_s - begin_cpu_s,
        "halted": _halted(kept),
    }


def open_loop(job: Job) -> Answer:
    """Play a schedule, first to warm up and then to be measured; the columns tell of the second part."""
    rng = np.random.default_rng(job.seed)
    arrivals: Arrivals = "poisson" if job.poisson else "constant"
    warm = make_schedule("constant", job.rate_qps, job.warm_s, 1, rng).offsets_s
    measured = make_schedule(arrivals, job.rate_qps, job.seconds, 1, rng).offsets_s + job.warm_s
    index = np.repeat(np.array([WARM_TAG, TAG], dtype=np.int64), [len(warm), len(measured)])
    session = _open(job)
    try:
        origin_s = origin_of(session)
        start_s = session.now_s() + LEAD_S
        session.play(0, start_s + np.concatenate([warm, measured]), index)
        print(json.dumps({"load_began_s": origin_s + start_s + job.warm_s}), flush=True)
        kept = [session.collect(start_s + job.warm_s)]
        begin_cpu_s = tree_cpu_s(os.getpid())
        end_s = start_s + job.warm_s + job.seconds
        while session.now_s() < end_s:
            kept.append(session.collect(min(session.now_s() + TICK_S, end_s)))
        cpu_s = tree_cpu_s(os.getpid()) - begin_cpu_s
        kept.append(session.collect(end_s + DRAIN_S))
        health = kept[-1].health
    finally:
        last = session.close()
    kept.append(last)
    table = columns_of(kept, len(warm), len(measured), origin_s, start_s + measured)
    if job.columns:
        np.savez(Path(job.columns), **table)  # type: ignore[arg-type]  # columns by name
    late_s = table["sent_s"].astype(np.float64) - table["intended_s"].astype(np.float64)
    late_s = late_s[~np.isnan(late_s)]
    return {
        "begin_s": origin_s + start_s + job.warm_s,
        "end_s": origin_s + end_s,
        "planned": len(measured),
        "sent": len(late_s),
        "answered": int((table["outcome"] == Outcome.GOOD).sum()),
        "told_once": bool((table["told"] == 1).all()),
        "late_p50_us": _quantile_us(late_s, 0.5),
        "late_p99_us": _quantile_us(late_s, 0.99),
        "late_max_us": _quantile_us(late_s, 1.0),
        "loop_stall_ms": 1000 * health.loop_stall_s,
        "cpu_s": cpu_s,
        "halted": _halted(kept),
    }


def columns_of(
    reports: list[LoadReport],
    first_row: int,
    count: int,
    origin_s: float,
    intended_s: np.typing.NDArray[np.float64],
) -> Mapping[str, np.typing.NDArray[np.generic]]:
    """The measured rows in order, by CLOCK_MONOTONIC; ``told`` counts how often each was told as final."""
    table: dict[str, np.typing.NDArray[np.generic]] = {
        "intended_s": origin_s + intended_s,
        "sent_s": np.full(count, math.nan),
        "done_s": np.full(count, math.nan),
        "outcome": np.full(count, Outcome.PENDING, dtype=np.uint8),
        "told": np.zeros(count, dtype=np.int64),
    }
    for report in reports:
        final = _final(report.samples)
        rows = final.row - first_row
        kept = (rows >= 0) & (rows < count)
        rows = rows[kept]
        table["sent_s"][rows] = origin_s + final.sent_s[kept]
        table["done_s"][rows] = origin_s + final.done_s[kept]
        table["outcome"][rows] = final.outcome[kept]
        np.add.at(table["told"], rows, 1)
    return table


def origin_of(session: LoadSession) -> float:
    """What CLOCK_MONOTONIC reads when the session's clock reads zero, to a microsecond."""
    # What passes between the two readings makes the difference too small, never too large.
    return max(time.monotonic() - session.now_s() for _ in range(ORIGIN_TRIES))


def _open(job: Job) -> LoadSession:
    engine = make_engine(job.engine, job.workers)
    encoded = _encoded(job)
    session = engine.open(encoded, max_in_flight=job.max_in_flight)
    try:
        _try_one(session, encoded)
    except BaseException:
        session.close()
        raise
    return session


def _try_one(session: LoadSession, encoded: Encoded) -> None:
    _, judgement = session.exchange(encoded.requests[0])
    if judgement.outcome is not Outcome.GOOD:
        raise RuntimeError(f"the null server was not reached: {judgement.reason}")


def _encoded(job: Job) -> Encoded:
    """The same request under every tag that is used, the tag being its index."""
    encoded = target_of(job).encode(np.random.default_rng(job.seed))
    request = encoded.requests[0]
    path = request.path.rpartition("/")[0]
    return replace(
        encoded,
        endpoint=replace(resolve(encoded.endpoint), ca_file=job.ca_file),
        requests=tuple(replace(request, path=f"{path}/{tag}") for tag in range(TAG + 1)),
    )


def _final(samples: Samples) -> Samples:
    """The rows that are told for the last time."""
    keep = samples.outcome != Outcome.PENDING
    names = ("row", "intended_s", "sent_s", "first_byte_s", "done_s", "outcome", "status", "operation")
    columns = {name: getattr(samples, name)[keep] for name in (*names, "bytes_received")}
    return Samples(**columns)


def _halted(reports: list[LoadReport]) -> str | None:
    return next((report.halted for report in reports if report.halted), None)


def _quantile_us(values: np.typing.NDArray[np.float64], probability: float) -> float | None:
    return float(np.quantile(values, probability, method="higher")) * 1e6 if len(values) else None


KINDS: Mapping[Kind, Callable[[Job], Answer]] = {
    "closed": closed,
    "open": open_loop,
    "memory": memory,
    "switch": switch,
    "sustain": sustain,
}

if __name__ == "__main__":
    sys.exit(main())
