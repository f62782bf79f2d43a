"""A controller that follows a script, to drive the product's own measuring loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pytest_capacity.protocols import Observation, Probe


class Scripted:
    """Plays the probes one after the other, each until its time is over or ``enough`` says so.

    ``decided_s`` holds the moments, by CLOCK_MONOTONIC, at which each probe after the first was asked for.
    """

    def __init__(
        self, probes: Sequence[Probe], enough: Callable[[Observation], bool] = lambda _observation: False
    ) -> None:
        self._probes = list(probes)
        self._enough = enough
        self._number = 0
        self._began_s: float | None = None
        self._over = False
        self.decided_s: list[float] = []

    def ask(self) -> Probe | None:
        """The probe to go on with, or None after the last."""
        if self._over:
            self._over = False
            self._number += 1
            self._began_s = None
            self.decided_s.append(time.monotonic())
        return self._probes[self._number] if self._number < len(self._probes) else None

    def tell(self, observation: Observation) -> None:
        """Note how long the present probe lasts."""
        probe = self._probes[min(self._number, len(self._probes) - 1)]
        if observation.probe_id != probe.id:
            return
        if self._began_s is None:
            self._began_s = observation.now_s
        # The first observation comes a tick after the beginning; a probe must be left before it runs dry.
        self._over = observation.now_s - self._began_s >= probe.max_s - 1.0 or self._enough(observation)

    def extend(self) -> bool:
        """No budget is granted twice."""
        return False

    def halt(self, reason: str) -> None:
        """The load was stopped from outside, which no script foresees.

        Raises RuntimeError.
        """
        raise RuntimeError(f"the load was stopped: {reason}")

    def left_s(self) -> float:
        """Seconds of load that may still come, at most."""
        return sum(probe.max_s for probe in self._probes[self._number :])

    def standing(self) -> str:
        """Nothing is found out."""
        return ""
