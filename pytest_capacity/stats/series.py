"""What happened when: a measurement's samples counted into at most 120 bins of time."""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Outcome, Samples

MAX_BINS = 120
"""Enough to see a warm-up, a pause and a drift in a plot; few enough for a small record."""

_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_FAILED = np.array([outcome for outcome in Outcome if outcome.failed], dtype=np.uint8)
_NO_EVIDENCE = np.array([Outcome.NOT_SENT, Outcome.CANCELLED, Outcome.PENDING], dtype=np.uint8)


class SeriesColumns(TypedDict):
    """Columns of one length, a row a bin.

    ``t_s`` is a bin's start. ``planned``, ``bad``, ``failed``, ``p50_ms`` and ``p99_ms`` are of the requests
    intended in the bin, ``sent`` and ``answered`` of what was sent and came back in it, ``in_flight`` is the
    number unanswered at its end. A quantile is None where it lies among requests that failed or stayed
    unanswered, or where there is no request.
    """

    t_s: list[float]
    planned: list[int]
    sent: list[int]
    answered: list[int]
    bad: list[int]
    failed: list[int]
    p50_ms: list[float | None]
    p99_ms: list[float | None]
    in_flight: list[int]


class Series(TypedDict):
    """A measurement over time in bins of ``bin_s`` seconds."""

    bin_s: float
    columns: SeriesColumns


def series_of(samples: Samples, *, late_after_ms: float | None, start_s: float | None = None) -> Series:
    """Count samples into bins of a second, or wider ones where there would be more than 120.

    ``samples`` may hold a row twice, once as sent and once as final: the last one counts. A request is bad
    where it failed, stayed unanswered past the largest bound, or took longer than ``late_after_ms``
    milliseconds. ``start_s`` is the session's time at which the first bin begins, by default the first
    intended time; what was intended before it is left out. Figures have four significant digits.
    """
    samples = _latest(samples)
    if start_s is None:
        start_s = float(samples.intended_s.min()) if len(samples) else 0.0
    samples = _rows(samples, samples.intended_s >= start_s)
    width_s, bins = _bins(samples, start_s)
    intended = _bin_of(samples.intended_s, start_s, width_s)
    latency_ms = (samples.done_s - samples.intended_s) * 1000
    failed = np.isin(samples.outcome, _FAILED)
    latency_ms[failed | (samples.outcome == Outcome.LATE_UNANSWERED)] = np.inf
    judged = ~np.isin(samples.outcome, _NO_EVIDENCE)
    bad = np.isinf(latency_ms) if late_after_ms is None else latency_ms > late_after_ms
    left = _left_s(samples)
    sent_by, left_by = (
        np.cumsum(_count(_bin_of(times, start_s, width_s), bins)) for times in (samples.sent_s, left)
    )
    p50, p99 = _quantiles(intended[judged], latency_ms[judged], bins)
    answered = samples.done_s[samples.status > 0]
    columns: SeriesColumns = {
        "t_s": (np.arange(bins) * width_s).tolist(),
        "planned": _count(intended, bins).tolist(),
        "sent": np.diff(sent_by, prepend=0).tolist(),
        "answered": _count(_bin_of(answered, start_s, width_s), bins).tolist(),
        "bad": _count(intended[judged & bad], bins).tolist(),
        "failed": _count(intended[failed], bins).tolist(),
        "p50_ms": rounded(p50),
        "p99_ms": rounded(p99),
        "in_flight": np.maximum(sent_by - left_by, 0).tolist(),
    }
    return {"bin_s": float(width_s), "columns": columns}


def rounded(values: Floats, digits: int = 4) -> list[float | None]:
    """The values with so many significant digits; None for those that are not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values.tolist()]


def _latest(samples: Samples) -> Samples:
    """Each row once, as last told."""
    if not len(samples):
        return samples
    _, from_the_end = np.unique(samples.row[::-1], return_index=True)
    return _rows(samples, len(samples) - 1 - from_the_end)


def _rows(samples: Samples, which: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Samples:
    """The given rows without their token times, which no series counts."""
    return Samples(
        row=samples.row[which],
        intended_s=samples.intended_s[which],
        sent_s=samples.sent_s[which],
        first_byte_s=samples.first_byte_s[which],
        done_s=samples.done_s[which],
        outcome=samples.outcome[which],
        status=samples.status[which],
        operation=samples.operation[which],
        bytes_received=samples.bytes_received[which],
    )


def _left_s(samples: Samples) -> Floats:
    """When each request that was sent ceased to be in flight; NaN where it never did.

    A failed one without an end is taken to have ended when it was sent: its true end is not known, and
    counting it as in flight for ever would show a queue that is not there.
    """
    ended: Floats = np.where(
        np.isnan(samples.done_s) & np.isin(samples.outcome, _FAILED), samples.sent_s, samples.done_s
    )
    return np.where(np.isnan(samples.sent_s), np.nan, ended)


def _bins(samples: Samples, start_s: float) -> tuple[float, int]:
    """The bins' width and number: the narrowest width that needs no more than ``MAX_BINS``."""
    if not len(samples):
        return float(_WIDTHS_S[0]), 0
    times = np.concatenate([samples.intended_s, samples.sent_s, samples.done_s])
    span_s = max(0.0, float(np.nanmax(times)) - start_s)
    # A time on the edge between two bins belongs to the later one, hence the bin more than the span holds.
    fitting = (width for width in _WIDTHS_S if span_s // width + 1 <= MAX_BINS)
    width_s = next(fitting, math.ceil((span_s + 1) / MAX_BINS))
    return float(width_s), int(span_s // width_s) + 1


def _bin_of(times_s: Floats, start_s: float, width_s: float) -> npt.NDArray[np.int64]:
    """The bin of each time; -1 for NaN. Times before the start fall into the first bin."""
    known = np.isfinite(times_s)
    index = np.floor_divide(np.where(known, times_s - start_s, 0.0), width_s).astype(np.int64)
    return np.where(known, np.maximum(index, 0), -1)


def _count(index: npt.NDArray[np.int64], bins: int) -> npt.NDArray[np.int64]:
    return np.bincount(index[index >= 0], minlength=bins).astype(np.int64)


def _quantiles(index: npt.NDArray[np.int64], latency_ms: Floats, bins: int) -> tuple[Floats, Floats]:
    """The median and the 99th percentile of each bin, NaN where it is empty.

    The quantile is the value at rank ceil(q n): no line is drawn from a finite latency to an infinite one.
    """
    p50, p99 = np.full(bins, np.nan), np.full(bins, np.nan)
    order = np.lexsort((latency_ms, index))
    ordered = latency_ms[order]
    counts = _count(index, bins)
    ends = np.cumsum(counts)
    some = counts > 0
    for column, q in ((p50, 0.5), (p99, 0.99)):
        rank = np.maximum(np.ceil(q * counts - 1e-9).astype(np.int64), 1)
        column[some] = ordered[(ends - counts + rank - 1)[some]]
    return p50, p99
