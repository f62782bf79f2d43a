"""Playing a controller against a simulated server, as the measurement loop plays it against a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Outcome, Outcomes, Probe
from pytest_capacity.simulate.arriving import Arriving
from pytest_capacity.simulate.server import SimulatedServer

TICK_S = 0.25

_Rows: TypeAlias = tuple[Floats, Floats, Outcomes]
_NOTHING: _Rows = (np.empty(0), np.empty(0), np.empty(0, dtype=np.uint8))


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
        self._open_from = self._gave_up = 0
        self.offered: list[tuple[Probe, float, float]] = []

    def play(self, controller: Controller, extend: Callable[[], bool] | None = None) -> None:
        """Follow the controller to its end; ``extend`` may grant it more when it says that it is done."""
        ended: list[_Played] = []
        probe = controller.ask()
        while probe is not None:
            here = _Played(probe, self.server.now_s, *[len(self.server.arrived_s)] * 2)
            probe = self._play_probe(controller, ended, here, extend)
            here.end = len(self.server.arrived_s)
            self.offered.append((here.probe, here.start_s, self.server.now_s))
            ended.append(here)
        # No more arrive: what is left is told when it is answered or late.
        while not self._tell_rest(controller, ended):
            self.server.offer((), self.server.now_s + TICK_S)

    def _play_probe(
        self,
        controller: Controller,
        ended: list[_Played],
        here: _Played,
        extend: Callable[[], bool] | None,
    ) -> Probe | None:
        probe, tick = here.probe, 0
        while True:
            tick += 1
            self._load(probe, here.start_s, here.start_s + tick * TICK_S)
            all_told = self._tell_rest(controller, ended)
            # Later probes wait for their turn: all is told in order.
            rows = self._final(here, len(self.server.arrived_s), self.server.now_s) if all_told else _NOTHING
            self._tell(controller, here, rows)
            asked = controller.ask()
            if asked is None and extend is not None and extend():
                asked = controller.ask()
            if asked is None or asked.id != probe.id:
                return asked
            if self.server.now_s >= here.start_s + asked.max_s + 4 * TICK_S:
                raise RuntimeError(f"the controller holds on to probe {probe.id} past its max_s")
            probe = asked

    def _load(self, probe: Probe, start_s: float, until_s: float) -> None:
        """Play a tick of a probe, cut short by its end; past its end nothing arrives."""
        server, end_s = self.server, start_s + probe.max_s
        if probe.kind == "drain" or server.now_s >= end_s:
            server.offer((), until_s if server.now_s >= end_s else min(until_s, end_s))
        elif probe.kind == "closed":
            server.hold(int(probe.concurrency or 1), min(until_s, end_s))
        else:
            until_s = min(until_s, end_s)
            times_s = self._arrivals.draw(float(probe.rate_qps or 0), server.now_s, until_s)
            server.offer(times_s.tolist(), until_s)

    def _tell_rest(self, controller: Controller, ended: list[_Played]) -> bool:
        """Tell what has become final of probes that have ended, each under its own name; True when all is."""
        while ended:
            first = ended[0]
            end = len(self.server.arrived_s) if first.end is None else first.end
            rows = self._final(first, end, self.server.now_s)
            if len(rows[0]):
                self._tell(controller, first, rows)
            if first.told < end:
                return False
            ended.pop(0)
        return True

    def _tell(self, controller: Controller, played: _Played, rows: _Rows) -> None:
        now_s = self.server.now_s
        in_flight, oldest_age_s, gave_up = self._in_flight(now_s)
        sent = (len(self.server.arrived_s) if played.end is None else played.end) - played.first
        controller.tell(
            Observation(
                probe_id=played.probe.id,
                now_s=now_s,
                planned=sent,
                sent=sent,
                in_flight=in_flight,
                oldest_age_s=oldest_age_s,
                health=self._health(now_s),
                intended_s=rows[0],
                latency_s=rows[1],
                outcome=rows[2],
                operation=np.zeros(len(rows[0]), dtype=np.uint16),
                gave_up=gave_up,
            )
        )

    def _in_flight(self, now_s: float) -> tuple[int, float, int]:
        """How many requests of all probes are unanswered, the age of the oldest, and how many timed out."""
        server = self.server
        arrived = np.array(server.arrived_s[self._open_from :])
        replied = np.array(server.replied_s[self._open_from :])
        refused_s = arrived + server.spec.overhead_s
        gone_s = np.where(np.isnan(replied), refused_s, np.minimum(replied, arrived + self._timeout_s))
        waiting = gone_s > now_s
        timed_out = ~waiting & (replied - arrived > self._timeout_s)
        gave_up = self._gave_up + int(timed_out.sum())
        oldest = int(waiting.argmax()) if waiting.any() else len(waiting)
        self._open_from += oldest
        self._gave_up += int(timed_out[:oldest].sum())
        return int(waiting.sum()), now_s - float(arrived[oldest]) if waiting.any() else 0.0, gave_up

    def _final(self, played: _Played, end: int, now_s: float) -> _Rows:
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
