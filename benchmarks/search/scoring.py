"""Figures of many runs: how near, how honest, how dear. Pure; runs in, figures out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.search.files import Row
from benchmarks.search.population import CLASSES, ODDITIES
from benchmarks.search.truths import Known
from pytest_capacity.protocols import Floats
from pytest_capacity.stats.intervals import share_limits

WELL_POSED, ILL_POSED = 0.1, 0.2
FAR_OFF, OVER = 0.10, 0.05
RESAMPLES = 2000
LIMITS = (0.05, 0.95)
"""Limits of shares are 90 %, two-sided: 95 % on each side."""


@dataclass(frozen=True)
class Ran:
    """One search with the truth beside it. Where a limit of the interval is missing it has none."""

    server: int
    truth_qps: float
    condition_number: float
    tags: tuple[str, ...]
    capacity_qps: float | None
    low_qps: float | None
    high_qps: float | None
    status: str
    load_s: float

    @property
    def error(self) -> float:
        """How far the estimate is off, as a signed share of the truth; infinite where there is none."""
        return math.inf if self.capacity_qps is None else self.capacity_qps / self.truth_qps - 1

    @property
    def has_interval(self) -> bool:
        """Whether anything was said of where the capacity lies."""
        return self.low_qps is not None or self.high_qps is not None

    @property
    def covers(self) -> bool:
        """Whether the interval holds the truth; a missing limit leaves that side open."""
        return (self.low_qps or 0.0) <= self.truth_qps <= (self.high_qps or math.inf)

    @property
    def width(self) -> float:
        """The interval's width as a share of its lower end; infinite with one side open."""
        return self.high_qps / self.low_qps - 1 if self.low_qps and self.high_qps else math.inf


def ran(rows: Iterable[Row], known: Mapping[int, Known]) -> list[Ran]:
    """Join results with the truth; rows of servers unknown by now, or drawn otherwise, are passed over."""
    return [
        Ran(
            row["server"],
            server.capacity_qps,
            server.condition_number,
            server.tags,
            row["capacity"],
            row["low"],
            row["high"],
            row["status"],
            row["load_s"],
        )
        for row in rows
        if (server := known.get(row["server"])) is not None and server.mark == row["mark"]
    ]


@dataclass(frozen=True)
class Score:
    """The figures of one group of runs. Shares are of all runs, the interval's of those that have one.

    A run without an estimate counts as infinitely far off: silence gains nothing.
    """

    runs: int
    servers: int
    found: float
    bias: float
    median_error: float
    p90_error: float
    far_off: float
    over: float
    coverage: float
    coverage_low: float
    coverage_high: float
    median_width: float
    low_above: float
    ill_conditioned: float
    mean_load_s: float
    max_load_s: float
    statuses: Mapping[str, int]


def score(runs: Sequence[Ran]) -> Score:
    """The figures of some runs; NaN where there is nothing to take a figure of."""
    errors = np.array([run.error for run in runs])
    with_interval = [run for run in runs if run.has_interval]
    low, high = clustered_limits([(run.server, run.covers) for run in with_interval])
    return Score(
        runs=len(runs),
        servers=len({run.server for run in runs}),
        found=_mean([run.capacity_qps is not None for run in runs]),
        bias=_quantile(errors[np.isfinite(errors)], 0.5),
        median_error=_quantile(np.abs(errors), 0.5),
        p90_error=_quantile(np.abs(errors), 0.9),
        far_off=_mean(np.abs(errors) > FAR_OFF),
        over=_mean([run.capacity_qps is not None and run.error > OVER for run in runs]),
        coverage=_mean([run.covers for run in with_interval]),
        coverage_low=low,
        coverage_high=high,
        median_width=_quantile(np.array([run.width for run in with_interval]), 0.5),
        low_above=_mean([(run.low_qps or 0.0) > run.truth_qps for run in with_interval]),
        ill_conditioned=_mean([run.status == "ill_conditioned" for run in runs]),
        mean_load_s=_mean([run.load_s for run in runs]),
        max_load_s=max((run.load_s for run in runs), default=math.nan),
        statuses=dict(Counter(run.status for run in runs).most_common()),
    )


GROUPS: dict[str, Callable[[Ran], bool]] = {
    "all": lambda _run: True,
    "cond <= 0.1": lambda run: run.condition_number <= WELL_POSED,
    "cond <= 0.1, no oddity": lambda run: (
        run.condition_number <= WELL_POSED and not set(run.tags) & set(ODDITIES)
    ),
    "cond <= 0.1, cold": lambda run: run.condition_number <= WELL_POSED and "cold" in run.tags,
    "cond > 0.1": lambda run: run.condition_number > WELL_POSED,
    "cond > 0.2": lambda run: run.condition_number > ILL_POSED,
}


def scores(runs: Sequence[Ran]) -> dict[str, Score]:
    """The figures of every group that has a run: by condition number, by class, by status, and the worst."""
    found = {name: score(part) for name, test in GROUPS.items() if (part := [r for r in runs if test(r)])}
    well_posed = [run for run in runs if run.condition_number <= WELL_POSED]
    found |= _by_class(well_posed, "cond <= 0.1, ") | _by_class(runs, "")
    for status in dict.fromkeys(run.status for run in runs):
        found[f"status {status}"] = score([run for run in runs if run.status == status])
    return found


def _by_class(runs: Sequence[Ran], prefix: str) -> dict[str, Score]:
    """The figures of each class, and once more those of the class that errs most and that covers least."""
    classes = {name: score(part) for name in CLASSES if (part := [r for r in runs if name in r.tags])}
    found = {f"{prefix}{name}": one for name, one in classes.items()}
    if classes:
        farthest = max(classes, key=lambda name: classes[name].p90_error)
        found[f"{prefix}worst p90: {farthest}"] = classes[farthest]
    if said := [name for name in classes if not math.isnan(classes[name].coverage)]:
        least = min(said, key=lambda name: classes[name].coverage)
        found[f"{prefix}worst coverage: {least}"] = classes[least]
    return found


def per_server(runs: Sequence[Ran]) -> list[tuple[int, Score]]:
    """The figures of each server, the farthest off first."""
    each = [(server, score([r for r in runs if r.server == server])) for server in {r.server for r in runs}]
    return sorted(each, key=lambda one: -one[1].median_error)


def clustered_limits(of: Iterable[tuple[int, bool]]) -> tuple[float, float]:
    """Limits of a share whose runs come in clusters: a bootstrap over the servers, with a fixed seed.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3: the percentile interval.
    """
    counts: dict[int, list[int]] = {}
    for server, hit in of:
        counts.setdefault(server, []).append(int(hit))
    if not counts:
        return math.nan, math.nan
    hits = np.array([sum(one) for one in counts.values()])
    totals = np.array([len(one) for one in counts.values()])
    taken = np.random.default_rng(0).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES
    )
    low, high = np.quantile((taken @ hits) / (taken @ totals), LIMITS)
    return float(low), float(high)


def share_with_limits(of: Sequence[tuple[int, bool]]) -> tuple[float, float, float]:
    """A small share and its exact limits, the runs of one server counting for less the more they agree."""
    total, bad = len(of), sum(hit for _, hit in of)
    if not total:
        return math.nan, 0.0, 1.0
    share = bad / total
    residuals: dict[int, float] = {}
    for server, hit in of:
        residuals[server] = residuals.get(server, 0.0) + hit - share
    spread = sum(value * value for value in residuals.values())
    effect = max(1.0, spread / (total * share * (1 - share))) if 0 < bad < total else 1.0
    return (share, *share_limits(bad, total, effect, LIMITS[0]))


def _mean(values: Sequence[float] | Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _quantile(values: Floats, probability: float) -> float:
    """By rank: between a number and infinity there is nothing to interpolate."""
    return float(np.quantile(values, probability, method="higher")) if len(values) else math.nan
