"""A FIFO server in virtual time, just enough to drive a controller through its ask/tell face."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Outcome, Probe
from pytest_capacity.search.sustain import Sustain, SustainResult

TICK_S = 0.25


@dataclass
class VirtualServer:
    """``workers`` slots; service times drawn by ``service_s(start_s, rng)``; replies failed by ``fails``."""

    workers: int = 1
    service_s: Callable[[float, np.random.Generator], float] = lambda _now, rng: float(rng.exponential(0.004))
    fails: Callable[[float], bool] = lambda _now: False
    free_at: list[float] = field(default_factory=list)

    def serve(self, arrival_s: float, rng: np.random.Generator) -> float:
        """The moment of the reply to a request that arrives now (arrivals must come in order)."""
        if not self.free_at:
            self.free_at = [0.0] * self.workers
        start = max(arrival_s, heapq.heappop(self.free_at))
        done = start + self.service_s(start, rng)
        heapq.heappush(self.free_at, done)
        return done


@dataclass
class Drive:
    """Feeds a Sustain with what a server would have done, a tick at a time."""

    server: VirtualServer
    limit_s: float
    seed: int = 0
    health: Callable[[float], Health] = lambda _now: Health()
    offered: list[float] = field(default_factory=list)

    def run(self, controller: Sustain, *, extend: bool = False) -> SustainResult:
        """Play the controller's probes to the end and return its result."""
        rng = np.random.default_rng(self.seed)
        now, told = 0.0, 0
        arrivals: list[float] = []
        done: list[float] = []
        probe = controller.ask()
        probe_start, next_arrival = 0.0, 0.0
        while probe is not None:
            end = now + TICK_S
            while next_arrival < end:
                arrivals.append(next_arrival)
                done.append(self.server.serve(next_arrival, rng))
                next_arrival += rng.exponential(1 / (probe.rate_qps or 1))
            now = end
            self.offered.append(probe.rate_qps or 0.0)
            final = told
            while final < len(arrivals) and min(done[final], arrivals[final] + self.limit_s) <= now:
                final += 1
            controller.tell(
                self._observe(probe, now, np.array(arrivals), np.array(done), told=told, final=final)
            )
            told = final
            asked = controller.ask()
            if asked is None and extend and controller.extend():
                asked = controller.ask()
            if asked is not None and asked.id != probe.id:
                probe_start = now
            assert asked is None or now - probe_start < asked.max_s + TICK_S, "a probe must end at its max_s"
            probe = asked
        return controller.result()

    def _observe(
        self, probe: Probe, now: float, arrivals: Floats, done: Floats, *, told: int, final: int
    ) -> Observation:
        intended, finished = arrivals[told:final], done[told:final]
        answered = finished <= now
        failed = np.array([self.server.fails(at) for at in intended], dtype=bool) & answered
        outcome = np.where(answered, Outcome.GOOD, Outcome.LATE_UNANSWERED).astype(np.uint8)
        outcome[failed] = Outcome.BAD_STATUS
        unanswered = arrivals[done > now]
        return Observation(
            probe_id=probe.id,
            now_s=now,
            planned=len(arrivals),
            sent=len(arrivals),
            in_flight=len(unanswered),
            oldest_age_s=now - float(unanswered[0]) if len(unanswered) else 0.0,
            health=self.health(now),
            intended_s=intended,
            latency_s=np.where(answered, finished - intended, now - intended),
            outcome=outcome,
            operation=np.zeros(len(intended), dtype=np.uint16),
        )
