"""A FIFO server in virtual time, just enough to drive a controller through its ask/tell face."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Outcome, Probe
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.found import CapacityResult, SustainResult
from pytest_capacity.search.sustain import Sustain

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
    _done: list[float] = field(default_factory=list)

    def search(self, controller: CapacitySearch) -> CapacityResult:
        """Play a search's probes to the end and return its result."""
        self._play(controller, extend=False)
        return controller.result()

    def run(self, controller: Sustain, *, extend: bool = False) -> SustainResult:
        """Play the controller's probes to the end and return its result."""
        self._play(controller, extend=extend)
        return controller.result()

    def _play(self, controller: Sustain | CapacitySearch, *, extend: bool) -> None:
        rng = np.random.default_rng(self.seed)
        now, told = 0.0, 0
        arrivals: list[float] = []
        done: list[float] = []
        probe = controller.ask()
        probe_start, next_arrival, first_of_probe = 0.0, 0.0, 0
        users: list[float] = []
        while probe is not None:
            end = now + TICK_S
            if probe.kind == "closed":
                users = users or [now] * int(probe.concurrency or 1)
                while users[0] < end:
                    arrivals.append(users[0])
                    done.append(self._serve(users[0], rng))
                    heapq.heapreplace(users, done[-1])
            elif probe.kind == "open":
                while next_arrival < end:
                    arrivals.append(next_arrival)
                    done.append(self._serve(next_arrival, rng))
                    next_arrival += rng.exponential(1 / (probe.rate_qps or 1))
            now = end
            self.offered.append(probe.rate_qps or 0.0)
            final = told
            while final < len(arrivals) and min(done[final], arrivals[final] + self.limit_s) <= now:
                final += 1
            columns = np.array(arrivals[first_of_probe:]), np.array(done[first_of_probe:])
            controller.tell(
                self._observe(probe, now, *columns, told=told - first_of_probe, final=final - first_of_probe)
            )
            told = final
            asked = controller.ask()
            if asked is None and extend and controller.extend():
                asked = controller.ask()
            if asked is not None and asked.id != probe.id:
                # What was not yet told of the old probe is told by age, as a switch without a gap would.
                rest = np.array(arrivals[first_of_probe:]), np.array(done[first_of_probe:])
                if told < len(arrivals):
                    controller.tell(
                        self._observe(
                            probe,
                            now,
                            *rest,
                            told=told - first_of_probe,
                            final=len(arrivals) - first_of_probe,
                        )
                    )
                told = first_of_probe = len(arrivals)
                probe_start, next_arrival, users = now, now, []
            assert asked is None or now - probe_start < asked.max_s + TICK_S, "a probe must end at its max_s"
            probe = asked

    def _serve(self, arrival_s: float, rng: np.random.Generator) -> float:
        done = self.server.serve(arrival_s, rng)
        self._done.append(done)
        return done

    def _observe(
        self, probe: Probe, now: float, arrivals: Floats, done: Floats, *, told: int, final: int
    ) -> Observation:
        intended, finished = arrivals[told:final], done[told:final]
        answered = finished <= now
        failed = np.array([self.server.fails(at) for at in intended], dtype=bool) & answered
        outcome = np.where(answered, Outcome.GOOD, Outcome.LATE_UNANSWERED).astype(np.uint8)
        outcome[failed] = Outcome.BAD_STATUS
        # A probe's end cuts off young requests: neither known to be good nor to be late.
        outcome[~answered & (now - intended <= self.limit_s)] = Outcome.CANCELLED
        unanswered = arrivals[done > now]
        self._done = [at for at in self._done if at > now]
        return Observation(
            probe_id=probe.id,
            now_s=now,
            planned=len(arrivals),
            sent=len(arrivals),
            in_flight=len(self._done),
            oldest_age_s=now - float(unanswered[0]) if len(unanswered) else 0.0,
            health=self.health(now),
            intended_s=intended,
            latency_s=np.where(answered, finished - intended, now - intended),
            outcome=outcome,
            operation=np.zeros(len(intended), dtype=np.uint16),
        )
