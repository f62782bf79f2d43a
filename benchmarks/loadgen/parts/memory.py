"""What recording a request takes, through the product's own loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.tables import Report, contenders, figure, of, runs_text

REQUESTS = 1_000_000
ALL_REQUESTS = 10_000_000
"""What the bar of the peak speaks of."""
OTHERS_REQUESTS = 100_000
"""What is not ours is slower: more would take minutes a run."""
CONNECTIONS = 64
SLOWEST_QPS = 4_000
MIB = 2**20


def measure(lab: Lab) -> list[Row]:
    """Rounds with fewer requests for what one takes, then once all of them for the peak."""
    fewer = min(REQUESTS, lab.memory_requests)
    counts = {name: fewer if name == lab.engines[0] else min(fewer, OTHERS_REQUESTS) for name in lab.engines}
    rows = lab.rounds({name: partial(_run, lab, name, counts[name]) for name in lab.engines}, what="row")
    first = lab.engines[0]
    peak = {first: partial(_run, lab, first, lab.memory_requests)}
    return rows + lab.rounds(peak, repeats=1, what="peak")


def _run(lab: Lab, name: str, requests: int) -> Answer:
    with lab.server() as server:
        job = Job(
            "memory", name, server.port, 60 + requests / SLOWEST_QPS, most_requests=requests,
            concurrency=CONNECTIONS,
        )  # fmt: skip
        answer = lab.run_engine(job)
    if "not_there" not in answer:
        grown = answer["end_bytes"] - answer["base_bytes"]
        answer["bytes_a_request"] = grown / max(1, answer["requests"] - answer["base_requests"])
        answer["peak_mib"] = answer["peak_bytes"] / MIB
    return answer


def _peak_of_all(row: Row) -> float:
    """NaN where fewer requests were sent than the bar speaks of."""
    return float(row["peak_mib"]) if row["requests"] >= ALL_REQUESTS else math.nan


HEAD = ("client", "requests", "bytes a request", "peak MiB", "at the beginning MiB", "runs")


def report(rows: Sequence[Row], engine: str) -> Report:
    """Growth and peak."""
    lines = []
    for what in ("row", "peak"):
        for name in contenders(of(rows, what=what)):
            own = of(rows, what=what, contender=name)
            base = figure(own, lambda row: float(row["base_bytes"]) / MIB)
            requests = f"{own[0]['requests']:,}"
            cells = [str(figure(own, column)) for column in ("bytes_a_request", "peak_mib")]
            lines.append([name, requests, *cells, str(base), runs_text(base)])
    scored = [
        figure(of(rows, what="row", contender=engine), "bytes_a_request").scored("memory_row"),
        figure(of(rows, what="peak", contender=engine), _peak_of_all).scored("memory_peak"),
    ]
    note = "PSS of the client and its descendants, through the product's measuring loop with all its tables."
    return Report(HEAD, lines, scored, [note])
