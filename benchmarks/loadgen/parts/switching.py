"""How soon a new rate leaves after it was decided, through the product's own loop, seen at the server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.loadgen.figures import median, new_rate_began_s, worst
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.tables import Report, contenders, figure, of, runs_text

LOW_QPS, HIGH_QPS = 500, 5_000
PAIR_S = 4.5
"""A probe of each rate takes 2.25 s."""


def measure(lab: Lab) -> list[Row]:
    """Every engine, some changes a run."""
    return lab.rounds({name: partial(_run, lab, name) for name in lab.engines})


def _run(lab: Lab, name: str) -> Answer:
    seconds = max(lab.seconds, 2 * PAIR_S)
    with lab.server(record_max=int(HIGH_QPS * (2 * seconds + 10))) as server:
        job = Job("switch", name, server.port, seconds, rate_qps=LOW_QPS, second_rate_qps=HIGH_QPS)
        answer = lab.run_engine(job)
        server.finish()
    if "not_there" in answer:
        return answer
    arrived_s = server.arrivals_s(TAG)
    took_ms = [1000 * new_rate_began_s(arrived_s, at_s, HIGH_QPS) for at_s in answer["decided_s"]]
    return {**answer, "changes": len(took_ms), "median_ms": median(took_ms), "worst_ms": worst(took_ms)}


HEAD = ("client", "changes a run", "median ms", "slowest ms", "runs")


def report(rows: Sequence[Row], engine: str) -> Report:
    """Milliseconds from the decision to the first arrivals at the new rate."""
    lines = []
    for name in contenders(rows):
        own = of(rows, contender=name)
        cells = [str(figure(own, column)) for column in ("changes", "median_ms", "worst_ms")]
        lines.append([name, *cells, runs_text(figure(own, "worst_ms"))])
    ours = figure(of(rows, contender=engine), "worst_ms")
    return Report(HEAD, lines, [ours.scored("switch")], [f"From {LOW_QPS:,}/s to {HIGH_QPS:,}/s."])
