"""The rungs: six ways to load a server of which a recording of its traffic is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.arrivals import constant, poisson
from pytest_capacity.traffic.calibration import calibrate
from pytest_capacity.traffic.fidelity import profile_window_s
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.pattern import Traffic
from pytest_capacity.traffic.scaling import advance, draw, start
from pytest_capacity.traffic.statistics import window_counts
from pytest_capacity.traffic.workload import Workload

RUNGS = ("L0", "L1", "L2", "L3", "L4", "L5")
PROBES = 4
NAMES = {
    "R": "the recording at this rate: the reference",
    "L0": "constant arrivals, median payload",
    "L1": "Poisson, mean payload",
    "L2": "Poisson, recorded mix",
    "L3": "recorded rate profile, recorded mix",
    "L4": "calibrated workload model",
    "L5": "replay in probes of fresh rows",
}


@dataclass(frozen=True)
class Load:
    """What arrives when: columns of one length."""

    t_s: Floats
    sizes: Mapping[str, Floats]
    key: Ints


Play = Callable[[float, float, int], Load]
"""Load from a rate, a duration and a seed."""


def rung(name: str, recorded: Traffic) -> Play:
    """The rung (or the reference, ``"R"``) for a recording."""
    if name in ("L0", "L1"):
        return _one_payload(name, recorded)
    if name == "L2":
        return _poisson_mix(recorded)
    if name == "L5":
        return _in_probes(recorded)
    if name == "R":
        return lambda rate_qps, duration_s, seed: scaled(recorded, rate_qps, duration_s, seed)
    model = calibrate(recorded)
    cycles: dict[int, Traffic] = {}

    def play(rate_qps: float, duration_s: float, seed: int) -> Load:
        if seed not in cycles:
            cycles[seed] = _profile_mix(recorded, seed) if name == "L3" else modelled(model, recorded, seed)
        return scaled(cycles[seed], rate_qps, duration_s, seed)

    return play


def scaled(traffic: Traffic, rate_qps: float, duration_s: float, seed: int) -> Load:
    """Whole copies over each other, or a thinned one; each seed has its own places to begin and to thin."""
    cursor = replace(start(traffic), round=seed)
    rows = draw(traffic, cursor, rate_qps, duration_s, seed=seed).schedule
    return _rows(traffic, rows.offsets_s, rows.request_index)


def modelled(model: Workload, recorded: Traffic, seed: int) -> Traffic:
    """A cycle of the model; sizes by the recording's units."""
    drawn = generate(model, seed)
    return replace(drawn, sizes={unit: drawn.sizes[unit] for unit in recorded.sizes})


def _rows(traffic: Traffic, t_s: Floats, row: Ints) -> Load:
    return Load(t_s, {unit: column[row] for unit, column in traffic.sizes.items()}, traffic.key[row])


def typical_sizes(name: str, recorded: Traffic) -> dict[str, float]:
    """The one payload of L0 or L1: the median or the mean of each size."""
    middle = np.nanmedian if name == "L0" else np.nanmean
    return {unit: float(middle(column)) for unit, column in recorded.sizes.items()}


def typical_row(name: str, recorded: Traffic) -> int:
    """The recorded request that comes nearest to that payload: a real server has to be sent one."""
    wanted = typical_sizes(name, recorded)
    apart = sum(np.abs(recorded.sizes[unit] / size - 1) for unit, size in wanted.items() if size > 0)
    return int(np.nanargmin(apart)) if np.ndim(apart) else 0


def _one_payload(name: str, recorded: Traffic) -> Play:
    wanted = typical_sizes(name, recorded)

    def play(rate_qps: float, duration_s: float, seed: int) -> Load:
        rng = np.random.default_rng([seed, 1])
        t_s = constant(rate_qps, duration_s) if name == "L0" else poisson(rate_qps, duration_s, rng)
        sizes = {unit: np.full(len(t_s), size) for unit, size in wanted.items()}
        return Load(t_s, sizes, np.zeros(len(t_s), dtype=np.int64))

    return play


def _poisson_mix(recorded: Traffic) -> Play:
    def play(rate_qps: float, duration_s: float, seed: int) -> Load:
        rng = np.random.default_rng([seed, 2])
        t_s = poisson(rate_qps, duration_s, rng)
        return _rows(recorded, t_s, rng.integers(0, len(recorded), len(t_s)))

    return play


def profile_mix(recorded: Traffic, seed: int) -> tuple[Floats, Ints]:
    """A cycle of Poisson arrivals with the recorded rate of each 10 s, their rows drawn one by one."""
    rng = np.random.default_rng([seed, 3])
    window_s = profile_window_s(recorded)
    windows = int(np.ceil(recorded.cycle_s / window_s))
    counts = rng.poisson(window_counts(recorded.t_s, windows * window_s, window_s))
    begin_s = np.repeat(np.arange(windows) * window_s, counts)
    width_s = np.minimum(window_s, recorded.cycle_s - begin_s)
    t_s = np.sort(begin_s + rng.random(len(begin_s)) * width_s)
    return t_s, rng.integers(0, len(recorded), len(t_s))


def _profile_mix(recorded: Traffic, seed: int) -> Traffic:
    t_s, row = profile_mix(recorded, seed)
    return replace(
        recorded,
        t_s=t_s,
        operation=recorded.operation[row],
        key=recorded.key[row],
        session=np.full(len(t_s), -1, dtype=np.int64),
        sizes={unit: column[row] for unit, column in recorded.sizes.items()},
    )


def _in_probes(recorded: Traffic) -> Play:
    """Several stretches one after the other, each of rows that those before it did not send."""

    def play(rate_qps: float, duration_s: float, seed: int) -> Load:
        cursor = replace(start(recorded), round=seed)
        t_s, rows = [], []
        for number in range(PROBES):
            stretch = draw(recorded, cursor, rate_qps, duration_s / PROBES, seed=seed)
            cursor = advance(recorded, cursor, stretch)
            t_s.append(stretch.schedule.offsets_s + number * duration_s / PROBES)
            rows.append(stretch.schedule.request_index)
        return _rows(recorded, np.concatenate(t_s), np.concatenate(rows))

    return play
