"""Recorded traffic at any rate: order, sessions and keys kept, rows not sent before, loops without seams."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.load.split import split_rows
from pytest_capacity.protocols import Floats
from pytest_capacity.traffic.arrivals import poisson
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.pattern import Traffic, plain_traffic
from pytest_capacity.traffic.scaling import (
    Cursor,
    SeenShares,
    Stretch,
    advance,
    draw,
    scaling_for,
    seen_shares,
    start,
)
from pytest_capacity.traffic.statistics import index_of_dispersion
from tests.traffics import eventful, steady

EVENTFUL = eventful()
STEADY = steady()

FACTORS = st.floats(0.05, 12)
SEEDS = st.integers(0, 2**32 - 1)


def at(traffic: Traffic, factor: float, duration_s: float, **arguments: Any) -> Stretch:
    return draw(traffic, start(traffic), traffic.rate_qps * factor, duration_s, **arguments)


def test_the_recorded_rate_replays_the_recording_as_it_was() -> None:
    stretch = at(EVENTFUL, 1.0, EVENTFUL.cycle_s)

    assert np.array_equal(stretch.schedule.request_index, np.arange(len(EVENTFUL)))
    assert stretch.schedule.offsets_s == pytest.approx(EVENTFUL.t_s)
    assert stretch.scaling.kind == "recorded"
    assert stretch.scaling.describe() == "the recorded rate"
    assert stretch.loops == ()


@settings(max_examples=60, deadline=None)
@given(FACTORS, st.floats(0.5, 1500), SEEDS, st.sampled_from(["superpose", "compress"]))
def test_a_stretch_ascends_within_its_duration_and_follows_from_the_seed(
    factor: float, duration_s: float, seed: int, mode: Any
) -> None:
    first, second = (at(EVENTFUL, factor, duration_s, seed=seed, mode=mode) for _ in range(2))

    offsets_s, rows = first.schedule.offsets_s, first.schedule.request_index
    assert np.array_equal(rows, second.schedule.request_index)
    assert np.array_equal(offsets_s, second.schedule.offsets_s)
    assert np.all(np.diff(offsets_s) >= 0)
    assert not len(offsets_s) or (offsets_s[0] >= 0 and offsets_s[-1] < duration_s)
    assert len(rows) == len(offsets_s) == len(first.copy) == len(first.session)


@settings(max_examples=40, deadline=None)
@given(FACTORS, SEEDS)
def test_whole_cycles_have_the_rate_asked_for(factor: float, seed: int) -> None:
    stretch = at(STEADY, factor, 3 * STEADY.cycle_s, seed=seed)

    expected = 3 * len(STEADY) * factor
    # Rows are thinned by chance, once for all three cycles.
    assert len(stretch.schedule.offsets_s) == pytest.approx(expected, abs=3 * 5 * math.sqrt(len(STEADY) / 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 600))
def test_whole_copies_send_every_row_equally_often(copies: int, begin_s: int) -> None:
    cursor = Cursor(((0.0, begin_s),), *(start(EVENTFUL).sent, start(EVENTFUL).keys_sent))

    stretch = draw(EVENTFUL, cursor, EVENTFUL.rate_qps * copies, EVENTFUL.cycle_s)

    assert np.all(np.bincount(stretch.schedule.request_index, minlength=len(EVENTFUL)) == copies)


@settings(max_examples=40, deadline=None)
@given(FACTORS, st.floats(1, 1000), SEEDS)
def test_each_copy_keeps_the_order_and_the_gaps_of_the_recording(
    factor: float, duration_s: float, seed: int
) -> None:
    stretch = at(EVENTFUL, factor, duration_s, seed=seed)

    for copy in range(stretch.scaling.copies):
        own = stretch.copy == copy
        offsets_s, rows = stretch.schedule.offsets_s[own], stretch.schedule.request_index[own]
        if len(rows) < 2:
            continue
        gaps_s = (EVENTFUL.t_s[rows[1:]] - EVENTFUL.t_s[rows[:-1]]) % EVENTFUL.cycle_s
        assert np.diff(offsets_s) % EVENTFUL.cycle_s == pytest.approx(gaps_s, abs=1e-6)


def test_copies_are_shifted_as_far_from_each_other_as_can_be() -> None:
    stretch = at(EVENTFUL, 4.0, 10.0)

    assert np.diff(stretch.starts_s) == pytest.approx(EVENTFUL.cycle_s / 4)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95), SEEDS)
def test_thinning_keeps_sessions_whole(share: float, seed: int) -> None:
    stretch = at(EVENTFUL, share, EVENTFUL.cycle_s, seed=seed)

    recorded = np.bincount(EVENTFUL.session, minlength=EVENTFUL.session_count)
    kept = np.bincount(EVENTFUL.session[stretch.schedule.request_index], minlength=EVENTFUL.session_count)
    assert np.all((kept == 0) | (kept == recorded))
    assert kept.sum() == pytest.approx(share * len(EVENTFUL), abs=float(recorded.max()))
    assert stretch.scaling.kind == "thinned"


def test_what_a_smaller_share_keeps_a_larger_one_keeps_too() -> None:
    small, large = (set(at(EVENTFUL, share, 600, seed=3).schedule.request_index) for share in (0.3, 0.6))

    assert small < large


def test_one_long_session_does_not_decide_about_all() -> None:
    session = np.where(np.arange(len(STEADY)) % 2 == 0, 0, -1)
    traffic = replace(STEADY, session=session)

    kept = at(traffic, 0.4, traffic.cycle_s).schedule.request_index

    assert not np.isin(0, session[kept])
    assert len(kept) == pytest.approx(0.4 * len(STEADY) / 2, rel=0.15)


def test_a_session_that_two_copies_play_is_two_and_so_is_one_played_again() -> None:
    twice = at(EVENTFUL, 2.0, EVENTFUL.cycle_s)
    again = at(EVENTFUL, 1.0, 2 * EVENTFUL.cycle_s)

    for stretch in (twice, again):
        assert stretch.session.max() + 1 >= 2 * EVENTFUL.session_count
        for number in range(0, int(stretch.session.max()), 97):
            rows = stretch.schedule.request_index[stretch.session == number]
            assert len(set(EVENTFUL.session[rows])) == 1
            assert len(set(stretch.copy[stretch.session == number])) == 1
            assert len(rows) == len(set(rows))


def test_a_loop_is_seamless_and_marked() -> None:
    stretch = at(STEADY, 1.0, 2.5 * STEADY.cycle_s)

    assert [loop.offset_s for loop in stretch.loops] == pytest.approx([STEADY.cycle_s, 2 * STEADY.cycle_s])
    before, after = np.searchsorted(stretch.schedule.offsets_s, STEADY.cycle_s) + np.array([-1, 0])
    gap_s = stretch.schedule.offsets_s[after] - stretch.schedule.offsets_s[before]
    assert gap_s == pytest.approx(1 / STEADY.rate_qps, rel=0.01)


def test_every_copy_marks_its_own_loop() -> None:
    stretch = at(STEADY, 2.0, STEADY.cycle_s)

    (loop,) = stretch.loops
    assert loop.copy == 1
    assert loop.offset_s == pytest.approx(STEADY.cycle_s / 2)


def test_time_is_compressed_on_request_only_and_keeps_slow_bursts() -> None:
    compressed = at(EVENTFUL, 4.0, EVENTFUL.cycle_s / 4, mode="compress")
    superposed = at(EVENTFUL, 4.0, EVENTFUL.cycle_s / 4)

    assert np.array_equal(compressed.schedule.request_index, np.arange(len(EVENTFUL)))
    assert compressed.schedule.offsets_s == pytest.approx(EVENTFUL.t_s / 4)
    assert (compressed.scaling.kind, superposed.scaling.kind) == ("compressed", "superposed")
    dispersions = [
        index_of_dispersion(one.schedule.offsets_s, EVENTFUL.cycle_s / 4, 10) or 0
        for one in (compressed, superposed)
    ]
    assert dispersions[0] > 1.5 * dispersions[1]


@pytest.mark.parametrize(
    ("factor", "mode", "words"),
    [
        (1.0, "superpose", "the recorded rate"),
        (3.0, "superpose", "3 times the recorded rate: 3 shifted copies, superposed"),
        (1.25, "superpose", "1.25 times the recorded rate: 1 shifted copy and 25 % of another, superposed"),
        (0.125, "superpose", "0.125 times the recorded rate: thinned to 12.5 %"),
        (2.0, "compress", "2 times the recorded rate: time compressed"),
        (0.5, "compress", "0.5 times the recorded rate: time compressed"),
    ],
)
def test_the_mode_is_told_in_words(factor: float, mode: Any, words: str) -> None:
    assert scaling_for(factor, mode).describe() == words


@given(FACTORS)
def test_copies_make_up_the_factor(factor: float) -> None:
    scaling = scaling_for(factor)

    assert scaling.copies - 1 + scaling.last_share == pytest.approx(factor)
    assert 0 < scaling.last_share <= 1


class TestCursor:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.floats(0.3, 4), st.floats(1, 20), st.floats(0, 1)), max_size=8), SEEDS)
    def test_probes_send_rows_not_sent_before_while_there_are_any(
        self, probes: list[tuple[float, float, float]], seed: int
    ) -> None:
        cursor = start(EVENTFUL)
        used_s = 0.0
        for factor, duration_s, played in probes:
            used_s += math.ceil(factor) * duration_s
            if used_s > EVENTFUL.cycle_s / 2:
                break
            stretch = draw(EVENTFUL, cursor, EVENTFUL.rate_qps * factor, duration_s, seed=seed)
            rows = stretch.schedule.request_index
            assert len(set(rows)) == len(rows)
            assert not cursor.sent[rows].any()
            assert seen_shares(EVENTFUL, cursor, stretch).rows in (0.0, None)
            cursor = advance(EVENTFUL, cursor, stretch, played * duration_s)

    def test_probes_at_the_recorded_rate_go_through_the_recording_one_after_the_other(self) -> None:
        cursor, sent = start(EVENTFUL), []
        for _ in range(10):
            stretch = draw(EVENTFUL, cursor, EVENTFUL.rate_qps, EVENTFUL.cycle_s / 10)
            sent += stretch.schedule.request_index.tolist()
            cursor = advance(EVENTFUL, cursor, stretch)

        assert sent == list(range(len(EVENTFUL)))
        assert cursor.sent.all()
        assert cursor.round == 0

    def test_what_was_not_played_comes_next(self) -> None:
        cursor = start(EVENTFUL)
        stretch = draw(EVENTFUL, cursor, EVENTFUL.rate_qps, 60.0)
        cursor = advance(EVENTFUL, cursor, stretch, 15.0)

        following = draw(EVENTFUL, cursor, EVENTFUL.rate_qps, 60.0)

        assert list(following.starts_s) == pytest.approx([15.0])
        assert int(cursor.sent.sum()) == following.schedule.request_index[0]

    def test_a_recording_that_is_used_up_begins_anew_elsewhere_and_says_so(self) -> None:
        cursor = start(EVENTFUL)
        first = draw(EVENTFUL, cursor, EVENTFUL.rate_qps, EVENTFUL.cycle_s)
        cursor = advance(EVENTFUL, cursor, first)

        second = draw(EVENTFUL, cursor, EVENTFUL.rate_qps, 30.0)

        assert (first.round, second.round) == (0, 1)
        assert second.starts_s != first.starts_s
        assert seen_shares(EVENTFUL, cursor, second) == SeenShares(rows=1.0, keys=1.0)

    def test_the_share_of_keys_seen_counts_all_keys_of_a_request(self) -> None:
        # The first request has keys 0 and 1, the second 2 and 1, the third none.
        further = FurtherKeys(np.array([0, 1], dtype=np.int32), np.array([1, 1], dtype=np.int32))
        traffic = plain_traffic(np.array([0.0, 1.0, 2.0]), key=np.array([0, 2, -1]), further_keys=further)
        first = draw(traffic, start(traffic), 1.0, 1.0)

        cursor = advance(traffic, start(traffic), first)

        assert first.schedule.request_index.tolist() == [0]
        assert cursor.keys_sent.tolist() == [True, True, False]
        shares = seen_shares(traffic, cursor, draw(traffic, cursor, 1.0, 2.0))
        assert shares == SeenShares(rows=0.0, keys=0.5)

    def test_the_share_of_keys_seen_counts_requests_with_keys_of_earlier_probes(self) -> None:
        key = np.array([0, 1, -1, 0, 2, 1])
        traffic = plain_traffic(np.arange(6.0), key=key)
        cursor = start(traffic)
        stretch = draw(traffic, cursor, 1.0, 3.0)
        cursor = advance(traffic, cursor, stretch)

        shares = seen_shares(traffic, cursor, draw(traffic, cursor, 1.0, 3.0))

        assert shares.rows == 0.0
        assert shares.keys == pytest.approx(2 / 3)

    def test_without_keys_no_share_of_keys_is_told(self) -> None:
        shares = seen_shares(STEADY, start(STEADY), at(STEADY, 1.0, 5.0))

        assert (shares.rows, shares.keys) == (0.0, None)

    def test_a_cursor_is_a_value(self) -> None:
        cursor = start(EVENTFUL)
        advance(EVENTFUL, cursor, at(EVENTFUL, 2.0, 10.0))

        assert not cursor.sent.any()
        assert not cursor.keys_sent.any()
        assert cursor.played == ()

    def test_in_the_long_run_no_part_of_the_recording_counts_less(self) -> None:
        cursor, often = start(STEADY), np.zeros(len(STEADY))
        for _ in range(400):
            stretch = draw(STEADY, cursor, 1.5 * STEADY.rate_qps, STEADY.cycle_s / 4)
            often += np.bincount(stretch.schedule.request_index, minlength=len(STEADY))
            cursor = advance(STEADY, cursor, stretch)

        halves = often[: len(STEADY) // 2].sum(), often[len(STEADY) // 2 :].sum()
        assert halves[0] == pytest.approx(halves[1], rel=0.1)
        assert often.sum() == pytest.approx(400 / 4 * 1.5 * len(STEADY), rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0), "rate_qps=0.0 must be a positive number"),
        ((math.nan, 1.0), "rate_qps=nan must be a positive number"),
        ((1.0, -1.0), "duration_s=-1.0 must be a positive number"),
        ((1.0, math.inf), "duration_s=inf must be a positive number"),
        ((1e6, 1e6), "more than 10,000,000 requests"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(STEADY, start(STEADY), *arguments)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='stretch' must be 'superpose' or 'compress'"):
        draw(STEADY, start(STEADY), 1.0, 1.0, mode="stretch")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("t_s", "message"),
    [
        (np.array([1.0]), "two arrivals or more"),
        (np.array([]), "two arrivals or more"),
        (np.array([2.0, 2.0, 2.0]), "at different times"),
        (np.array([0.0, 2.0, 1.0]), "must ascend"),
    ],
)
def test_what_has_no_rate_is_no_traffic(t_s: Floats, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_traffic(t_s)


class TestPoissonStaysPoisson:
    """The index of dispersion of many windows: its standard deviation is sqrt(2 / windows)."""

    SECONDS = 5000.0

    @pytest.mark.parametrize("workers", [1, 2, 4, 10])
    def test_split_over_workers_and_put_together_again(self, workers: int) -> None:
        offsets_s = poisson(200, self.SECONDS, np.random.default_rng(workers))
        parts = [offsets_s[rows] for rows in split_rows(len(offsets_s), workers)]

        together = np.sort(np.concatenate(parts))

        assert index_of_dispersion(together, self.SECONDS, 1.0) == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize("workers", [1, 2, 4, 10])
    def test_split_by_chance_each_worker_sends_poisson_itself(self, workers: int) -> None:
        rng = np.random.default_rng(workers)
        offsets_s = poisson(200, self.SECONDS, rng)
        worker = rng.integers(0, workers, len(offsets_s))

        for number in range(workers):
            own = index_of_dispersion(offsets_s[worker == number], self.SECONDS, 1.0)
            assert own == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 2.5, 10.0])
    def test_thinned_or_superposed(self, factor: float) -> None:
        # The longer the recording, the fewer windows hold the same rows twice.
        recorded = steady(rate_qps=20, duration_s=self.SECONDS)

        stretch = at(recorded, factor, recorded.cycle_s)

        found = index_of_dispersion(stretch.schedule.offsets_s, recorded.cycle_s, 1.0)
        assert found == pytest.approx(1.0, abs=0.1)
