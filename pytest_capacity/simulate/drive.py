"""Playing a controller against a simulated server, as the measurement loop plays it against a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Outcome, Outcomes, Probe
from pytest_capacity.simulate.arriving import Arriving
from pytest_capacity.simulate.server import SimulatedServer

TICK_S = 0.25


class Controller(Protocol):
    """What asks for probes and is told what came of them."""

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when done."""
        ...

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        ...


@dataclass
class _Played:
    """One probe as played: rows from ``first`` to before ``end``, told up to ``told``."""

    probe: Probe
    start_s: float
    first: int
    told: int
    end: int | None = None


class Drive:
    """Plays probes on a server and tells what came of them, tick by tick, until the controller is done.

    ``limit_s`` is the largest latency bound: the age from which an unanswered request is known to be late.
    ``health`` gives the generator's health at a moment, for tests of doubts.
    """

    def __init__(
        self,
        server: SimulatedServer,
        arrivals: Arriving,
        limit_s: float | None,
        *,
        health: Callable[[float], Health] | None = None,
    ) -> None:
        self.server, self._arrivals = server, arrivals
        self._timeout_s = server.spec.timeout_s
        self._limit_s = self._timeout_s if limit_s is None else min(limit_s, self._timeout_s)
        self._health = health or (lambda _now: Health())
        self._open_from = 0
        self.offered: list[tuple[Probe, float, float]] = []

    def play(self, controller: Controller, extend: Callable[[], bool] | None = None) -> None:
        """Follow the controller to its end; ``extend`` may grant it more when it says that it is done."""
        begun: list[_Played] = []
        probe = controller.ask()
        while probe is not None:
            here = _Played(probe, self.server.now_s, *[len(self.server.arrived_s)] * 2)
            begun.append(here)
            probe = self._play_probe(controller, begun, extend)
            here.end = len(self.server.arrived_s)
            self.offered.append((here.probe, here.start_s, self.server.now_s))
            begun = [one for one in begun if one.end is None or one.told < one.end]
        self._settle(controller, begun)

    def _play_probe(
        self, controller: Controller, begun: list[_Played], extend: Callable[[], bool] | None
    ) -> Probe | None:
        here, server = begun[-1], self.server
        probe, tick = here.probe, 0
        while True:
            tick += 1
            end_s = min(here.start_s + tick * TICK_S, max(here.start_s + probe.max_s, server.now_s + 1e-6))
            if probe.kind == "closed":
                server.hold(int(probe.concurrency or 1), end_s)
            elif probe.kind == "open":
                server.offer(self._arrivals.draw(float(probe.rate_qps or 0), server.now_s, end_s), end_s)
            else:
                server.offer((), end_s)
            self._tell(controller, begun)
            asked = controller.ask()
            if asked is None and extend is not None and extend():
                asked = controller.ask()
            if asked is None or asked.id != probe.id:
                return asked
            probe = asked
            if end_s >= here.start_s + probe.max_s + 4 * TICK_S:
                raise RuntimeError(f"the controller holds on to probe {probe.id} past its max_s")

    def _settle(self, controller: Controller, begun: list[_Played]) -> None:
        """After the last probe let no more arrive, and tell what is left when it is answered or late."""
        until_s = self.server.now_s + self._limit_s + TICK_S
        while begun and self.server.now_s < until_s:
            self.server.offer((), self.server.now_s + TICK_S)
            self._tell(controller, begun)
            begun = [one for one in begun if one.end is not None and one.told < one.end]

    def _tell(self, controller: Controller, begun: list[_Played]) -> None:
        """Tell each probe's cohorts that have become final, the older probes first and in order."""
        server, now_s = self.server, self.server.now_s
        replied = np.array(server.replied_s[self._open_from :])
        arrived = np.array(server.arrived_s[self._open_from :])
        gone_s = np.where(np.isnan(replied), arrived, np.minimum(replied, arrived + self._timeout_s))
        waiting = gone_s > now_s
        oldest = int(waiting.argmax()) if waiting.any() else len(waiting)
        oldest_age_s = now_s - float(arrived[oldest]) if waiting.any() else 0.0
        self._open_from += oldest
        for played in begun:
            is_last = played is begun[-1]
            end = len(server.arrived_s) if played.end is None else played.end
            rows = self._final(played, end, now_s)
            if not is_last and len(rows[0]) == 0:
                break
            controller.tell(
                Observation(
                    probe_id=played.probe.id,
                    now_s=now_s,
                    planned=end - played.first,
                    sent=end - played.first,
                    in_flight=int(waiting.sum()),
                    oldest_age_s=oldest_age_s,
                    health=self._health(now_s),
                    intended_s=rows[0],
                    latency_s=rows[1],
                    outcome=rows[2],
                    operation=np.zeros(len(rows[0]), dtype=np.uint16),
                )
            )
            if played.told < end:
                # Later probes wait for their turn: all is told in order.
                if not is_last:
                    last = begun[-1]
                    controller.tell(self._nothing(last, now_s, int(waiting.sum()), oldest_age_s))
                break

    def _nothing(self, played: _Played, now_s: float, in_flight: int, oldest_age_s: float) -> Observation:
        count = len(self.server.arrived_s) - played.first
        empty = np.empty(0)
        return Observation(
            played.probe.id,
            now_s,
            count,
            count,
            in_flight,
            oldest_age_s,
            self._health(now_s),
            empty,
            empty,
            np.empty(0, dtype=np.uint8),
            np.empty(0, dtype=np.uint16),
        )

    def _final(self, played: _Played, end: int, now_s: float) -> tuple[Floats, Floats, Outcomes]:
        """The rows of the ticks in which every request is answered, failed or late, with their outcomes."""
        server = self.server
        arrived = np.array(server.arrived_s[played.told : end])
        replied = np.array(server.replied_s[played.told : end])
        refused = np.isnan(replied)
        known_s = np.where(refused, arrived + server.spec.overhead_s, replied)
        known_s = np.minimum(known_s, arrived + self._limit_s)
        final = known_s <= now_s
        if not final.all():
            ticks = np.floor((arrived - played.start_s) / TICK_S)
            count = int(np.searchsorted(ticks, ticks[int(final.argmin())]))
            arrived, replied, refused = arrived[:count], replied[:count], refused[:count]
        played.told += len(arrived)
        timed_out = ~refused & (replied - arrived > self._timeout_s)
        answered = ~refused & ~timed_out & (replied <= now_s)
        outcome = np.where(answered, Outcome.GOOD, Outcome.LATE_UNANSWERED).astype(np.uint8)
        outcome[timed_out & (arrived + self._timeout_s <= now_s)] = Outcome.TIMEOUT
        outcome[refused] = Outcome.BAD_STATUS
        latency = np.where(answered, replied - arrived, np.minimum(now_s - arrived, self._timeout_s))
        latency[refused] = server.spec.overhead_s
        return arrived, latency, outcome
