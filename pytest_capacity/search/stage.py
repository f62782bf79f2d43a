"""What a search plays its probes on: a budget of load, the windows so far, and how one is played to its end.

Scripts are generators: they yield the probe to go on with, about every quarter of a second of load, and are
sent what came of it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO

Script = Generator[Probe, Observation, None]
Played = Generator[Probe, Observation, Window]

SCALE_LIMIT_S = 0.05
SCALE_BUDGET_S = 60.0
LEAST_SCALE, MOST_SCALE = 0.6, 4.0
DRAIN_S = 10.0


class Stage:
    """Keeps time and windows. ``limit_s`` is the largest latency limit, one second where none is bounded."""

    def __init__(self, slo: SLO, budget_s: float, max_in_flight: int | None) -> None:
        self.slo, self.budget_s = slo, budget_s
        self.limit_s = (slo.largest_limit_ms or 1000.0) / 1000
        self.windows: list[Window] = []
        self.now_s = 0.0
        self._max_in_flight = max_in_flight

    @property
    def left_s(self) -> float:
        """Seconds of load that may still come."""
        return max(0.0, self.budget_s - self.now_s)

    @property
    def requests(self) -> int:
        """Requests sent so far."""
        return sum(window.last.sent for window in self.windows if window.last)

    @property
    def scale(self) -> float:
        """By how much longer all takes than at a limit of 50 ms, as far as the budget has room for it.

        Queues relax in proportion to their limit.
        """
        most = min(MOST_SCALE, max(1.0, self.budget_s / SCALE_BUDGET_S))
        return min(max(self.limit_s / SCALE_LIMIT_S, LEAST_SCALE), most)

    @property
    def most_concurrency(self) -> int:
        """How many requests a closed loop may keep in flight."""
        return self._max_in_flight or 1024

    def tell(self, observation: Observation) -> None:
        """Give an observation to the window that it belongs to."""
        self.now_s = max(self.now_s, observation.now_s)
        for window in self.windows:
            if window.probe.id == observation.probe_id:
                window.add(observation)

    def begin(
        self,
        kind: Literal["open", "closed", "drain"],
        seconds: float,
        *,
        rate_qps: float | None = None,
        concurrency: int | None = None,
        settle_s: float = 0.0,
    ) -> Window:
        """A new window for the next probe, no longer than the budget allows."""
        probe = Probe(
            id=len(self.windows),
            kind=kind,
            rate_qps=rate_qps,
            concurrency=concurrency,
            max_s=min(seconds, self.left_s),
            settle_s=settle_s,
        )
        window = Window(probe, self.now_s, self.slo, requests_before=self.requests)
        self.windows.append(window)
        return window

    def play(self, window: Window) -> Played:
        """Play a window's probe to its end, or until it is overloaded or too much is in flight."""
        while not window.is_over:
            yield window.probe
            if window.overloaded or self._is_full(window):
                break
        return window

    def drain(self) -> Played:
        """Send nothing until nothing is in flight."""
        window = self.begin("drain", DRAIN_S)
        while not window.is_over:
            yield window.probe
            if window.last is not None and window.last.in_flight == 0:
                break
        return window

    def _is_full(self, window: Window) -> bool:
        in_flight = window.last.in_flight if window.last else 0
        is_open = window.probe.kind == "open"
        return is_open and self._max_in_flight is not None and in_flight >= self._max_in_flight
