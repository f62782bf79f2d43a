"""What the searches of the real ladder add up to: errors with intervals, and a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from benchmarks.ladder.measuring import Error
from benchmarks.ladder.rungs import NAMES
from benchmarks.search.files import Row
from pytest_capacity.protocols import Floats
from pytest_capacity.stats.intervals import student_quantile

NAIVE_LEAST, CALIBRATED_MOST = 0.2, 0.06
SURE = 0.975
_SEARCH_WIDTH = 2 * NormalDist().inv_cdf(0.95)
"""A search's 90 % interval is so many standard deviations wide."""


@dataclass(frozen=True)
class Cuts:
    """A rung's searches over the reference's of the same repeats, in logarithms, the mean of each cut.

    A cut's two repeats have the halves exchanged, so their mean tells of the rung and not of the halves; of a
    repeat that is alone the halves' difference is part. ``deviation`` is what the searches' own intervals
    leave open.
    """

    capacities_qps: Floats
    log_ratio: Floats
    deviation: Floats


def cuts_of(rows: Sequence[Row], rung: str) -> Cuts:
    """Those of all repeats in which both searches found a capacity."""
    reference = _found(rows, "R")
    ratios: dict[int, list[tuple[float, float]]] = {}
    capacities = []
    for repeat, row in _found(rows, rung).items():
        if repeat in reference:
            other = reference[repeat]
            ratio = math.log(row["capacity_qps"] / other["capacity_qps"])
            ratios.setdefault(repeat // 2, []).append((ratio, _deviation(row) ** 2 + _deviation(other) ** 2))
            capacities.append(row["capacity_qps"])
    return Cuts(
        np.array(capacities, dtype=np.float64),
        np.array([float(np.mean([ratio for ratio, _ in cut])) for cut in ratios.values()]),
        np.array([math.sqrt(sum(square for _, square in cut)) / len(cut) for cut in ratios.values()]),
    )


def transfer_of(rows: Sequence[Row]) -> float:
    """How far the capacities under the two halves' replays are apart, on average; NaN where not known."""
    found = _found(rows, "R")
    apart = [
        abs(math.log(found[repeat + 1]["capacity_qps"] / found[repeat]["capacity_qps"]))
        for repeat in found
        if repeat % 2 == 0 and repeat + 1 in found
    ]
    return math.expm1(float(np.mean(apart))) if apart else math.nan


def _found(rows: Sequence[Row], rung: str) -> dict[int, Row]:
    return {row["repeat"]: row for row in rows if row["rung"] == rung and row["capacity_qps"]}


def _deviation(row: Row) -> float:
    return float(math.log(row["ci_high_qps"] / row["ci_low_qps"])) / _SEARCH_WIDTH


def error_of(rung: str, cuts: Cuts) -> Error:
    """The mean error in logarithms, with its 95 % interval: what the cuts show of it, or the searches.

    The cuts' own spread counts by Student's t; it is never taken for less than what the searches'
    intervals leave open. NaN where there is none.
    """
    count = len(cuts.log_ratio)
    if not count:
        return Error(rung, math.nan, math.nan, math.nan, math.nan)
    middle = float(cuts.log_ratio.mean())
    half = NormalDist().inv_cdf(SURE) * float(np.sqrt(np.square(cuts.deviation).sum())) / count
    if count > 1:
        spread = float(cuts.log_ratio.std(ddof=1)) / math.sqrt(count)
        half = max(half, student_quantile(SURE, count - 1) * spread)
    low, error, high = (math.expm1(value) for value in (middle - half, middle, middle + half))
    return Error(rung, float(np.exp(np.log(cuts.capacities_qps).mean())), error, low, high)


def verdict_of(error: Error) -> str:
    """Whether the bar of such a rung is met: by the whole interval, by none of it, or not to be said."""
    sizes = sorted((abs(error.low), abs(error.high)))
    least = 0.0 if error.low <= 0 <= error.high else sizes[0]
    if math.isnan(error.error) or error.rung not in ("L0", "L1", "L4", "L5"):
        return ""
    if error.rung in ("L0", "L1"):
        met, missed = least >= NAIVE_LEAST, sizes[1] < NAIVE_LEAST
        bar = f"at least {NAIVE_LEAST:.0%}"
    else:
        met, missed = sizes[1] <= CALIBRATED_MOST, least > CALIBRATED_MOST
        bar = f"at most {CALIBRATED_MOST:.0%}"
    return f"{bar}: {'met' if met else 'missed' if missed else 'open'}"


def table_of(server: str, rows: Sequence[Row], rungs: Sequence[str]) -> str:
    """A server's ladder in Markdown."""
    return "\n".join(_lines(server, rows, rungs))


def _lines(server: str, rows: Sequence[Row], rungs: Sequence[str]) -> Iterator[str]:
    yield f"### {server}"
    yield ""
    yield "| rung | what is sent | capacity | error | 95 % interval | bar | searches |"
    yield "|---|---|---|---|---|---|---|"
    yield f"| R | {NAMES['R']} | {_capacity(rows, 'R')} | | | | {_statuses(rows, 'R')} |"
    for rung in rungs:
        error = error_of(rung, cuts_of(rows, rung))
        interval = f"{error.error:+.1%} | {error.low:+.1%} to {error.high:+.1%}"
        figures = "- | -" if math.isnan(error.error) else interval
        told = f"{_capacity(rows, rung)} | {figures} | {verdict_of(error)}"
        yield f"| {rung} | {NAMES[rung]} | {told} | {_statuses(rows, rung)} |"
    if not math.isnan(transfer := transfer_of(rows)):
        yield ""
        yield f"Transfer error: replays of the two halves differ by {transfer:.1%} on average."


def _capacity(rows: Sequence[Row], rung: str) -> str:
    found = [row["capacity_qps"] for row in _found(rows, rung).values()]
    return f"{float(np.exp(np.mean(np.log(found)))):.1f}/s" if found else "-"


def _statuses(rows: Sequence[Row], rung: str) -> str:
    """How often each ending came, the most frequent first."""
    statuses = [row["status"] for row in rows if row["rung"] == rung]
    counts = sorted({one: statuses.count(one) for one in statuses}.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count} {status}" for status, count in counts)
