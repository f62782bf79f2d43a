"""What a second worker brings, and whether two together send exactly what was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.loadgen import peers
from benchmarks.loadgen.figures import dispersion
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.tables import Figure, Report, combined, figure, of, runs_text

RATE_QPS = 10_000
WINDOWS_S = (0.01, 0.1, 1.0)
JUDGED = WINDOWS_S.index(1.0)
CONNECTIONS = 64
IN_TIME_S = 0.01
ONE, TWO = "1 worker", "2 workers"


def measure(lab: Lab) -> list[Row]:
    """One worker and two, in a closed loop and at a Poisson rate; clients may use every core.

    wrk's threads beside them tell what a second sender can bring where the server needs a core too.
    """
    runs: dict[str, Callable[[], Answer]] = {}
    for name in lab.engines:
        for workers in (1, 2):
            runs[f"{name}, {(ONE, TWO)[workers - 1]}"] = partial(_closed, lab, name, workers)
    why = peers.missing("wrk", lab.home)
    for threads in (1, 2):
        name = f"wrk, {threads} thread{'s' * (threads > 1)}"
        runs[name] = partial(_absent, why) if why else partial(_wrk, lab, threads)
    rows = lab.rounds(runs, what="closed")
    engine = lab.engines[0]
    union = {f"{engine}, {TWO}": partial(_union, lab, engine)}
    return rows + lab.rounds(union, what="union")


def _every_core(lab: Lab) -> list[int]:
    return sorted({lab.server_core, *lab.client_cores})


def _closed(lab: Lab, name: str, workers: int) -> Answer:
    with lab.server() as server:
        job = Job("closed", name, server.port, lab.seconds, concurrency=CONNECTIONS, workers=workers)
        answer = lab.run_engine(job, _every_core(lab))
    if "not_there" not in answer:
        answer["qps"] = answer["requests"] / (answer["end_s"] - answer["begin_s"])
    return answer


def _absent(why: str) -> Answer:
    return {"not_there": why}


def _wrk(lab: Lab, threads: int) -> Answer:
    with lab.server() as server:
        order = peers.Order(server.url(TAG), lab.seconds, CONNECTIONS, lab.scratch, threads=threads)
        cost = peers.run_closed("wrk", order, server, _every_core(lab), lab.home)
    return {
        "begin_s": cost.begin_s,
        "end_s": cost.end_s,
        "requests": cost.requests,
        "qps": cost.requests / (cost.end_s - cost.begin_s),
    }


def _union(lab: Lab, name: str) -> Answer:
    # Another schedule in each run, the repeated ones included.
    seed = len(lab.noise)
    path = lab.scratch / "columns.npz"
    with lab.server(record_max=int(1.5 * RATE_QPS * (lab.seconds + 1)) + 10_000) as server:
        job = Job(
            "open", name, server.port, lab.seconds, rate_qps=RATE_QPS, poisson=True, workers=2, seed=seed,
            columns=str(path),
        )  # fmt: skip
        answer = lab.run_engine(job, _every_core(lab))
        server.finish()
    if "not_there" in answer:
        return answer
    with np.load(path) as columns:
        intended_s, sent_s = columns["intended_s"], columns["sent_s"]
    arrived_s = server.arrivals_s(TAG)
    begin_s, end_s = answer["begin_s"], answer["end_s"]
    return {
        **answer,
        "in_time": float(np.mean(sent_s <= end_s + IN_TIME_S)),
        "once": float(answer["told_once"] and len(arrived_s) == answer["sent"]),
        "dispersions": [dispersion(arrived_s, window_s, begin_s, end_s) for window_s in WINDOWS_S],
        "asked_dispersions": [dispersion(intended_s, window_s, begin_s, end_s) for window_s in WINDOWS_S],
    }


HEAD = (
    "client", "load", "requests/s", "sent in time", "send late p99 us",
    f"off dispersion in {', '.join(f'{window_s:g}' for window_s in WINDOWS_S)} s", "runs",
)  # fmt: skip


def report(rows: Sequence[Row], engine: str) -> Report:
    """Rates of one worker and two, and the union's figures."""
    lines, rates = [], {}
    for name in dict.fromkeys(row["contender"] for row in of(rows, what="closed")):
        rates[name] = found = figure(of(rows, what="closed", contender=name), "qps")
        lines.append([name, "closed", str(found), "", "", "", runs_text(found)])
    union = of(rows, what="union", contender=f"{engine}, {TWO}")
    if union:
        in_time = figure(union, "in_time")
        lines.append([
            f"{engine}, {TWO}", f"Poisson {RATE_QPS:,}/s", str(figure(union, _achieved)), str(in_time),
            str(figure(union, "late_p99_us")),
            ", ".join(str(figure(union, partial(_off_dispersion, at))) for at in range(len(WINDOWS_S))),
            runs_text(in_time),
        ])  # fmt: skip
    none = Figure(float("nan"), 0, 0)
    scored = [
        combined(key, rates.get(f"{name}, {TWO}", none), rates.get(f"{name}, {ONE}", none))
        for key, name in (("workers_aiohttp", "aiohttp"), ("workers_closed", engine))
    ]
    scored += [
        figure(union, "in_time").scored("workers_rate"),
        figure(union, "once").scored("union_once"),
        figure(union, partial(_off_dispersion, JUDGED)).scored("union_dispersion"),
    ]
    return Report(HEAD, lines, scored)


def _achieved(row: Row) -> float:
    return float(row["sent"] / (row["end_s"] - row["begin_s"]))


def _off_dispersion(at: int, row: Row) -> float:
    """The difference in one of the windows; NaN where that does not fit twice into the run."""
    came, asked = row["dispersions"][at], row["asked_dispersions"][at]
    return math.nan if None in (came, asked) else abs(float(came) - float(asked))
