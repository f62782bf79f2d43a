"""Simulated servers against a slow, plain one written from design.md's wording alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.simulate.server import LEAST_TURN_S, SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec

Spells = list[tuple[float, float]]
END_S = 20.0


@dataclass
class Chance:
    """What a seed draws: the spells, each in its own stream, and the sizes."""

    stops: Spells
    slow: Spells
    sizes: list[float]

    @classmethod
    def of(cls, spec: ServerSpec, seed: int, count: int) -> Chance:
        sizes_rng, pause_rng, spike_rng, slow_rng = (
            np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
        )
        stops: Spells = []
        if spec.pause:
            for number in range(1, int(3 * END_S / spec.pause.every_s)):
                shift_s = spec.pause.jitter * spec.pause.every_s * pause_rng.uniform(-1, 1)
                begin_s = number * spec.pause.every_s + shift_s
                stops.append((begin_s, begin_s + spec.pause.duration_s))
        if spec.spikes:
            at_s = spike_rng.exponential(1 / spec.spikes.rate_hz)
            while at_s < 3 * END_S:
                stops.append((at_s, at_s + spike_rng.uniform(spec.spikes.low_s, spec.spikes.high_s)))
                at_s += spike_rng.exponential(1 / spec.spikes.rate_hz)
        slow: Spells = []
        at_s = 0.0
        while spec.neighbour and at_s < 3 * END_S:
            begin_s = at_s + slow_rng.exponential(spec.neighbour.off_s)
            at_s = begin_s + slow_rng.exponential(spec.neighbour.on_s)
            slow.append((begin_s, at_s))
        sizes = np.ones(count)
        if spec.sizes is not None:
            sizes = sizes_rng.choice(np.asarray(spec.sizes), 8192)[:count]
        elif spec.lognormal_sigma is not None:
            sigma = spec.lognormal_sigma
            sizes = np.exp(sizes_rng.normal(-sigma * sigma / 2, sigma, 8192))[:count]
        return cls(united(stops), slow, sizes.tolist())


def united(spells: Spells) -> Spells:
    whole: Spells = []
    for begin_s, end_s in sorted(spells):
        if whole and begin_s <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end_s))
        else:
            whole.append((begin_s, end_s))
    return whole


class PlainServer:
    """One event after the other, everything looked up afresh at each; infinite: unanswered, NaN: refused."""

    def __init__(self, spec: ServerSpec, chance: Chance) -> None:
        self.spec, self.chance = spec, chance
        self.arrived: list[float] = []
        self.replied: list[float] = []
        self.queue: list[int] = []
        self.slots = [0.0] * spec.workers
        self.started = 0
        self.overloaded_until_s = -math.inf

    def open_loop(self, arrivals: list[float], until_s: float) -> None:
        coming = list(arrivals)
        while self.step(coming[0] if coming else math.inf, until_s):
            if coming and len(self.arrived) and self.arrived[-1] == coming[0]:
                coming.pop(0)

    def closed_loop(self, concurrency: int, from_s: float, until_s: float) -> None:
        last: list[int | None] = [None] * concurrency
        while True:
            again = [from_s if row is None else self.next_turn_s(row) for row in last]
            count = len(self.arrived)
            if not self.step(min(again), until_s):
                return
            if len(self.arrived) > count:
                last[again.index(min(again))] = count

    def next_turn_s(self, row: int) -> float:
        at_s, reply_s = self.arrived[row], self.replied[row]
        answered_s = at_s + self.spec.overhead_s if math.isnan(reply_s) else reply_s
        return max(min(answered_s, at_s + self.spec.timeout_s), at_s + LEAST_TURN_S)

    def step(self, arrival_s: float, until_s: float) -> bool:
        start_s = self.next_start_s()
        if min(arrival_s, start_s) > until_s:
            return False
        if arrival_s < start_s or (arrival_s == start_s and len(self.queue) < self.spec.batch_max):
            self.join(arrival_s)
        else:
            self.start(start_s)
        return True

    def next_start_s(self) -> float:
        if not self.queue:
            return math.inf
        ready_s = self.arrived[self.queue[0]] + self.spec.batch_wait_s
        if len(self.queue) >= self.spec.batch_max:
            ready_s = self.arrived[self.queue[self.spec.batch_max - 1]]
        at_s = max(ready_s, min(self.slots), self.spec.cold.start_s if self.spec.cold else 0.0)
        for begin_s, end_s in self.chance.stops:
            if begin_s <= at_s < end_s:
                at_s = end_s
        return at_s

    def join(self, at_s: float) -> None:
        is_refused = self.spec.queue_max is not None and len(self.queue) >= self.spec.queue_max
        self.arrived.append(at_s)
        self.replied.append(math.nan if is_refused else math.inf)
        if not is_refused:
            self.queue.append(len(self.arrived) - 1)

    def start(self, at_s: float) -> None:
        is_overloaded = self.is_overloaded(at_s)
        batch, self.queue = self.queue[: self.spec.batch_max], self.queue[self.spec.batch_max :]
        size = sum(self.chance.sizes[row] for row in batch)
        work_s = (self.spec.cost_base_s + self.spec.cost_item_s * size) * self.factor(at_s)
        if self.spec.overload and is_overloaded:
            work_s *= self.spec.overload.factor
        end_s = self.end_of(at_s, work_s)
        self.slots.remove(min(self.slots))
        self.slots.append(end_s)
        self.started += len(batch)
        for row in batch:
            self.replied[row] = end_s + self.spec.overhead_s

    def factor(self, at_s: float) -> float:
        spec, factor = self.spec, 1.0
        if spec.cold:
            factor *= 1 + (spec.cold.factor - 1) * math.exp(-self.started / spec.cold.requests)
        if spec.neighbour and any(begin_s <= at_s < end_s for begin_s, end_s in self.chance.slow):
            factor *= spec.neighbour.factor
        return factor

    def is_overloaded(self, at_s: float) -> bool:
        """Who came this very moment has not waited."""
        overload = self.spec.overload
        if overload and sum(self.arrived[row] < at_s for row in self.queue) > overload.backlog:
            self.overloaded_until_s = at_s + overload.recover_s
        return at_s <= self.overloaded_until_s

    def end_of(self, at_s: float, work_s: float) -> float:
        done_s = at_s + work_s
        for begin_s, end_s in self.chance.stops:
            if at_s <= begin_s < done_s:
                done_s += end_s - begin_s
        return done_s


def part(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any] | None]:
    return st.none() | st.fixed_dictionaries(fields)


def between(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


SERVERS = st.fixed_dictionaries(
    {
        "workers": st.integers(1, 3),
        "batch_max": st.sampled_from([1, 1, 1, 2, 5]),
        "batch_wait_s": st.just(0.0) | between(0.001, 0.2),
        "cost_base_s": between(0.001, 0.05),
        "cost_item_s": st.just(0.0) | between(0.001, 0.05),
        "overhead_s": st.just(0.0) | between(0.0001, 0.01),
        "timeout_s": between(0.05, 5.0),
        "size": st.none() | st.just([0.5, 1.0, 3.0]) | st.just({"lognormal_sigma": 0.8}),
        "queue_max": st.none() | st.integers(1, 6),
        "pause": part(every_s=between(0.5, 3), duration_s=between(0.01, 0.4), jitter=between(0, 0.7)),
        "spikes": part(rate_hz=between(0.1, 3), low_s=between(0, 0.1), high_s=between(0.1, 0.4)),
        "neighbour": part(on_s=between(0.1, 2), off_s=between(0.1, 2), factor=between(0.5, 4)),
        "cold": part(factor=between(0.5, 5), requests=between(1, 50), start_s=between(0, 1)),
        "overload": part(backlog=st.integers(0, 5), factor=between(0.5, 4), recover_s=between(0, 1)),
    }
)


def same(ours: list[float], theirs: list[float]) -> None:
    # Both calculate in one order: else a rounding would choose who is first of those that come at once.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, equal_nan=True)


def same_until(until_s: float, ours: list[float], theirs: list[float]) -> None:
    """The same replies, what comes later left open: a server may know it already."""
    for replies in (ours, theirs):
        replies[:] = [math.inf if reply > until_s else reply for reply in replies]
    same(ours, theirs)


@settings(max_examples=150, deadline=None)
@given(description=SERVERS, rate_qps=between(5, 80), seed=st.integers(0, 1000))
def test_open_loop_every_reply_is_the_plain_server_s(
    description: dict[str, Any], rate_qps: float, seed: int
) -> None:
    spec = ServerSpec.of(description)
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate_qps, 120))
    until_s = float(arrivals[-1])
    plain = PlainServer(spec, Chance.of(spec, seed, 200))
    plain.open_loop(arrivals.tolist(), END_S + until_s)
    server = SimulatedServer(spec, seed)
    # Pieces of any length: what waits or is in service is carried over from one to the next.
    cuts_s = sorted(np.random.default_rng(seed + 1).uniform(0, until_s, 5))
    for from_s, to_s in zip([0.0, *cuts_s], [*cuts_s, until_s], strict=True):
        server.offer(arrivals[(arrivals > from_s) & (arrivals <= to_s)].tolist(), to_s)
    server.offer((), END_S + until_s)

    same(server.arrived_s, plain.arrived)
    same_until(END_S + until_s, server.replied_s, plain.replied)


@settings(max_examples=150, deadline=None)
@given(description=SERVERS, concurrency=st.integers(1, 8), seed=st.integers(0, 1000))
def test_closed_loop_every_request_and_reply_is_the_plain_server_s(
    description: dict[str, Any], concurrency: int, seed: int
) -> None:
    # A refusal that costs nothing is asked for again ten thousand times a second.
    spec = ServerSpec.of(description | {"overhead_s": max(description["overhead_s"], 0.002)})
    until_s = 1.5
    plain = PlainServer(spec, Chance.of(spec, seed, 8192))
    plain.closed_loop(concurrency, 0.0, until_s)
    server = SimulatedServer(spec, seed)
    server.hold(concurrency, 0.7)
    server.hold(concurrency, until_s)

    same(server.arrived_s, plain.arrived)
    same_until(until_s, server.replied_s, plain.replied)


def test_the_plain_server_itself_is_right_about_one_of_everything() -> None:
    """By hand: batches of two that wait, a queue of three, a pause within the second batch's service."""
    spec = ServerSpec.of(
        {
            "batch_max": 2,
            "batch_wait_s": 0.1,
            "cost_base_s": 0.2,
            "cost_item_s": 0.1,
            "overhead_s": 0.0,
            "queue_max": 3,
            "pause": {"every_s": 1.0, "duration_s": 0.5},
        }
    )
    plain = PlainServer(spec, Chance.of(spec, 0, 10))
    plain.open_loop([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 3.2], 10.0)

    # 0.55 fills a batch (0.4 s of work); the pause 1.0-1.5 comes after it; a queue of three is full at 0.75.
    assert plain.replied == pytest.approx([0.95, 0.95, 1.85, 1.85, 2.65, math.nan, 3.8], nan_ok=True)
