"""When a simulated server stands still or is slowed: spells of time, drawn as far ahead as is asked for."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right

import numpy as np

from pytest_capacity.simulate.spec import Neighbour, Pause, ServerError, Spikes

AHEAD_S = 60.0
MOST_SPELLS = 5_000_000


class Stops:
    """The spells in which all slots stand still: pauses and spikes, overlapping ones united.

    Spell ``k`` runs from ``begins[k]`` to ``ends[k]``; all that begin before ``horizon_s`` are known.
    """

    def __init__(
        self,
        pause: Pause | None,
        spikes: Spikes | None,
        seeds: tuple[np.random.Generator, np.random.Generator],
    ) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.horizon_s = 0.0 if pause or spikes else math.inf
        self._drawn_s = 0.0
        self._pause, self._spikes = pause, spikes
        self._pause_rng, self._spike_rng = seeds
        self._pauses_drawn = 0
        self._next_spike_s = self._spike_rng.exponential(1 / spikes.rate_hz) if spikes else math.inf
        self._coming: list[tuple[float, float]] = []

    def after(self, start_s: float, work_s: float) -> float:
        """When work is done that starts at ``start_s``, outside a spell, and is suspended in spells."""
        done_s = start_s + work_s
        at = bisect_right(self.ends, start_s)
        while True:
            self.know(done_s)
            if at >= len(self.begins) or self.begins[at] >= done_s:
                return done_s
            done_s += self.ends[at] - self.begins[at]
            at += 1

    def start(self, at_s: float) -> float:
        """The first moment from ``at_s`` on at which work can start."""
        self.know(at_s)
        at = bisect_right(self.ends, at_s)
        if at < len(self.begins) and self.begins[at] <= at_s:
            return self.ends[at]
        return at_s

    def clear_until(self, at_s: float) -> float:
        """Until when nothing stands still, for a moment outside any spell."""
        self.know(at_s)
        at = bisect_right(self.ends, at_s)
        return self.begins[at] if at < len(self.begins) else self.horizon_s

    def know(self, until_s: float) -> None:
        """Draw every spell that begins up to ``until_s`` or within the one that contains it."""
        while until_s >= self.horizon_s:
            drawn_s = self._drawn_s = max(until_s, self._drawn_s) + AHEAD_S
            self._draw(drawn_s)
            _check_count(len(self.begins) + len(self._coming))
            while self._coming and self._coming[0][0] <= drawn_s:
                begin_s, end_s = heapq.heappop(self._coming)
                if self.ends and begin_s <= self.ends[-1]:
                    self.ends[-1] = max(self.ends[-1], end_s)
                else:
                    self.begins.append(begin_s)
                    self.ends.append(end_s)
            # A spell that reaches past what was drawn may yet be united with one that begins beyond.
            is_open = bool(self.ends) and self.ends[-1] >= drawn_s
            self.horizon_s = self.begins[-1] if is_open else drawn_s

    def _draw(self, until_s: float) -> None:
        if self._pause is not None:
            every_s, shift_s = self._pause.every_s, self._pause.jitter * self._pause.every_s
            while (self._pauses_drawn + 1) * every_s - shift_s <= until_s:
                self._pauses_drawn += 1
                begin_s = self._pauses_drawn * every_s + shift_s * self._pause_rng.uniform(-1, 1)
                heapq.heappush(self._coming, (begin_s, begin_s + self._pause.duration_s))
        if self._spikes is not None:
            while self._next_spike_s <= until_s:
                length_s = self._spike_rng.uniform(self._spikes.low_s, self._spikes.high_s)
                heapq.heappush(self._coming, (self._next_spike_s, self._next_spike_s + length_s))
                self._next_spike_s += self._spike_rng.exponential(1 / self._spikes.rate_hz)


class SlowSpells:
    """A neighbour's alternating spells; asked for moments that never go back."""

    def __init__(self, neighbour: Neighbour, rng: np.random.Generator) -> None:
        self._neighbour, self._rng = neighbour, rng
        self._slow = False
        self._count = 0
        self.changes_s = float(rng.exponential(neighbour.off_s))

    def factor(self, at_s: float) -> float:
        """The factor on work that starts now."""
        while at_s >= self.changes_s:
            self._count += 1
            _check_count(self._count)
            self._slow = not self._slow
            mean_s = self._neighbour.on_s if self._slow else self._neighbour.off_s
            self.changes_s += float(self._rng.exponential(mean_s))
        return self._neighbour.factor if self._slow else 1.0


def _check_count(count: int) -> None:
    """Give up on a server that stands still or is slowed millions of times: its work is never done."""
    if count > MOST_SPELLS:
        raise ServerError(
            f"more than {MOST_SPELLS:,} pauses, spikes or slow spells until the work that waits is done: "
            "look at the units, and whether the server can keep up"
        )
