"""How well the generator does: measured on the sending loop, summed up where reports are made."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Health, Ints, Outcome, Samples


@dataclass(frozen=True, slots=True)
class Vitals:
    """The sending loop's state since its present era began; an era begins with each play or hold."""

    era: int = 0
    now_s: float = 0.0
    in_flight: int = 0
    loop_stall_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    gc_collections: int = 0
    connection_waits: int = 0
    spin_s: float = 0.0


def joint(vitals: Sequence[Vitals]) -> Vitals:
    """The state of several loops together: sums, and the longest stall and time."""
    if len(vitals) == 1:
        return vitals[0]
    return Vitals(
        era=max(each.era for each in vitals),
        now_s=max(each.now_s for each in vitals),
        in_flight=sum(each.in_flight for each in vitals),
        loop_stall_s=max(each.loop_stall_s for each in vitals),
        cpu_s=sum(each.cpu_s for each in vitals),
        wall_s=max(each.wall_s for each in vitals),
        gc_collections=sum(each.gc_collections for each in vitals),
        connection_waits=sum(each.connection_waits for each in vitals),
        spin_s=sum(each.spin_s for each in vitals),
    )


class LoopMeter:
    """Measures the loop that it runs on. Every method belongs on that loop's thread."""

    def __init__(self) -> None:
        self.era = -1
        self.begin_era(0)

    def begin_era(self, waits: int) -> None:
        """Forget what was measured and measure anew; so many waits for a connection were before."""
        self.era += 1
        self.spin_s = 0.0
        self._stall_s = 0.0
        self._waits = waits
        self._cpu_s = time.thread_time()
        self._wall_s = time.monotonic()
        self._collections = _gc_collections()

    def spun(self, seconds: float) -> None:
        """Tell how long the loop waited awake for the moment to send."""
        self.spin_s += seconds

    def woke(self, late_s: float) -> None:
        """Tell by how much a wake-up came too late."""
        self._stall_s = max(self._stall_s, late_s)

    def read(self, now_s: float, in_flight: int, waits: int) -> Vitals:
        """What was measured since the era began."""
        return Vitals(
            era=self.era,
            now_s=now_s,
            in_flight=in_flight,
            loop_stall_s=self._stall_s,
            cpu_s=time.thread_time() - self._cpu_s,
            wall_s=time.monotonic() - self._wall_s,
            gc_collections=_gc_collections() - self._collections,
            connection_waits=waits - self._waits,
            spin_s=self.spin_s,
        )


def _gc_collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


class LatenessBins:
    """Counts how late requests left: bins 2 % wide from a microsecond on, so any load costs the same."""

    _first_s = 1e-6
    _growth = math.log(1.02)
    # 1 us x 1.02^930 is 100 s.
    _bins = 930

    def __init__(self) -> None:
        self._counts: Ints = np.zeros(self._bins + 1, dtype=np.int64)
        self.sent = 0
        self.max_s = 0.0

    def add(self, late_s: Floats) -> None:
        """Take in by how much requests left late; what left early counts as on time."""
        if not len(late_s):
            return
        late_s = np.maximum(late_s, 0.0)
        self.sent += len(late_s)
        self.max_s = max(self.max_s, float(late_s.max()))
        self._counts += np.bincount(self._bin(late_s), minlength=self._bins + 1)

    def quantile(self, share: float) -> float:
        """The lateness that this share of requests did not exceed, at most 2 % too high; 0 without any."""
        if not self.sent:
            return 0.0
        reached = int(np.searchsorted(np.cumsum(self._counts), share * self.sent))
        return min(self._first_s * math.exp(reached * self._growth), self.max_s)

    def share_above(self, late_s: float) -> float:
        """The share of requests that left later than that, to the next bin."""
        if not self.sent:
            return 0.0
        return float(self._counts[int(self._bin(np.array([late_s]))[0]) + 1 :].sum()) / self.sent

    def _bin(self, late_s: Floats) -> Ints:
        exponents = np.log(np.maximum(late_s, self._first_s) / self._first_s) / self._growth
        return np.minimum(np.ceil(exponents), self._bins).astype(np.int64)


class LatenessMeter:
    """Sums up send lateness in one era."""

    def __init__(self) -> None:
        self._begin(0)

    def _begin(self, era: int) -> None:
        self._era = era
        self._late = LatenessBins()
        self._not_sent = 0

    def add(self, era: int, samples: Samples) -> None:
        """Take in what was told in an era; a later era than the last one begins from nothing."""
        if era > self._era:
            self._begin(era)
        self._not_sent += int(np.count_nonzero(samples.outcome == Outcome.NOT_SENT))
        sent = samples.outcome == Outcome.PENDING
        self._late.add(samples.sent_s[sent] - samples.intended_s[sent])

    def health(self, vitals: Vitals, max_in_flight: int, notes: tuple[str, ...]) -> Health:
        """The era's health; quantiles are at most 2 % too high."""
        return Health(
            late_p50_s=self._late.quantile(0.5),
            late_p99_s=self._late.quantile(0.99),
            late_max_s=self._late.max_s,
            not_sent=self._not_sent,
            max_in_flight=max_in_flight,
            loop_stall_s=vitals.loop_stall_s,
            cpu_s=vitals.cpu_s,
            wall_s=vitals.wall_s,
            gc_collections=vitals.gc_collections,
            notes=notes,
            connection_waits=vitals.connection_waits,
            spin_s=vitals.spin_s,
        )
