"""What a measurement is made under: how load is sent, what decides about it, who is told how it goes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pytest_capacity.load.guard import Ceilings
from pytest_capacity.measurement.recorded import Recorded
from pytest_capacity.measurement.replaying import Replay
from pytest_capacity.measurement.sources import Declared, Source
from pytest_capacity.protocols import Engine, Observation, Probe, Target
from pytest_capacity.traffic.arrivals import Arrivals
from pytest_capacity.traffic.scaling import Mode, Sessions


class Controller(Protocol):
    """What decides about the load: ``Sustain`` and its like."""

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when done."""
        ...

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        ...

    def extend(self) -> bool:
        """Grant the budget once more where that is all that is wanting; True if it was granted."""
        ...

    def halt(self, reason: str) -> None:
        """End at once: the load was stopped from outside."""
        ...

    def left_s(self) -> float:
        """Seconds of load that may still come, at most."""
        ...

    def standing(self) -> str:
        """What is known so far in a few words, for live progress; empty where that is nothing."""
        ...


@dataclass(frozen=True)
class Progress:
    """How a measurement stands: rates and latency over the last two seconds, times since the load began."""

    phase: str
    elapsed_s: float
    left_s: float
    offered_qps: float
    achieved_qps: float
    p99_ms: float
    error_rate: float
    standing: str = ""


@dataclass(frozen=True)
class Conditions:
    """Under which a measurement runs, whatever it measures."""

    engine: Engine
    seed: int
    allow_hosts: tuple[str, ...] = ()
    ceilings: Ceilings = field(default_factory=Ceilings)
    arrivals: Arrivals = "poisson"
    trace: Recorded | None = None
    """Recorded traffic to send in place of the target's own requests."""
    trace_mode: Mode = "superpose"
    """How it is brought to a rate above its own."""
    sessions: Sessions = "timed"
    """When the turns of its sessions are sent."""
    max_in_flight: int | None = None
    on_progress: Callable[[Progress], None] | None = None
    interrupted: threading.Event | None = None
    """Set from another thread, it ends the load as Ctrl-C does, which reaches the main thread only."""

    @property
    def arrivals_name(self) -> str:
        """How requests arrive, as the record names it."""
        if self.trace is None:
            return self.arrivals
        return "modelled" if self.trace.is_model else "recorded"

    def source(self, target: Target, rng: np.random.Generator) -> Source:
        """Where schedules come from; raises CapacityUsageError for a trace that the target cannot send."""
        if self.trace is None:
            return Declared(target, self.arrivals, rng)
        return Replay(target, self.trace, self.trace_mode, self.seed, rng, sessions=self.sessions)
