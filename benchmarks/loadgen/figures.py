"""What is computed from times: lateness, jitter, dispersion, and when a new rate began. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RATE_WINDOW_S = 0.02
RATE_SHARE = 0.8


def median(values: Iterable[float]) -> float:
    """The median of what is a number; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def quantile(values: Floats, probability: float) -> float:
    """By rank, never below the true one; NaN of nothing."""
    return float(np.quantile(values, probability, method="higher")) if len(values) else math.nan


def dispersion(times_s: Floats, window_s: float, begin_s: float, end_s: float) -> float:
    """Variance over mean of the counts in whole windows: 1 for Poisson, 0 for a steady beat.

    NaN where fewer than two windows fit or nothing arrived.
    """
    windows = math.floor((end_s - begin_s) / window_s + 1e-9)
    if windows < 2:
        return math.nan
    counts, _ = np.histogram(times_s, bins=windows, range=(begin_s, begin_s + windows * window_s))
    mean = counts.mean()
    return float(counts.var(ddof=1) / mean) if mean else math.nan


def arrival_lateness(intended_s: Floats, arrived_s: Floats) -> Floats:
    """How long after each intended moment a request reached the server.

    Matched in order: where requests overtake each other, the sum of their lateness stays the same.
    Raises ValueError where not as many arrived as were intended.
    """
    if len(intended_s) != len(arrived_s):
        raise ValueError(f"{len(arrived_s)} requests arrived, {len(intended_s)} were meant to")
    late: Floats = np.sort(arrived_s) - np.sort(intended_s)
    return late


def grid_jitter(arrived_s: Floats) -> Floats:
    """How far each arrival lies behind the even beat that fits best, the earliest counting as on time.

    For generators that keep to themselves when they meant to send. A rate that is a little off is no jitter:
    the beat's length is fitted too (by least squares).
    """
    if len(arrived_s) < 3:
        return np.empty(0)
    times = np.sort(arrived_s)
    numbers = np.arange(len(times), dtype=np.float64)
    slope, start = np.polyfit(numbers, times - times[0], 1)
    behind = times - times[0] - (start + slope * numbers)
    late: Floats = behind - behind.min()
    return late


def new_rate_began_s(arrived_s: Floats, decided_s: float, rate_qps: float) -> float:
    """How long after the decision the new, higher rate was there; NaN where it never was.

    That is the first arrival with at least four fifths of the new rate in the 20 ms from it on, the next one
    within two beats: without that, the last arrivals of the old rate would count.
    """
    times = np.sort(arrived_s)
    times = times[times >= decided_s]
    within = np.searchsorted(times, times + RATE_WINDOW_S) - np.arange(len(times))
    soon = np.diff(times, append=np.inf) <= 2 / rate_qps
    there = np.flatnonzero(soon & (within >= RATE_SHARE * rate_qps * RATE_WINDOW_S))
    return float(times[there[0]] - decided_s) if len(there) else math.nan


def longest_gap_s(times_s: Floats) -> float:
    """The longest time without an arrival; NaN below two arrivals."""
    return float(np.diff(np.sort(times_s)).max()) if len(times_s) > 1 else math.nan


def ratio(over: float, under: float) -> float:
    """A quotient, NaN where there is none."""
    return over / under if under else math.nan


def worst(values: Sequence[float]) -> float:
    """The largest; NaN where one of them is not known, or there is none."""
    return math.nan if not values or any(math.isnan(value) for value in values) else max(values)
