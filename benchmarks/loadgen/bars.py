"""What is to be reached, each with its reason, and whether it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

ENOUGH_RUNS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table of bars: the figure must be at most ``limit``, or at least it."""

    words: str
    limit: float
    unit: str
    reason: str
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Whether a figure reaches it; NaN never does."""
        return value >= self.limit if self.at_least else value <= self.limit


BARS: Mapping[str, Bar] = {
    "closed_aiohttp": Bar(
        "CPU a request, closed loop: of aiohttp's on uvloop", 1 / 8, "x",
        "a protocol on uvloop took 5.5 us where aiohttp took 68",
    ),
    "closed_locust": Bar(
        "CPU a request, closed loop: of locust FastHttpUser's", 1 / 8, "x", "5.5 us where locust took 106",
    ),
    "closed_wrk": Bar(
        "CPU a request, closed loop: of wrk's", 2.2, "x",
        "wrk took 4.6 us, in C and with a histogram only; recording may cost as much again",
    ),
    "closed_hey": Bar(
        "CPU a request, closed loop: of hey's", 1.0, "x", "the generator that people reach for took 23 us",
    ),
    "late_p50": Bar(
        "send lateness p50", 5.0, "us", "a send that was waited for spinning left 0.7 us late",
    ),
    "late_p99": Bar(
        "send lateness p99", 200.0, "us", "20-106 us were reached up to 80,000/s on a quiet machine",
    ),
    "jitter_p99": Bar(
        "arrival lateness at the server p99", 300.0, "us",
        "182 us were reached at 1,000/s, the server's own wake-up included",
    ),
    "workers_aiohttp": Bar(
        "two workers with aiohttp: of one's rate, closed loop", 1.7, "x",
        "aiohttp is bound by its core; the server takes a part of the second one", at_least=True,
    ),
    "workers_rate": Bar(
        "two workers: requests sent in time, of those planned, Poisson 10,000/s", 0.999, "x",
        "a split schedule must not cost a request", at_least=True,
    ),
    "workers_closed": Bar(
        "two workers: of one's rate, closed loop", 0.95, "x",
        "on two cores the server needs its share of both, so that a second worker gains little, as a second "
        "thread of wrk does; it may not cost more than the noise either",
        at_least=True,
    ),
    "union_once": Bar(
        "two workers: rows told as final exactly once", 1.0, "x", "a union is exact or it is not",
        at_least=True,
    ),
    "union_dispersion": Bar(
        "two workers: index of dispersion of arrivals in windows of 1 s, off from the schedule's own",
        0.1, "",
        "counted in the same windows, so that the schedule's own chance cancels out: without that, 0.1 would "
        "be seen in runs of a quarter of an hour only",
    ),
    "truth_p50": Bar(
        "fixed 5 ms server at 1,000/s: median latency off from the server's own", 0.15, "ms",
        "0.12 ms were reached: two crossings of loopback and a wake-up",
    ),
    "truth_p99": Bar(
        "fixed 5 ms server at 1,000/s: p99 latency off from the server's own", 0.5, "ms",
        "what a verdict on a p99 in milliseconds does not notice",
    ),
    "memory_row": Bar(
        "memory a recorded request", 64.0, "bytes", "the columns of a sample take 53",
    ),
    "memory_peak": Bar(
        "memory at its peak, 10 million requests", 1024.0, "MiB",
        "a small CI runner must not be killed for it",
    ),
    "https": Bar(
        "CPU a request over HTTPS: of aiohttp's", 1 / 3, "x",
        "encryption costs both the same, the rest shrinks",
    ),
    "switch": Bar(
        "from the decision to the new rate leaving, slowest of a run's changes", 50.0, "ms",
        "a search changes its rate a hundred times in its budget",
    ),
    "one_core": Bar(
        "all on one core with a CPU-bound server: its throughput, of that under a C client", 0.95, "x",
        "a generator that starves its server measures itself", at_least=True,
    ),
    "flagged_hog": Bar(
        "runs beside a CPU hog that were flagged", 1.0, "x", "each measures the hog", at_least=True,
    ),
    "flagged_stop": Bar(
        "runs with a stopped generator that were flagged", 1.0, "x", "0.4 s of load left late", at_least=True,
    ),
    "flagged_stall": Bar(
        "runs with a stalled loop that were flagged", 1.0, "x", "0.4 s of load left late", at_least=True,
    ),
    "flagged_clean": Bar(
        "runs that the witness calls clean and that were flagged", 0.0, "x",
        "a gate that cries wolf is switched off",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scored:
    """A figure held against its bar; ``runs`` is how many it is the median of, ``clean`` how many were."""

    key: str
    value: float
    runs: int
    clean: int
    case: str = ""

    @property
    def outcome(self) -> str:
        """``reached`` or ``MISSED``, with what is to be doubted; ``not measured`` without a figure."""
        if math.isnan(self.value):
            return "not measured"
        word = "reached" if BARS[self.key].reached(self.value) else "MISSED"
        if not self.clean:
            return f"{word} (no clean run)"
        return word if self.clean >= ENOUGH_RUNS else f"{word} ({self.clean} clean of {self.runs} runs)"


HEAD = ("bar", "to reach", "figure", "outcome")


def bar_line(scored: Scored) -> list[str]:
    """A line under ``HEAD``."""
    bar = BARS[scored.key]
    limit = f"{'at least' if bar.at_least else 'at most'} {show(bar.limit)} {bar.unit}".rstrip()
    words = bar.words + (f", {scored.case}" if scored.case else "")
    figure = "-" if math.isnan(scored.value) else f"{show(scored.value)} {bar.unit}".rstrip()
    return [words, limit, figure, scored.outcome]


def show(value: float | None) -> str:
    """A figure with three digits that count."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
