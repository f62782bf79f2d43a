"""A FIFO server in virtual time: event-driven, and stateful, so that a queue outlives the probe that made it.

Where requests are served one at a time and an overload leaves no trace, a request's reply is known as soon as
it arrives; otherwise batches are formed event by event.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable

import numpy as np

from pytest_capacity.simulate.spec import Overload, ServerSpec
from pytest_capacity.simulate.spells import SlowSpells, Stops

SIZES_AT_ONCE = 8192
FORGET_AFTER = 4096
LEAST_TURN_S = 1e-4
"""A refused user of a closed loop asks again after this at the earliest: time must go on."""


class SimulatedServer:
    """A server that requests arrive at, in order, and that replies.

    Row ``i`` of ``arrived_s`` and ``replied_s`` is the i-th request. ``replied_s`` is when its client has the
    reply, the server's overhead included; infinite while that is not known yet, NaN where the request was
    refused. What a client does that has given up is the reader's affair: the server works on all the same.

    ``seed`` draws sizes, pauses, spikes and the neighbour from streams of their own, so that two rates under
    one seed meet the same sizes in the same order and the same pauses.
    """

    def __init__(self, spec: ServerSpec, seed: int = 0) -> None:
        self.spec = spec
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
        self._size_rng = streams[0]
        self._stops = Stops(spec.pause, spec.spikes, (streams[1], streams[2]))
        self._slow = SlowSpells(spec.neighbour, streams[3]) if spec.neighbour else None
        self.arrived_s: list[float] = []
        self.replied_s: list[float] = []
        self.now_s = 0.0
        self._sizes: list[float] = []
        self._sized = spec.sizes is not None or spec.lognormal_sigma is not None
        self._starts: list[float] = []
        self._free = [0.0] * spec.workers
        self._started = 0
        self._overloaded_until_s = -math.inf
        self._clear_until_s = 0.0
        self._not_before_s = spec.cold.start_s if spec.cold else 0.0
        self._users: list[tuple[float, int]] | None = None
        self._concurrency = self._held_from = 0
        self._answered: set[int] = set()
        if spec.batch_max == 1 and spec.overload is None:
            self._advance: Callable[[list[float], float], None] = self._one_by_one()
        else:
            self._advance = self._in_batches
        self._queue: list[int] = []
        self._head = 0

    def offer(self, arrivals_s: Iterable[float], until_s: float) -> None:
        """Let requests arrive open loop, at ascending times up to ``until_s``, and go on to that moment."""
        self._users = None
        self._advance(list(arrivals_s), until_s)
        self.now_s = until_s

    def hold(self, concurrency: int, until_s: float) -> None:
        """Keep so many requests in flight up to ``until_s``; calls in a row with one number go on."""
        if self._users is None or self._concurrency != concurrency:
            self._users, self._concurrency = [(self.now_s, -1)] * concurrency, concurrency
            self._held_from = len(self.arrived_s)
        self._advance([], until_s)
        self.now_s = until_s

    def factor_now(self) -> float:
        """The factor of cold start on work that would start now."""
        cold = self.spec.cold
        return 1.0 if cold is None else 1 + (cold.factor - 1) * math.exp(-self._started / cold.requests)

    def _size(self, row: int) -> float:
        sizes = self._sizes
        while row >= len(sizes):
            spec, count = self.spec, SIZES_AT_ONCE
            if spec.sizes is not None:
                drawn = self._size_rng.choice(np.asarray(spec.sizes), count)
            elif spec.lognormal_sigma is not None:
                sigma = spec.lognormal_sigma
                drawn = np.exp(self._size_rng.normal(-sigma * sigma / 2, sigma, count))
            else:
                drawn = np.ones(count)
            sizes.extend(drawn.tolist())
        return sizes[row]

    def _one_by_one(self) -> Callable[[list[float], float], None]:
        """Serve each request alone, in the order of arrival: the fast path."""
        spec, free = self.spec, self._free
        base, item, overhead = spec.cost_base_s, spec.cost_item_s, spec.overhead_s
        is_full = self._admission() if spec.queue_max is not None else None
        varies = spec.cold is not None or spec.neighbour is not None
        not_before_s = self._not_before_s
        arrived, replied, sizes = self.arrived_s, self.replied_s, self._sizes

        def serve(at_s: float) -> float:
            nonlocal not_before_s
            row = len(arrived)
            arrived.append(at_s)
            size = sizes[row] if row < len(sizes) else self._size(row)
            if is_full is not None and is_full(at_s):
                replied.append(math.nan)
                return at_s + overhead
            start_s = max(free[0], at_s, not_before_s)
            if start_s >= self._clear_until_s:
                # Another free slot must not start the next one within the spell that this one waits for.
                start_s = not_before_s = self._go_past_stops(start_s)
            work_s = base + item * size
            if varies:
                work_s *= self._factor(start_s)
                self._started += 1
            done_s = start_s + work_s
            if done_s > self._clear_until_s:
                done_s = self._stops.after(start_s, work_s)
            heapq.heapreplace(free, done_s)
            if is_full is not None:
                self._starts.append(start_s)
            replied.append(done_s + overhead)
            return done_s + overhead

        def advance(arrivals_s: list[float], until_s: float) -> None:
            for at_s in arrivals_s:
                serve(at_s)
            users = self._users
            while users and users[0][0] <= until_s:
                at_s = users[0][0]
                heapq.heapreplace(users, (self._turn(at_s, serve(at_s)), -1))

        return advance

    def _admission(self) -> Callable[[float], bool]:
        """Whether the queue is full, asked at moments that never go back."""
        starts, most = self._starts, self.spec.queue_max or 0
        waiting_from = 0

        def is_full(at_s: float) -> bool:
            nonlocal waiting_from
            while waiting_from < len(starts) and starts[waiting_from] <= at_s:
                waiting_from += 1
            return len(starts) - waiting_from >= most

        return is_full

    def _go_past_stops(self, at_s: float) -> float:
        """The first moment from ``at_s`` on at which work can start; nothing starts earlier from now on."""
        start_s = self._stops.start(at_s)
        self._clear_until_s = self._stops.clear_until(start_s)
        return start_s

    def _factor(self, start_s: float) -> float:
        """The factor on work that starts now, but for an overload's."""
        factor = self.factor_now()
        return factor if self._slow is None else factor * self._slow.factor(start_s)

    def _turn(self, at_s: float, reply_s: float) -> float:
        """When a user of a closed loop sends again: on the reply, or when it gives up waiting."""
        return max(min(reply_s, at_s + self.spec.timeout_s), at_s + LEAST_TURN_S)

    def _next_user(self, users: list[tuple[float, int]]) -> float:
        """When the next request of a closed loop comes; a user whose reply is known gives up no more."""
        while users[0][1] in self._answered:
            self._answered.discard(heapq.heappop(users)[1])
        return users[0][0]

    def _answer(self, users: list[tuple[float, int]], row: int) -> None:
        at_s, reply_s = self.arrived_s[row], self.replied_s[row]
        if reply_s < at_s + self.spec.timeout_s:
            self._answered.add(row)
            heapq.heappush(users, (self._turn(at_s, reply_s), -1))

    def _in_batches(self, arrivals_s: list[float], until_s: float) -> None:
        """Play arrivals and batch starts in the order of time, up to ``until_s``."""
        batch_max, users = self.spec.batch_max, self._users
        taken = 0
        while True:
            waiting = len(self._queue) - self._head
            start_s = self._next_start(waiting) if waiting else math.inf
            if users is not None:
                next_s = self._next_user(users)
            else:
                next_s = arrivals_s[taken] if taken < len(arrivals_s) else math.inf
            if min(next_s, start_s) > until_s:
                return
            # One that comes the moment a batch starts still goes along where there is room.
            if next_s < start_s or (next_s == start_s and waiting < batch_max):
                taken += 1
                self._join(next_s, waiting)
            else:
                self._start_batch(start_s, waiting)

    def _next_start(self, waiting: int) -> float:
        """When the next batch starts if nobody else arrives."""
        spec, arrived, queue = self.spec, self.arrived_s, self._queue
        if waiting >= spec.batch_max:
            ready_s = arrived[queue[self._head + spec.batch_max - 1]]
        else:
            ready_s = arrived[queue[self._head]] + spec.batch_wait_s
        start_s = max(ready_s, self._free[0], self._not_before_s)
        return start_s if start_s < self._clear_until_s else self._stops.start(start_s)

    def _join(self, at_s: float, waiting: int) -> None:
        spec, row = self.spec, len(self.arrived_s)
        refused = spec.queue_max is not None and waiting >= spec.queue_max
        self.arrived_s.append(at_s)
        self.replied_s.append(math.nan if refused else math.inf)
        if not refused:
            self._queue.append(row)
        if self._users is not None:
            reply_s = at_s + spec.overhead_s if refused else math.inf
            heapq.heapreplace(self._users, (self._turn(at_s, reply_s), -1 if refused else row))

    def _start_batch(self, start_s: float, waiting: int) -> None:
        spec, queue = self.spec, self._queue
        count = min(waiting, spec.batch_max)
        rows = queue[self._head : self._head + count]
        size = float(count) if not self._sized else sum(map(self._size, rows))
        work_s = (spec.cost_base_s + spec.cost_item_s * size) * self._factor(start_s)
        if spec.overload is not None:
            work_s *= self._overload(spec.overload, start_s, waiting)
        if start_s >= self._clear_until_s:
            self._clear_until_s = self._stops.clear_until(start_s)
            self._not_before_s = start_s
        done_s = start_s + work_s
        if done_s > self._clear_until_s:
            done_s = self._stops.after(start_s, work_s)
        heapq.heapreplace(self._free, done_s)
        self._started += count
        self._head += count
        if self._head > FORGET_AFTER:
            del queue[: self._head]
            self._head = 0
        reply_s = done_s + spec.overhead_s
        for row in rows:
            self.replied_s[row] = reply_s
            if self._users is not None and row >= self._held_from:
                self._answer(self._users, row)

    def _overload(self, overload: Overload, start_s: float, waiting: int) -> float:
        """The factor of an overload that is on, or not yet forgotten."""
        just_come = 0
        # Who came this very moment has not waited.
        while just_come < waiting and self.arrived_s[self._queue[-1 - just_come]] >= start_s:
            just_come += 1
        if waiting - just_come > overload.backlog:
            self._overloaded_until_s = start_s + overload.recover_s
        return overload.factor if start_s <= self._overloaded_until_s else 1.0
