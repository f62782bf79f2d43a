"""One run: a controller on one server, under one seed, and what it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from benchmarks.search.population import LIMIT_S, RANGES
from benchmarks.search.truths import Known
from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.simulate.arriving import Arriving, poisson
from pytest_capacity.simulate.drive import Drive
from pytest_capacity.simulate.server import SimulatedServer

SERVER_STREAM, ARRIVALS_STREAM, BRACKET_STREAM = range(3)
# The bracket of those that need one, as shares of the truth: nobody should find the middle by luck.
START_SHARES, END_SHARES = (0.2, 0.5), (2.0, 5.0)


@dataclass(frozen=True)
class Case:
    """A server, a seed and a budget: the same gaps, sizes and pauses for every algorithm."""

    known: Known
    seed: int
    budget_s: float

    def _stream(self, which: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([RANGES[self.known.range_name], self.known.index, self.seed, which])

    def server(self) -> SimulatedServer:
        """The server, as it has just started."""
        return SimulatedServer(self.known.spec, int(self._stream(SERVER_STREAM).generate_state(1)[0]))

    def arrivals(self) -> Arriving:
        """The gaps that its requests come at."""
        return poisson(int(self._stream(ARRIVALS_STREAM).generate_state(1)[0]))

    def bracket(self) -> tuple[float, float]:
        """A rate that surely holds and one that surely does not, at random: users must know them."""
        rng = np.random.default_rng(self._stream(BRACKET_STREAM))
        low, high = (float(np.exp(rng.uniform(*np.log(shares)))) for shares in (START_SHARES, END_SHARES))
        return low * self.known.capacity_qps, high * self.known.capacity_qps


@dataclass(frozen=True)
class Found:
    """What came of a search: an estimate, an interval or bracket, and what it cost.

    ``decisions_ms`` is the time of one tell and ask: how many, their mean, their p99 and the longest.
    """

    capacity_qps: float | None
    low_qps: float | None
    high_qps: float | None
    status: str
    condition_number: float | None = None
    load_s: float = 0.0
    requests: int = 0
    decisions_ms: tuple[int, float, float, float] = (0, 0.0, 0.0, 0.0)


class Asking(Protocol):
    """The face of a controller."""

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when done."""
        ...

    def tell(self, observation: Observation) -> None:
        """Take what came of the load."""
        ...


@dataclass
class Timed:
    """A controller with a watch on it, on the processor's time: others on the machine cost nothing."""

    controller: Asking
    spent_s: list[float] = field(default_factory=list)
    _open_s: float = 0.0

    def ask(self) -> Probe | None:
        """Ask; together with the tell before it this is one decision."""
        start_s = time.thread_time()
        probe = self.controller.ask()
        self.spent_s.append(self._open_s + time.thread_time() - start_s)
        self._open_s = 0.0
        return probe

    def tell(self, observation: Observation) -> None:
        """Tell."""
        start_s = time.thread_time()
        self.controller.tell(observation)
        self._open_s += time.thread_time() - start_s

    def decisions_ms(self) -> tuple[int, float, float, float]:
        """How many decisions, their mean, their p99 and the longest, in milliseconds."""
        spent = 1000 * np.array(self.spent_s or [0.0])
        mean, p99, longest = float(spent.mean()), float(np.quantile(spent, 0.99)), float(spent.max())
        return len(self.spent_s), round(mean, 4), round(p99, 4), round(longest, 4)


def play(case: Case, controller: Asking, extend: Callable[[], bool] | None = None) -> tuple[Drive, Timed]:
    """Play a controller to its end on a case's server."""
    drive, timed = Drive(case.server(), case.arrivals(), LIMIT_S), Timed(controller)
    drive.play(timed, extend)
    return drive, timed


def load_s(drive: Drive) -> float:
    """How long the load lasted, everything included, whatever the controller says of it."""
    return drive.offered[-1][2] if drive.offered else 0.0
