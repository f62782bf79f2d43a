"""Capacities of a paper server under each rung, and how far they are from the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.ladder.rungs import Load, Play, rung, scaled
from benchmarks.ladder.servers import WorkModel, latencies
from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.pattern import Traffic

ALLOWED = 0.05
LOAD_AT_RECORDED = 0.5
LIMIT_OVER_P95 = 2.0
GRID_STEP, GRID_HALF, MOST_EXTENSIONS = 1.03, 9, 4
LEAST_REQUESTS = 8_000
MOST_MORE_SEEDS = 4
CLOSE_RUNGS, CLOSE_SEEDS = ("L4", "L5"), 3
"""Those said to come close to the reference: they and it are played with so many times the seeds."""
BOOTSTRAPS = 2_000


@dataclass(frozen=True)
class Server:
    """A paper server: ``unit_s`` is one unit of the model's work; 95 % must be answered within the limit."""

    make_model: Callable[[], WorkModel]
    slots: int
    unit_s: float
    limit_s: float

    def bad_share(self, load: Load) -> float:
        """The share of requests later than the limit."""
        work_s = self.make_model().work(load.sizes, load.key) * self.unit_s
        return float(np.mean(latencies(load.t_s, work_s, self.slots) > self.limit_s))


def server_for(recorded: Traffic, make_model: Callable[[], WorkModel], slots: int) -> Server:
    """A server half busy at the recorded rate; its SLO is p95 within twice the p95 of the service time."""
    replay = scaled(recorded, recorded.rate_qps, recorded.cycle_s, 0)
    work = make_model().work(replay.sizes, replay.key)
    unit_s = LOAD_AT_RECORDED * slots / recorded.rate_qps / float(work.mean())
    return Server(make_model, slots, unit_s, LIMIT_OVER_P95 * unit_s * float(np.quantile(work, 0.95)))


@dataclass(frozen=True)
class Curve:
    """Shares of late requests: a row for each seed, a column for each rate."""

    rates_qps: Floats
    bad: Floats

    def capacity_qps(self, seeds: Ints | None = None) -> float:
        """Where the mean share crosses the allowed one for the first time, between rates by logarithm.

        NaN where it does not within the rates tried.
        """
        rows = self.bad if seeds is None else self.bad[seeds]
        above = rows.mean(axis=0) - ALLOWED
        if above[0] > 0 or not (above > 0).any():
            return float("nan")
        first = int(np.argmax(above > 0))
        low, high = np.log(self.rates_qps[first - 1 : first + 1])
        part = -above[first - 1] / (above[first] - above[first - 1])
        return float(np.exp(low + part * (high - low)))

    def redrawn_qps(self, rng: np.random.Generator) -> float:
        """The capacity by as many of the seeds, drawn with replacement."""
        seeds = len(self.bad)
        return self.capacity_qps(rng.integers(0, seeds, seeds))


def curve_of(play: Play, server: Server, recorded: Traffic, seeds: int) -> Curve:
    """The late shares around the capacity, which a first, coarse look finds."""

    def bad(rate_qps: float, seed: int) -> float:
        cycles = max(1, round(LEAST_REQUESTS / (rate_qps * recorded.cycle_s)))
        return server.bad_share(play(rate_qps, cycles * recorded.cycle_s, seed))

    low, high = np.log(recorded.rate_qps * 0.05), np.log(recorded.rate_qps * 40)
    while high - low > np.log(GRID_STEP):
        middle = (low + high) / 2
        over = np.mean([bad(float(np.exp(middle)), seed) for seed in range(3)]) > ALLOWED
        low, high = (low, middle) if over else (middle, high)
    middle_qps = float(np.exp((low + high) / 2))
    columns: dict[int, Floats] = {}
    curve = Curve(np.empty(0), np.empty((seeds, 0)))
    for half in range(GRID_HALF, GRID_HALF * (1 + MOST_EXTENSIONS), GRID_HALF):
        for step in set(range(-half, half + 1)) - columns.keys():
            rate_qps = middle_qps * GRID_STEP**step
            columns[step] = np.array([bad(rate_qps, seed) for seed in range(seeds)])
        steps = sorted(columns)
        curve = Curve(middle_qps * GRID_STEP ** np.array(steps), np.stack([columns[one] for one in steps], 1))
        if np.isfinite(curve.capacity_qps()):
            break
    return curve


@dataclass(frozen=True)
class Error:
    """A rung's capacity over the reference's, less one, with its 95 % interval."""

    rung: str
    capacity_qps: float
    error: float
    low: float
    high: float


def error_of(name: str, curve: Curve, reference: Curve, rng: np.random.Generator) -> Error:
    """The error, its interval from drawing the seeds of both again and again."""
    ratios = [curve.redrawn_qps(rng) / reference.redrawn_qps(rng) for _ in range(BOOTSTRAPS)]
    capacity_qps = curve.capacity_qps()
    low, high = np.nanquantile(ratios, [0.025, 0.975]) - 1
    return Error(name, capacity_qps, capacity_qps / reference.capacity_qps() - 1, float(low), float(high))


@dataclass(frozen=True)
class ClassResult:
    """What a class of servers gave; ``transfer`` is the second half's capacity over the first's, less one."""

    name: str
    requests: int
    recorded_qps: float
    capacity_qps: float
    errors: tuple[Error, ...]
    transfer: float


def measure(
    name: str,
    recorded: Traffic,
    make_model: Callable[[], WorkModel],
    slots: int,
    *,
    rungs: tuple[str, ...],
    seeds: int,
) -> ClassResult:
    """All rungs on one class."""
    server = server_for(recorded, make_model, slots)
    # Of a short recording one cycle says little.
    seeds *= max(1, min(MOST_MORE_SEEDS, LEAST_REQUESTS // len(recorded)))
    many = {one: seeds * (CLOSE_SEEDS if one in CLOSE_RUNGS else 1) for one in rungs}
    reference = curve_of(rung("R", recorded), server, recorded, seeds * CLOSE_SEEDS)
    rng = np.random.default_rng(0)
    errors = tuple(
        error_of(one, curve_of(rung(one, recorded), server, recorded, many[one]), reference, rng)
        for one in rungs
    )
    halves = [curve_of(rung("R", half), server, half, seeds).capacity_qps() for half in halves_of(recorded)]
    return ClassResult(
        name=name,
        requests=len(recorded),
        recorded_qps=recorded.rate_qps,
        capacity_qps=reference.capacity_qps(),
        errors=errors,
        transfer=halves[1] / halves[0] - 1,
    )


def halves_of(traffic: Traffic) -> tuple[Traffic, Traffic]:
    """The first and the second half of a recording's time."""
    middle_s = traffic.cycle_s / 2
    first = traffic.t_s < middle_s
    parts = []
    for rows, begin_s in ((first, 0.0), (~first, middle_s)):
        parts.append(
            Traffic(
                t_s=traffic.t_s[rows] - begin_s,
                cycle_s=middle_s,
                operation=traffic.operation[rows],
                operations=traffic.operations,
                key=traffic.key[rows],
                session=traffic.session[rows],
                sizes={unit: column[rows] for unit, column in traffic.sizes.items()},
            )
        )
    return parts[0], parts[1]
