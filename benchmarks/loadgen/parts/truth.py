"""Whether latency is told as it is: a server that takes exactly 5 ms, and what it measured itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.loadgen.figures import quantile
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.servers import Server
from benchmarks.loadgen.tables import Report, contenders, figure, of, runs_text

DELAY_US = 5_000
RATE_QPS = 1_000
C_CLIENT = "C, hybrid"


def measure(lab: Lab) -> list[Row]:
    """Every engine, and the C client for what no generator can go below."""
    runs: dict[str, Callable[[], Answer]] = {name: partial(_engine, lab, name) for name in lab.engines}
    return lab.rounds({**runs, C_CLIENT: partial(_c_client, lab)})


def _engine(lab: Lab, name: str) -> Answer:
    path = lab.scratch / "columns.npz"
    with lab.server(delay_us=DELAY_US, record_max=int(2 * RATE_QPS * (lab.seconds + 1))) as server:
        job = Job("open", name, server.port, lab.seconds, rate_qps=RATE_QPS, columns=str(path))
        answer = lab.run_engine(job)
        server.finish()
    if "not_there" in answer:
        return answer
    with np.load(path) as columns:
        intended_s, sent_s, done_s = columns["intended_s"], columns["sent_s"], columns["done_s"]
    return {**answer, **_compared(server, done_s - intended_s, done_s - sent_s)}


def _c_client(lab: Lab) -> Answer:
    offsets_s = np.arange(int(RATE_QPS * lab.seconds)) / RATE_QPS
    with lab.server(delay_us=DELAY_US, record_max=len(offsets_s)) as server:
        answer, rows = lab.run_c_client(server.port, offsets_s, tag=TAG, cores=lab.one_core)
        server.finish()
    rows = rows[rows["done_ns"] > 0]
    since_intended, since_sent = (
        (rows["done_ns"] - rows[start]) / 1e9 for start in ("intended_ns", "sent_ns")
    )
    return {**answer, **_compared(server, since_intended, since_sent)}


def _compared(
    server: Server,
    since_intended_s: np.typing.NDArray[np.float64],
    since_sent_s: np.typing.NDArray[np.float64],
) -> Answer:
    """Quantiles in milliseconds; a request without an answer counts as infinitely slow."""
    answer: Answer = {}
    service_s = server.service_s(TAG)
    for name, values in (("intended", since_intended_s), ("sent", since_sent_s), ("server", service_s)):
        known = np.where(np.isnan(values), np.inf, values)
        for quantile_name, probability in (("p50", 0.5), ("p99", 0.99)):
            answer[f"{name}_{quantile_name}_ms"] = 1000 * quantile(known, probability)
    return answer


HEAD = (
    "client", "server's own p50 ms", "p99", "from intended p50 ms", "p99", "from sent p50 ms", "p99",
    "off p50 ms", "off p99 ms", "runs",
)  # fmt: skip


def report(rows: Sequence[Row], engine: str) -> Report:
    """Latency by both clocks."""
    lines = []
    for name in contenders(rows):
        own = of(rows, contender=name)
        columns = [f"{who}_{q}_ms" for who in ("server", "intended", "sent") for q in ("p50", "p99")]
        off = [figure(own, partial(_off, q)) for q in ("p50", "p99")]
        cells = [f"{figure(own, column).value:.3f}" for column in columns]
        lines.append([name, *cells, *map(str, off), runs_text(off[0])])
    ours = of(rows, contender=engine)
    return Report(HEAD, lines, [figure(ours, partial(_off, q)).scored(f"truth_{q}") for q in ("p50", "p99")])


def _off(quantile_name: str, row: Row) -> float:
    found, own = row[f"intended_{quantile_name}_ms"], row[f"server_{quantile_name}_ms"]
    return float("nan") if found is None or own is None else abs(found - own)
