"""Whether the product flags the measurements that were disturbed, and leaves the others alone."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.loadgen.figures import longest_gap_s
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.processes import child, processes, tree_of
from benchmarks.loadgen.stalling import AFTER_VARIABLE
from benchmarks.loadgen.tables import Figure, Report, figure, of

RATE_QPS = 1_000
P99_MS = 10.0
SECONDS = 4.0
STOP_AFTER_S, STOP_S = 3.0, 0.4
STALL_AFTER = 3_000
"""Replies: the loop stalls about when a process would be stopped, in the part that counts."""
HOGS_A_CORE = 2
HOG = "import time\nend = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
"""Bounded, so that none is left where nobody could end it."""
DISTURBANCES = ("clean", "hog", "stop", "stall")


def measure(lab: Lab) -> list[Row]:
    """The first engine: many runs in peace, some with each disturbance."""
    engine = lab.engines[0]
    rows = lab.rounds(
        {engine: partial(_run, lab, engine, "clean")}, repeats=lab.clean_runs, disturbed="clean"
    )
    for disturbance in DISTURBANCES[1:]:
        runs = {engine: partial(_run, lab, engine, disturbance)}
        rows += lab.rounds(runs, disturbed=disturbance)
    return rows


def _run(lab: Lab, name: str, disturbance: str) -> Answer:
    during: Callable[[int], None] | None = None
    if disturbance == "stop":
        during = partial(_stop_soon, STOP_AFTER_S)
    environment = {AFTER_VARIABLE: str(STALL_AFTER)} if disturbance == "stall" else {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(lab.server(record_max=int(RATE_QPS * (20 * SECONDS + 60))))
        if disturbance == "hog":
            stack.enter_context(_hogs(lab.client_cores))
        job = Job(
            "sustain", name, server.port, SECONDS, rate_qps=RATE_QPS, p99_ms=P99_MS,
            stall=disturbance == "stall",
        )  # fmt: skip
        answer = lab.run_engine(job, during=during, environment=environment)
        server.finish()
    if "not_there" in answer:
        return answer
    flagged = answer["verdict"] == "INCONCLUSIVE" or bool(answer["doubts"])
    # The preflight comes before the load.
    return {**answer, "flagged": flagged, "gap_ms": 1000 * longest_gap_s(server.arrivals_s(TAG)[1:])}


@contextlib.contextmanager
def _hogs(cores: Sequence[int]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for core in cores:
            for _ in range(HOGS_A_CORE):
                stack.enter_context(child([sys.executable, "-c", HOG], cores=[core]))
        yield


def _stop_soon(after_s: float, pid: int) -> None:
    """Stop the process that sends for a while: the client's own children where it has any, else itself."""

    def stop() -> None:
        time.sleep(after_s)
        workers = tree_of(pid, processes()) - {pid}
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for target in workers or {pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, number)
            if number == signal.SIGSTOP:
                time.sleep(STOP_S)

    threading.Thread(target=stop, daemon=True).start()


HEAD = (
    "runs", "flagged", "number", "verdicts", "doubts", "send late p99 us", "longest gap at the server ms",
)  # fmt: skip


def report(rows: Sequence[Row], engine: str) -> Report:
    """Shares of runs that were flagged; in peace only those that the witness calls clean."""
    lines, scored = [], []
    for disturbance in DISTURBANCES:
        own = of(rows, disturbed=disturbance, contender=engine)
        if disturbance == "clean":
            own = [row for row in own if row["clean"]]
        flagged = [row for row in own if row["flagged"]]
        share = len(flagged) / len(own) if own else math.nan
        # What disturbed a run on purpose is not the machine's noise.
        scored.append(Figure(share, len(own), len(own)).scored(f"flagged_{disturbance}"))
        if own:
            lines.append([
                disturbance, str(len(flagged)), str(len(own)),
                ", ".join(sorted({row["verdict"] or "none" for row in own})),
                ", ".join(sorted({doubt for row in own for doubt in row["doubts"]})) or "-",
                str(figure(own, "late_p99_us")), str(figure(own, "gap_ms")),
            ])  # fmt: skip
    note = f"Sustain of {RATE_QPS:,}/s with a p99 of {P99_MS:g} ms on the null server, evenly spaced."
    return Report(HEAD, lines, scored, [note])
