"""How long before a send to be awake: as long as wake-ups are late, as far as the processor can spare it.

A thread that sleeps until the moment itself leaves late by what waking up takes; one that is awake all the
time takes a core from the server. The lead lies between: it follows the wake-ups' measured lateness, and the
processor time that it costs stays below what this machine has to spare.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capacity.load.machine import ProcessorTimes, read_processors

LATE_SHARE = 0.02
"""The share of wake-ups that may come later than the lead: they are late by little, mostly."""

STEP_S = 5e-6
"""How far one wake-up moves the estimate; some hundred of them make it steady."""

LEAST_S, MOST_S = 40e-6, 500e-6
"""A timer is never on time to less than some tens of microseconds; more than half a millisecond is a machine
so busy that spinning would not help either."""

RESERVE_CORES = 0.5
"""Left idle for what the server may need in the next moment; on two cores a server that keeps one of them
busy leaves half a core to spin on."""

LEAST_CORES = 0.03
"""Spent even where nothing is idle, so that low rates stay punctual: thirty milliseconds a second."""

REVIEW_S = 1.0
"""Reading the processors' times takes some tens of microseconds, in which nothing is sent."""

TOO_SHORT = 0.5
"""A lead of less than half of what wake-ups need sends noticeably later, and says so."""


@dataclass(slots=True)
class WakeError:
    """The lateness that all but 2 % of wake-ups stay below, followed one wake-up at a time.

    A step up where one is later, a smaller step down where it is not: the share of later ones settles at
    that of the steps (Robbins and Monro, "A stochastic approximation method", 1951).
    """

    estimate_s: float

    def add(self, late_s: float) -> None:
        """Take in one wake-up."""
        moved = STEP_S * (1 - LATE_SHARE) if late_s > self.estimate_s else -STEP_S * LATE_SHARE
        self.estimate_s = min(max(self.estimate_s + moved, LEAST_S), MOST_S)


def affordable_lead_s(spare_cores: float, waits_per_s: float) -> float:
    """The lead that costs no more than may be spent, of the cores that were idle or spun on.

    Waits count whether any of them was slept through: where sends come closer together than the lead none is.
    """
    may_spend = min(1.0, max(LEAST_CORES, spare_cores - RESERVE_CORES))
    return may_spend / waits_per_s if waits_per_s > 0 else MOST_S


class Lead:
    """The lead of one sending loop; it belongs to that loop's thread.

    ``lead_s`` is how long before a deadline to be awake. ``coarse_s`` is the timer's own: one that counts in
    milliseconds is never followed below that.
    """

    def __init__(self, coarse_s: float) -> None:
        self._error = WakeError(min(coarse_s, MOST_S))
        self._floor_s = coarse_s if coarse_s > MOST_S else 0.0
        self.lead_s = max(self._error.estimate_s, self._floor_s)
        self._waits = 0
        self._affordable_s = MOST_S
        self._reviewed_s: float | None = None
        self._spin_s = 0.0
        self._before: ProcessorTimes | None = None

    def begin(self) -> None:
        """Begin an era: the processors' idle time of the one before says nothing of it."""
        self._reviewed_s = None
        self._affordable_s = MOST_S

    def waited(self) -> None:
        """Count a send that was not due yet when its turn came."""
        self._waits += 1

    def woke(self, late_s: float) -> None:
        """Take in by how much a wake-up came too late."""
        self._error.add(late_s)
        self._bound_lead()

    def review(self, now_s: float, spin_s: float) -> str | None:
        """Look about once a second at what spinning may cost; the trouble in words where that is too little.

        ``spin_s`` is the time spun in this era so far.
        """
        if self._reviewed_s is None:
            self._restart(now_s, spin_s)
            return None
        past_s = now_s - self._reviewed_s
        if past_s < REVIEW_S:
            return None
        before, spun_s, waits = self._before, spin_s - self._spin_s, self._waits
        self._restart(now_s, spin_s)
        if before is None or self._before is None:
            return None
        spare_cores = self._before.idle_cores_since(before) + spun_s / past_s
        self._affordable_s = affordable_lead_s(spare_cores, waits / past_s)
        self._bound_lead()
        if self._affordable_s < TOO_SHORT * self._error.estimate_s:
            return "the processor was too busy to wait for the moment to send: requests left less punctually"
        return None

    def _bound_lead(self) -> None:
        self.lead_s = max(min(self._error.estimate_s, self._affordable_s), self._floor_s)

    def _restart(self, now_s: float, spin_s: float) -> None:
        self._reviewed_s, self._spin_s, self._waits = now_s, spin_s, 0
        self._before = read_processors()
