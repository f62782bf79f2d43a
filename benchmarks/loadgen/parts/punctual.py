"""How late requests leave in an open loop, and how late they reach the server by its own clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.loadgen import peers
from benchmarks.loadgen.figures import arrival_lateness, grid_jitter, quantile
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.servers import Server
from benchmarks.loadgen.tables import Report, contenders, figure, of, runs_text

RATES_QPS = (100, 1_000, 10_000, 40_000)
JITTER_RATES_QPS = (1_000, 10_000)
FEWEST = 1_000
"""Requests in a run: below, a p99 is one of the ten latest."""
MOST_S = 10.0
PEER_CONNECTIONS = 50
C_CONNECTIONS = 256
WARM_S = 1.0
C_CLIENT = "C, hybrid"


def measure(lab: Lab) -> list[Row]:
    """Every engine and the C client at every rate, the peers that can be told a rate where jitter counts."""
    rows = []
    for rate in RATES_QPS:
        runs: dict[str, Callable[[], Answer]] = {
            name: partial(_engine, lab, name, rate) for name in lab.engines
        }
        runs[C_CLIENT] = partial(_c_client, lab, rate)
        if rate in JITTER_RATES_QPS:
            runs |= {
                name: partial(_peer, lab, name, rate)
                for name in peers.OPEN
                if peers.missing(name, lab.home) is None
            }
        rows += lab.rounds(runs, rate_qps=rate)
    return rows


def _seconds(lab: Lab, rate: float) -> float:
    return max(lab.seconds, min(FEWEST / rate, MOST_S))


def _record_max(lab: Lab, rate: float) -> int:
    return int(1.2 * rate * (_seconds(lab, rate) + WARM_S)) + 10_000


def _engine(lab: Lab, name: str, rate: float) -> Answer:
    path = lab.scratch / "columns.npz"
    with lab.server(record_max=_record_max(lab, rate)) as server:
        job = Job(
            "open", name, server.port, _seconds(lab, rate), rate_qps=rate, warm_s=WARM_S, columns=str(path)
        )
        answer = lab.run_engine(job)
        server.finish()
    if "not_there" in answer:
        return answer
    with np.load(path) as columns:
        return {**answer, **_at_server(server, columns["intended_s"])}


def _c_client(lab: Lab, rate: float) -> Answer:
    offsets_s = np.arange(int(rate * _seconds(lab, rate))) / rate
    with lab.server(record_max=len(offsets_s)) as server:
        answer, rows = lab.run_c_client(
            server.port, offsets_s, tag=TAG, cores=lab.one_core, connections=C_CONNECTIONS
        )
        server.finish()
    sent = rows[rows["sent_ns"] > 0]
    late_s = (sent["sent_ns"] - sent["intended_ns"]) / 1e9
    return {
        **answer,
        "planned": len(rows),
        "late_p50_us": 1e6 * quantile(late_s, 0.5),
        "late_p99_us": 1e6 * quantile(late_s, 0.99),
        **_at_server(server, rows["intended_ns"] / 1e9),
    }


def _peer(lab: Lab, name: str, rate: float) -> Answer:
    # A peer may send somewhat more than it is told.
    with lab.server(record_max=2 * _record_max(lab, rate)) as server:
        order = peers.Order(server.url(TAG), lab.seconds + WARM_S, PEER_CONNECTIONS, lab.scratch, rate)
        begin_s, end_s = peers.run_open(name, order, lab.client_cores)
        server.finish()
    arrived_s = server.arrivals_s(TAG)
    arrived_s = arrived_s[arrived_s >= arrived_s[0] + WARM_S] if len(arrived_s) else arrived_s
    return {
        "begin_s": begin_s,
        "end_s": end_s,
        "planned": round(rate * lab.seconds),
        "sent": len(arrived_s),
        **_jitter(arrived_s),
    }


def _at_server(server: Server, intended_s: np.typing.NDArray[np.float64]) -> Answer:
    arrived_s = server.arrivals_s(TAG)
    if len(arrived_s) != len(intended_s):
        # Not all were sent: which ones is not known here, so that nothing is matched.
        return {"arrived": len(arrived_s), **_jitter(arrived_s)}
    late_s = arrival_lateness(intended_s, arrived_s)
    return {
        "arrived": len(arrived_s),
        "arrival_p50_us": 1e6 * quantile(late_s, 0.5),
        "arrival_p99_us": 1e6 * quantile(late_s, 0.99),
        **_jitter(arrived_s),
    }


def _jitter(arrived_s: np.typing.NDArray[np.float64]) -> Answer:
    jitter_s = grid_jitter(arrived_s)
    return {"grid_p50_us": 1e6 * quantile(jitter_s, 0.5), "grid_p99_us": 1e6 * quantile(jitter_s, 0.99)}


HEAD = (
    "client", "rate/s", "sent of planned", "send late p50 us", "p99", "at the server p50 us", "p99",
    "off the best beat p99 us", "CPU %", "runs",
)  # fmt: skip


def report(rows: Sequence[Row], engine: str) -> Report:
    """Lateness by the sender's own word and by the server's clock."""
    lines, scored = [], []
    for rate in RATES_QPS:
        names = contenders(of(rows, rate_qps=rate))
        lines += [_line(of(rows, rate_qps=rate, contender=name), name, rate) for name in names]
        ours = of(rows, rate_qps=rate, contender=engine)
        case = f"{rate:,}/s"
        scored += [figure(ours, f"late_{q}_us").scored(f"late_{q}", case=case) for q in ("p50", "p99")]
        if rate in JITTER_RATES_QPS:
            scored.append(figure(ours, "arrival_p99_us").scored("jitter_p99", case=case))
    note = "Off the best beat: behind an even beat fitted to the arrivals, for who keeps its plan secret."
    return Report(HEAD, lines, scored, [note])


def _line(own: Sequence[Row], name: str, rate: int) -> list[str]:
    late = figure(own, "late_p99_us")
    columns = ("late_p50_us", "late_p99_us", "arrival_p50_us", "arrival_p99_us", "grid_p99_us")
    return [
        name,
        f"{rate:,}",
        str(figure(own, lambda row: row["sent"] / row["planned"])),
        *(str(figure(own, column)) for column in columns),
        str(figure(own, _cpu_percent)),
        runs_text(late),
    ]


def _cpu_percent(row: Row) -> float:
    """NaN for a peer, whose time is not taken here."""
    return 100 * row["cpu_s"] / (row["end_s"] - row["begin_s"]) if "cpu_s" in row else math.nan
