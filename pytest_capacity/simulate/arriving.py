"""Open-loop arrivals at any rate, drawn piece by piece: one process at rate 1, run faster or slower."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pytest_capacity.protocols import Floats

AT_ONCE = 4096


class Arriving:
    """A point process that goes on from where it was, whatever the rate was then.

    ``gaps`` gives the next so many gaps of the process at rate 1. Two processes with the same gaps make the
    same arrivals at two rates, but for the stretch: common random numbers.
    """

    def __init__(self, gaps: Callable[[int], Floats]) -> None:
        self._gaps = gaps
        self._points = np.cumsum(gaps(AT_ONCE))
        self._at = 0.0

    def draw(self, rate_qps: float, from_s: float, until_s: float) -> Floats:
        """Arrival times from ``from_s`` to before ``until_s``, ascending."""
        end = self._at + rate_qps * (until_s - from_s)
        while self._points[-1] < end:
            more = self._points[-1] + np.cumsum(self._gaps(AT_ONCE))
            self._points = np.concatenate([self._points, more])
        count = int(np.searchsorted(self._points, end))
        times = from_s + (self._points[:count] - self._at) / rate_qps
        self._points, self._at = self._points[count:], end
        return times


def poisson(seed: int) -> Arriving:
    """Arrivals with independent exponential gaps."""
    rng = np.random.default_rng(seed)
    return Arriving(lambda count: rng.exponential(1.0, count))


def constant() -> Arriving:
    """Arrivals at one distance from each other."""
    return Arriving(np.ones)


def replayed(times_s: Floats) -> Arriving:
    """The gaps of a recording in their order, over and over.

    Raises ValueError for fewer than two arrivals, times that go back, or a recording without any duration.
    """
    gaps = np.diff(times_s)
    if len(gaps) < 1 or not np.isfinite(gaps).all() or (gaps < 0).any() or gaps.sum() <= 0:
        raise ValueError("a recording needs two arrivals or more, at times that never go back")
    unit = gaps / gaps.mean()
    at = 0

    def take(count: int) -> Floats:
        nonlocal at
        taken: Floats = unit[(at + np.arange(count)) % len(unit)]
        at += count
        return taken

    return Arriving(take)


def read_times(path: Path) -> Floats:
    """The arrival times of a trace in JSON Lines, gzip by suffix: ``t`` of each row, after the header.

    Raises ValueError with the line that is wrong, OSError for a file that cannot be read.
    """
    times = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if number == 1 and "pytest_capacity_trace" in row:
                continue
            times.append(float(row["t"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: no arrival time 't' ({error})") from error
    return np.array(times)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
