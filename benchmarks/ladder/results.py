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
class Pairs:
    """A rung's searches beside the reference's of the same repeats, as logarithms of the ratio.

    ``deviation`` is what each pair's own intervals leave open.
    """

    capacities_qps: Floats
    log_ratio: Floats
    deviation: Floats


def pairs_of(rows: Sequence[Row], rung: str) -> Pairs:
    """Those of all repeats in which both searches found a capacity."""
    reference = {row["repeat"]: row for row in rows if row["rung"] == "R" and row["capacity_qps"]}
    found = [row for row in rows if row["rung"] == rung and row["capacity_qps"]]
    both = [(row, reference[row["repeat"]]) for row in found if row["repeat"] in reference]
    return Pairs(
        np.array([row["capacity_qps"] for row, _ in both], dtype=np.float64),
        np.array([math.log(row["capacity_qps"] / other["capacity_qps"]) for row, other in both]),
        np.array([math.hypot(_deviation(row), _deviation(other)) for row, other in both]),
    )


def _deviation(row: Row) -> float:
    return float(math.log(row["ci_high_qps"] / row["ci_low_qps"])) / _SEARCH_WIDTH


def error_of(rung: str, pairs: Pairs) -> Error:
    """The mean error in logarithms, with its 95 % interval: what the repeats show of it, or the searches.

    The repeats' own spread counts by Student's t; it is never taken for less than what the searches'
    intervals leave open. NaN where there is no pair.
    """
    count = len(pairs.log_ratio)
    if not count:
        return Error(rung, math.nan, math.nan, math.nan, math.nan)
    middle = float(pairs.log_ratio.mean())
    half = NormalDist().inv_cdf(SURE) * float(np.sqrt(np.square(pairs.deviation).sum())) / count
    if count > 1:
        spread = float(pairs.log_ratio.std(ddof=1)) / math.sqrt(count)
        half = max(half, student_quantile(SURE, count - 1) * spread)
    low, error, high = (math.expm1(value) for value in (middle - half, middle, middle + half))
    return Error(rung, float(np.exp(np.log(pairs.capacities_qps).mean())), error, low, high)


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
    references = [row["capacity_qps"] for row in rows if row["rung"] == "R" and row["capacity_qps"]]
    yield f"### {server}"
    yield ""
    yield "| rung | what is sent | capacity | error | 95 % interval | bar | searches |"
    yield "|---|---|---|---|---|---|---|"
    middle = f"{float(np.exp(np.mean(np.log(references)))):.1f}/s" if references else "-"
    yield f"| R | {NAMES['R']} | {middle} | | | | {_statuses(rows, 'R')} |"
    for rung in rungs:
        error = error_of(rung, pairs_of(rows, rung))
        known = not math.isnan(error.error)
        figures = (
            f"{error.capacity_qps:.1f}/s | {error.error:+.1%} | {error.low:+.1%} to {error.high:+.1%}"
            if known
            else "- | - | -"
        )
        yield f"| {rung} | {NAMES[rung]} | {figures} | {verdict_of(error)} | {_statuses(rows, rung)} |"


def _statuses(rows: Sequence[Row], rung: str) -> str:
    """How often each ending came, the most frequent first."""
    statuses = [row["status"] for row in rows if row["rung"] == rung]
    counts = sorted({one: statuses.count(one) for one in statuses}.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count} {status}" for status, count in counts)
