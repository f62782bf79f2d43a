"""Simulated servers, field by field: arrivals and the replies that were worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from pytest_capacity.simulate import spells
from pytest_capacity.simulate.server import LEAST_TURN_S, SimulatedServer
from pytest_capacity.simulate.spec import Neighbour, Pause, ServerSpec, Spikes
from pytest_capacity.simulate.spells import SlowSpells, Stops

REFUSED = math.nan
STANDS = {"every_s": 1.0, "duration_s": 0.5}


def described(**fields: Any) -> ServerSpec:
    return ServerSpec.of({"overhead_s": 0.0, "cost_base_s": 0.1} | fields)


def replies(server: SimulatedServer, arrivals: Iterable[float]) -> list[float]:
    server.offer(arrivals, 100.0)
    return server.replied_s


class Drawn(np.random.Generator):
    """Gives what a test wrote down, in its order, whatever the distribution."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._values = list(values)

    def exponential(self, *_: Any, **__: Any) -> Any:
        return self._values.pop(0)

    def uniform(self, *_: Any, **__: Any) -> Any:
        return self._values.pop(0)


WORKED: dict[str, tuple[dict[str, Any], list[float], list[float]]] = {
    "one slot takes them one after the other": ({}, [0, 0.05, 0.3], [0.1, 0.2, 0.4]),
    "a third waits for the first of two slots": ({"workers": 2}, [0, 0.02, 0.04], [0.1, 0.12, 0.2]),
    "a batch takes what waits, up to batch_max": (
        {"batch_max": 2},
        [0, 0.01, 0.02, 0.03],
        [0.1, 0.2, 0.2, 0.3],
    ),
    "a batch that is not full starts when its oldest has waited": (
        {"batch_max": 3, "batch_wait_s": 0.05},
        [0, 0.02],
        [0.15, 0.15],
    ),
    "a full batch waits no longer": (
        {"batch_max": 3, "batch_wait_s": 0.5},
        [1, 1.01, 1.02],
        [1.12, 1.12, 1.12],
    ),
    "the wait counts from the arrival, a busy slot's time included": (
        {"batch_max": 3, "batch_wait_s": 0.05},
        [0, 0.06, 0.08],
        [0.15, 0.25, 0.25],
    ),
    "who arrives the moment a batch starts goes along": ({"batch_max": 2}, [0, 0, 0], [0.1, 0.1, 0.2]),
    "the cost has a base and a share for each item": (
        {"cost_item_s": 0.01, "size": [3.0]},
        [0, 1],
        [0.13, 1.13],
    ),
    "a batch pays the base once and the sum of its sizes": (
        {"batch_max": 2, "cost_item_s": 0.01, "size": [3.0]},
        [0, 0.02, 0.04],
        [0.13, 0.29, 0.29],
    ),
    "without sizes each item costs one": ({"batch_max": 2, "cost_item_s": 0.01}, [0, 0], [0.12, 0.12]),
    "overhead is on top of each latency and holds no slot": (
        {"overhead_s": 0.01},
        [0, 0.05],
        [0.11, 0.21],
    ),
    "who finds the queue full is refused, service not counted": (
        {"queue_max": 1},
        [0, 0.01, 0.02, 0.15],
        [0.1, 0.2, REFUSED, 0.3],
    ),
    "who starts at once has never been in the queue": ({"queue_max": 1}, [0, 0, 0], [0.1, 0.2, REFUSED]),
    "a queue of batches is full with as many requests": (
        {"queue_max": 2, "batch_max": 2},
        [0, 0.01, 0.02, 0.03, 0.15],
        [0.1, 0.2, 0.2, REFUSED, 0.3],
    ),
    "the server works on for clients that gave up": ({"timeout_s": 0.05}, [0, 0], [0.1, 0.2]),
    "a pause suspends work in service and lets none start": (
        {"cost_base_s": 0.2, "pause": STANDS},
        [0.9, 1.1, 1.95, 2.1],
        [1.6, 1.8, 2.65, 2.85],
    ),
    "a pause stops every slot": (
        {"cost_base_s": 0.2, "pause": STANDS, "workers": 2},
        [0.9, 1.1, 1.2],
        [1.6, 1.7, 1.8],
    ),
    "no free slot starts another within a pause": (
        {"cost_base_s": 0.2, "pause": STANDS, "workers": 2},
        [1.1, 1.2],
        [1.7, 1.7],
    ),
    "nor do batches": (
        {"cost_base_s": 0.2, "pause": STANDS, "workers": 2, "batch_max": 2},
        [1.1, 1.2, 1.3],
        [1.7, 1.7, 1.7],
    ),
    "work longer than the time between pauses is suspended again": (
        {"cost_base_s": 1.0, "pause": STANDS},
        [0.8],
        [2.8],
    ),
    "cold work is slower by those who started before, and waits for the start": (
        {"cold": {"factor": 3.0, "requests": 2, "start_s": 0.5}},
        [0, 0.1, 0.2],
        [0.8, 0.9 + 0.2 * math.exp(-0.5), 1.0 + 0.2 * math.exp(-0.5) + 0.2 * math.exp(-1)],
    ),
    "a batch warms the server by all its requests": (
        {"batch_max": 2, "cold": {"factor": 3.0, "requests": 2}},
        [0, 0, 5],
        [0.3, 0.3, 5.1 + 0.2 * math.exp(-1)],
    ),
    "an overload slows while many wait and for a while after": (
        {"overload": {"backlog": 1, "factor": 2.0, "recover_s": 0.3}},
        [0, 0.01, 0.02, 0.03, 1],
        [0.1, 0.3, 0.5, 0.7, 1.1],
    ),
    "factors multiply": (
        {
            "overload": {"backlog": 0, "factor": 2.0, "recover_s": 0},
            "cold": {"factor": 3.0, "requests": 1e9},
        },
        [0, 0.01],
        [0.3, 0.9],
    ),
}


@pytest.mark.parametrize("case", WORKED)
def test_worked_by_hand(case: str) -> None:
    fields, arrivals, expected = WORKED[case]

    assert replies(SimulatedServer(described(**fields)), arrivals) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("batch_max", [1, 2])
def test_what_waits_is_carried_over_from_one_load_to_the_next(batch_max: int) -> None:
    whole = SimulatedServer(described(batch_max=batch_max, queue_max=3))
    parts = SimulatedServer(described(batch_max=batch_max, queue_max=3))

    whole.offer([0, 0.01, 0.02, 0.03, 0.12], 5.0)
    parts.offer([0, 0.01], 0.015)
    parts.offer([0.02, 0.03], 0.035)
    parts.offer([], 0.1)
    parts.offer([0.12], 5.0)

    assert parts.replied_s == whole.replied_s
    assert parts.now_s == 5.0


def test_an_overlap_of_pause_and_spike_is_one_spell() -> None:
    server = SimulatedServer(described(cost_base_s=0.2, pause=STANDS))
    spikes = Spikes(rate_hz=1.0, low_s=0.0, high_s=1.0)
    # A spike at 1.3 that lasts 0.5 s, one within it, and none for long after.
    drawn = Drawn(1.3, 0.5, 0.1, 0.2, 500.0)
    server._stops = Stops(Pause(**STANDS), spikes, (np.random.default_rng(0), drawn))

    assert replies(server, [0.9, 1.75]) == pytest.approx([1.9, 2.6])
    assert server._stops.begins[:2] == pytest.approx([1.0, 2.0])
    assert server._stops.ends[:2] == pytest.approx([1.8, 2.5])


def test_a_spike_suspends_and_ends() -> None:
    server = SimulatedServer(described())
    drawn = Drawn(0.05, 0.3, 500.0)
    server._stops = Stops(None, Spikes(1.0, 0.0, 1.0), (np.random.default_rng(0), drawn))

    assert replies(server, [0, 0.2]) == pytest.approx([0.4, 0.5])


def test_the_neighbour_s_factor_holds_for_what_starts_in_a_slow_spell() -> None:
    server = SimulatedServer(described(neighbour={"on_s": 0.5, "off_s": 1.0, "factor": 4.0}))
    # Normal until 1.0, slow until 1.5, then normal again.
    server._slow = SlowSpells(Neighbour(0.5, 1.0, 4.0), Drawn(1.0, 0.5, 100.0))

    assert replies(server, [0.95, 1.4, 2.0]) == pytest.approx([1.05, 1.8, 2.1])


@pytest.mark.parametrize(("every_s", "duration_s"), [(5.0, 0.5), (60.0, 1.0), (1.0, 0.25)])
def test_a_pause_that_comes_round_with_the_minute_ends(every_s: float, duration_s: float) -> None:
    stops = Stops(Pause(every_s, duration_s), None, (np.random.default_rng(0), np.random.default_rng(0)))

    assert stops.start(3 * every_s + 0.1) == pytest.approx(3 * every_s + duration_s)
    assert stops.after(3 * every_s - 0.1, 0.2) == pytest.approx(3 * every_s + duration_s + 0.1)


def test_how_far_ahead_spells_are_drawn_changes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spell that reaches past what was drawn is known to its end before anybody waits for it."""

    def moments() -> list[tuple[float, float]]:
        rngs = np.random.default_rng(1), np.random.default_rng(2)
        stops = Stops(Pause(0.5, 0.2, 0.4), Spikes(rate_hz=2.0, low_s=0.1, high_s=0.5), rngs)
        starts_s = [stops.start(at_s) for at_s in np.arange(0, 30, 0.05)]
        return [(start_s, stops.after(start_s, 0.3)) for start_s in starts_s]

    far = moments()
    monkeypatch.setattr(spells, "AHEAD_S", 0.3)

    assert moments() == far


def test_jitter_shifts_each_pause_by_a_uniform_share() -> None:
    rngs = np.random.default_rng(1), np.random.default_rng(2)
    stops = Stops(Pause(every_s=10.0, duration_s=0.1, jitter=0.2), None, rngs)
    stops.know(20_000.0)

    shifts = np.array(stops.begins[:2000]) - 10.0 * np.arange(1, 2001)
    assert np.abs(shifts).max() <= 2.0
    assert shifts.std() == pytest.approx(4 / math.sqrt(12), rel=0.05)
    assert np.array(stops.ends[:2000]) - stops.begins[:2000] == pytest.approx(0.1)


def test_spikes_come_as_often_and_last_as_long_as_told() -> None:
    rngs = np.random.default_rng(1), np.random.default_rng(2)
    stops = Stops(None, Spikes(rate_hz=0.2, low_s=0.01, high_s=0.05), rngs)
    stops.know(50_000.0)

    begins = np.array(stops.begins)
    lengths = np.array(stops.ends) - begins
    assert np.diff(begins).mean() == pytest.approx(5.0, rel=0.05)
    assert np.diff(begins).std() == pytest.approx(5.0, rel=0.05)
    assert lengths.mean() == pytest.approx(0.03, rel=0.02)


def test_a_neighbour_is_slow_for_its_share_of_the_time() -> None:
    slow = SlowSpells(Neighbour(on_s=1.0, off_s=3.0, factor=2.0), np.random.default_rng(3))
    first = SlowSpells(Neighbour(on_s=1.0, off_s=3.0, factor=2.0), np.random.default_rng(3)).factor(0.0)
    factors = [slow.factor(at_s) for at_s in np.arange(0, 20_000, 0.5)]

    assert first == 1.0
    assert np.mean(factors) == pytest.approx(1.25, rel=0.02)


def test_sizes_are_drawn_as_told() -> None:
    lognormal = SimulatedServer(described(size={"lognormal_sigma": 0.7}))
    listed = SimulatedServer(described(size=[1.0, 4.0]))
    spread = np.log([lognormal._size(row) for row in range(40_000)])
    drawn = np.array([listed._size(row) for row in range(4000)])

    assert np.exp(spread).mean() == pytest.approx(1.0, rel=0.02)
    assert spread.std() == pytest.approx(0.7, rel=0.02)
    assert set(drawn) == {1.0, 4.0}
    assert (drawn == 4.0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_seed_means_the_same_sizes_and_spells_at_any_rate() -> None:
    spec = described(size={"lognormal_sigma": 1.0}, spikes={"rate_hz": 0.5, "low_s": 0.1, "high_s": 0.2})
    slow, fast = SimulatedServer(spec, 7), SimulatedServer(spec, 7)
    slow.offer(np.arange(0, 50, 0.5).tolist(), 50.0)
    fast.offer(np.arange(0, 50, 0.2).tolist(), 50.0)

    assert slow._sizes[:100] == fast._sizes[:100]
    assert slow._stops.begins == fast._stops.begins[: len(slow._stops.begins)]
    assert SimulatedServer(spec, 8)._size(0) != slow._sizes[0]


# Closed loop: so many users, each of whom sends again when it has its reply or gives up.


@pytest.mark.parametrize("batch_max", [1, 2])
def test_one_user_sends_again_on_each_reply(batch_max: int) -> None:
    server = SimulatedServer(described(overhead_s=0.01, batch_max=batch_max))
    server.hold(1, 0.15)
    server.hold(1, 0.3)

    assert server.arrived_s == pytest.approx([0, 0.11, 0.22])
    assert server.replied_s == pytest.approx([0.11, 0.22, 0.33])


def test_two_users_queue_for_one_slot() -> None:
    server = SimulatedServer(described(overhead_s=0.01))
    server.hold(2, 0.25)

    assert server.arrived_s == pytest.approx([0, 0, 0.11, 0.21])
    assert server.replied_s == pytest.approx([0.11, 0.21, 0.31, 0.41])


@pytest.mark.parametrize("batch_max", [1, 2])
def test_a_user_gives_up_after_the_timeout_and_sends_again(batch_max: int) -> None:
    server = SimulatedServer(described(cost_base_s=1.0, timeout_s=0.3, batch_max=batch_max))
    server.hold(1, 0.7)

    assert server.arrived_s == pytest.approx([0, 0.3, 0.6])


@pytest.mark.parametrize("batch_max", [1, 2])
@pytest.mark.parametrize(("overhead_s", "turn_s"), [(0.001, 0.001), (0.0, LEAST_TURN_S)])
def test_a_refused_user_asks_again_at_once(batch_max: int, overhead_s: float, turn_s: float) -> None:
    spec = described(queue_max=1, overhead_s=overhead_s, batch_max=batch_max)
    server = SimulatedServer(spec)
    server.offer([0.0], 1e-9)
    server.hold(2, 2.5 * turn_s)

    assert server.arrived_s[3:] == pytest.approx([turn_s, 2 * turn_s], abs=1e-8)
    assert np.isnan(server.replied_s[2:]).all()


@pytest.mark.parametrize("batch_max", [1, 2])
def test_a_reply_quicker_than_the_least_turn_is_no_timeout(batch_max: int) -> None:
    server = SimulatedServer(described(cost_base_s=LEAST_TURN_S / 2, batch_max=batch_max))
    server.hold(1, 3.5 * LEAST_TURN_S)

    assert server.arrived_s == pytest.approx([0, LEAST_TURN_S, 2 * LEAST_TURN_S, 3 * LEAST_TURN_S])


@pytest.mark.parametrize("batch_max", [1, 2])
def test_a_new_number_of_users_begins_at_once_and_an_open_load_ends_them(batch_max: int) -> None:
    server = SimulatedServer(described(batch_max=batch_max))
    server.hold(1, 0.05)
    server.hold(3, 0.06)
    assert server.arrived_s == pytest.approx([0, 0.05, 0.05, 0.05])

    server.offer([1.0], 2.0)
    assert server.arrived_s[4:] == [1.0]
    assert server.replied_s[-1] == pytest.approx(1.1)


def test_users_of_a_load_that_ended_send_no_more() -> None:
    server = SimulatedServer(described(batch_max=2))
    server.hold(4, 0.05)
    server.hold(1, 0.35)

    # Two of the four still wait; the one user of now comes after them.
    assert server.arrived_s[4:] == pytest.approx([0.05, 0.3])
    assert server.replied_s[:5] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3])


def test_the_cold_factor_now_is_told() -> None:
    server = SimulatedServer(described(cold={"factor": 5.0, "requests": 10}))
    assert server.factor_now() == 5.0
    replies(server, np.arange(10.0))
    assert server.factor_now() == pytest.approx(1 + 4 * math.exp(-1))
    assert SimulatedServer(described()).factor_now() == 1.0
