"""Everything on one core: how much a server that computes gets done beside the generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.servers import Server
from benchmarks.loadgen.tables import Report, combined, contenders, figure, of, runs_text

BURN_US = 400
RATES_QPS = (1_000, 2_000, 2_400, 3_000)
"""The server alone could do 2,500 a second: half of that, four fifths, nearly all, and more."""
IN_FLIGHT = 64
WARM_S = 1.0
C_CLIENT = "C, sleeping"


def measure(lab: Lab) -> list[Row]:
    """Every engine and a C client that only sleeps, at every rate."""
    rows = []
    for rate in RATES_QPS:
        runs: dict[str, Callable[[], Answer]] = {C_CLIENT: partial(_c_client, lab, rate)}
        runs |= {name: partial(_engine, lab, name, rate) for name in lab.engines}
        rows += lab.rounds(runs, rate_qps=rate)
    return rows


def _engine(lab: Lab, name: str, rate: float) -> Answer:
    core = lab.one_core
    with lab.server(burn_us=BURN_US, core=core[0], record_max=int(2 * rate * (lab.seconds + 2))) as server:
        job = Job(
            "open", name, server.port, lab.seconds, rate_qps=rate, warm_s=WARM_S, max_in_flight=IN_FLIGHT
        )
        answer = lab.run_engine(job, core)
        server.finish()
    return answer if "not_there" in answer else {**answer, **_done(server, answer)}


def _c_client(lab: Lab, rate: float) -> Answer:
    core = lab.one_core
    offsets_s = np.arange(int(rate * (lab.seconds + WARM_S))) / rate
    with lab.server(burn_us=BURN_US, core=core[0], record_max=len(offsets_s)) as server:
        answer, _ = lab.run_c_client(
            server.port, offsets_s, tag=TAG, cores=core, lead_us=0, connections=IN_FLIGHT
        )
        server.finish()
    answer["begin_s"] += WARM_S
    return {**answer, **_done(server, answer)}


def _done(server: Server, answer: Answer) -> Answer:
    begin_s, end_s = answer["begin_s"], answer["end_s"]
    replies_s = server.records["reply_ns"] / 1e9
    arrivals_s = server.records["arrival_ns"] / 1e9
    inside = [int(((times >= begin_s) & (times < end_s)).sum()) for times in (arrivals_s, replies_s)]
    return {"sent_qps": inside[0] / (end_s - begin_s), "done_qps": inside[1] / (end_s - begin_s)}


HEAD = ("client", "offered/s", "arrived/s", "answered/s", "of the C client's", "runs")


def report(rows: Sequence[Row], engine: str) -> Report:
    """Throughput at each rate, in terms of what the server does beside the C client."""
    lines, scored = [], []
    for rate in RATES_QPS:
        done = {
            name: figure(of(rows, rate_qps=rate, contender=name), "done_qps")
            for name in dict.fromkeys([*contenders(of(rows, rate_qps=rate)), C_CLIENT, engine])
        }
        shares = {
            name: combined("one_core", own, done[C_CLIENT], f"{rate:,}/s") for name, own in done.items()
        }
        for name in contenders(of(rows, rate_qps=rate)):
            sent = figure(of(rows, rate_qps=rate, contender=name), "sent_qps")
            cells = [str(sent), str(done[name]), f"{shares[name].value:.3f}"]
            lines.append([name, f"{rate:,}", *cells, runs_text(sent)])
        scored.append(shares[engine])
    note = f"The server burns {BURN_US} us of CPU a request: alone it could do {1_000_000 // BURN_US:,}/s."
    return Report(HEAD, lines, scored, [note])
