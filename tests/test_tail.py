"""The tail model, the ledger of spikes, and the tests for steadiness: pure parts of a search."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.protocols import Floats
from pytest_capacity.search.spikes import Spike, find_spikes, outside, spike_share
from pytest_capacity.search.tail import LevelCounts, Saturation, TailPosterior
from pytest_capacity.search.tailform import LEVELS, PRIOR, SPREAD, TailForm
from pytest_capacity.stats.steady import is_steady, shift_probability, trend_score

LIMIT_S, ALLOWED = 0.05, 0.01
SPIKELESS = spike_share([], [(500.0, 1e6, 0)], ALLOWED)


def mm1_counts(rate_qps: float, service_qps: float, total: int) -> LevelCounts:
    """What an M/M/1 queue would show on average: sojourn times are exponential with rate mu - lambda."""
    shares = [math.exp(-(service_qps - rate_qps) * level * LIMIT_S) for level in LEVELS]
    return LevelCounts(rate_qps, total, tuple(round(share * total) for share in shares))


class TestTailPosterior:
    @pytest.mark.parametrize("service_qps", [300.0, 600.0, 1500.0])
    def test_it_finds_the_capacity_of_a_queue_whose_tail_is_known(self, service_qps: float) -> None:
        """P(sojourn > t) = exp(-(mu - lambda) t) meets one in a hundred at mu - ln(100) / t."""
        capacity = service_qps - math.log(100) / LIMIT_S
        posterior = TailPosterior(ALLOWED, LIMIT_S)
        windows = [mm1_counts(share * capacity, service_qps, 20_000) for share in (0.95, 0.98, 1.0, 1.02)]

        posterior.take(windows, Saturation(service_qps, 0.005), SPIKELESS)

        assert posterior.quantile(0.5) == pytest.approx(capacity, rel=0.03)
        assert posterior.quantile(0.05) < capacity < posterior.quantile(0.95)
        assert posterior.below(np.array([math.log(capacity)]))[0] == pytest.approx(0.5, abs=0.45)

    def test_levels_below_the_limit_narrow_what_late_requests_leave_open(self) -> None:
        capacity = 600 - math.log(100) / LIMIT_S
        window = mm1_counts(0.97 * capacity, 600, 6_000)
        blind = LevelCounts(window.rate_qps, window.total, (0,) * 7 + (0,))
        seeing, unseeing = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)

        seeing.take([window], None, SPIKELESS)
        unseeing.take([blind], None, SPIKELESS)

        def width(posterior: TailPosterior) -> float:
            return posterior.quantile(0.95) / posterior.quantile(0.05)

        assert width(seeing) < width(unseeing)

    def test_the_same_evidence_gives_the_same_answer(self) -> None:
        windows = [mm1_counts(480, 600, 5_000)]
        one, other = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)
        one.take(windows)
        other.take(windows)

        assert one.quantile(0.3) == other.quantile(0.3)

    def test_spikes_lower_the_capacity_and_raise_the_condition_number(self) -> None:
        windows = [mm1_counts(rate, 600, 20_000) for rate in (480.0, 500.0, 510.0)]
        calm, spiky = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)
        seen = [(Spike(10.0 * i, 10.0 * i + 0.03, 15), 500.0, 0.8) for i in range(1, 5)]

        calm.take(windows, Saturation(600, 0.005), SPIKELESS)
        spiky.take(windows, Saturation(600, 0.005), spike_share(seen, [(500.0, 60.0, 4)], ALLOWED))

        assert spiky.quantile(0.5) < calm.quantile(0.5)
        assert spiky.condition_number() > calm.condition_number()
        assert spiky.calm_quantile(0.5) == pytest.approx(calm.quantile(0.5), rel=0.02)
        assert spiky.quantile(0.95) / spiky.quantile(0.05) > calm.quantile(0.95) / calm.quantile(0.05)

    def test_a_share_at_a_rate_and_the_capacity_tell_the_same(self) -> None:
        """The share exceeds the allowed one with the probability that the capacity is below the rate."""
        posterior = TailPosterior(ALLOWED, LIMIT_S)
        posterior.take([mm1_counts(500, 600, 5_000)], None, SPIKELESS)
        rate = 520.0
        below = float(posterior.below(np.array([math.log(rate)]))[0])

        assert 0.05 < below < 0.95
        assert posterior.share_quantile(rate, 1 - below) == pytest.approx(ALLOWED, rel=0.1)

    def test_windows_that_differ_by_more_than_bursts_do_widen_the_interval(self) -> None:
        """A server that is slower for a while, as beside a neighbour, is known less well."""
        alike, unlike = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)
        pairs = [
            [mm1_counts(rate, service_qps, 20_000) for service_qps in (560, 660)]
            for rate in (420.0, 460.0, 500.0, 510.0)
        ]

        def mean(pair: list[LevelCounts]) -> LevelCounts:
            above = tuple(sum(counts) // 2 for counts in zip(*(one.above for one in pair), strict=True))
            return replace(pair[0], above=above)

        saturation = Saturation(605, 0.005)
        alike.take([mean(pair) for pair in pairs], saturation, SPIKELESS)
        unlike.take([one for pair in pairs for one in pair], saturation, SPIKELESS)

        def width(posterior: TailPosterior) -> float:
            return posterior.quantile(0.95) / posterior.quantile(0.05) - 1

        # Twice the evidence, the same on average, were it not for how it differs.
        assert width(unlike) > 1.3 * width(alike)

    def test_two_windows_tell_nothing_of_how_windows_differ(self) -> None:
        posterior, same = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)
        saturation = Saturation(600, 0.005)
        posterior.take([mm1_counts(500, 600, 5_000), mm1_counts(500, 600, 5_000)], saturation, SPIKELESS)
        same.take([mm1_counts(500, 600, 10_000)], saturation, SPIKELESS)

        assert posterior.quantile(0.05) == pytest.approx(same.quantile(0.05), rel=1e-3)

    def test_load_in_which_nothing_was_slow_speaks_against_a_capacity_below_it(self) -> None:
        """Far beyond saturation the form must not say again that nobody waits."""
        posterior = TailPosterior(ALLOWED, LIMIT_S)

        posterior.take([LevelCounts(500.0, 6_000, (0,) * len(LEVELS))], None, SPIKELESS)

        assert posterior.quantile(0.05) > 0.8 * 500
        assert posterior.quantile(0.95) > 3 * 500

    @pytest.mark.parametrize(("late", "overloaded"), [(500, True), (200, False)])
    def test_rates_far_apart_bound_the_capacity_between_them(self, late: int, overloaded: bool) -> None:
        """Whatever the form says of rates so far away: held at 400/s, broken at 800/s."""
        nothing, everything = (0,) * len(LEVELS), (late,) * len(LEVELS)
        posterior = TailPosterior(ALLOWED, LIMIT_S)

        posterior.take(
            [
                LevelCounts(200.0, 400, nothing),
                LevelCounts(400.0, 800, nothing),
                LevelCounts(800.0, 500, everything, overloaded=overloaded),
                LevelCounts(200.0, 150, nothing),
            ],
            None,
            SPIKELESS,
        )

        assert posterior.quantile(0.05) > 0.5 * 400
        assert 400 < posterior.quantile(0.5) < 800
        assert posterior.quantile(0.95) < 1.15 * 800

    def test_more_load_tells_more_of_a_queue_but_not_of_spikes(self) -> None:
        """Above the middle a queue shows itself quickly; how often spikes come is seen as well below it."""
        calm, spiky = TailPosterior(ALLOWED, LIMIT_S), TailPosterior(ALLOWED, LIMIT_S)
        seen = [(Spike(5.0 * i, 5.0 * i + 0.1, 50), 500.0, 0.8) for i in range(1, 4)]
        windows = [mm1_counts(rate, 600, 4_000) for rate in (490.0, 500.0)]
        rates = np.array([300.0, 480.0, 520.0])

        calm.take(windows, Saturation(600, 0.005), SPIKELESS)
        spiky.take(windows, Saturation(600, 0.005), spike_share(seen, [(500.0, 20.0, 3)], ALLOWED))

        of_calm, of_spiky = calm.telling(rates, 6.0), spiky.telling(rates, 6.0)
        assert of_calm[0] < 0.1 * of_calm[1] < 0.1 * of_calm[2]
        assert of_spiky[1] > of_spiky[2]
        assert of_spiky[0] > 0.3 * of_spiky[1]

    @given(
        st.lists(
            st.tuples(
                st.floats(1, 5_000),
                st.integers(0, 20_000),
                st.lists(st.floats(0, 1), min_size=len(LEVELS), max_size=len(LEVELS)),
            ),
            min_size=1,
            max_size=4,
        ),
        st.one_of(st.none(), st.floats(1, 5_000)),
    )
    @settings(max_examples=40, deadline=None)
    def test_no_counts_break_it(
        self, windows: list[tuple[float, int, list[float]]], saturation_qps: float | None
    ) -> None:
        """Counts that no queue shows still give ordered, finite quantiles."""
        posterior = TailPosterior(ALLOWED, LIMIT_S)
        posterior.take(
            [
                LevelCounts(rate, total, tuple(int(part * total) for part in sorted(shares, reverse=True)))
                for rate, total, shares in windows
            ],
            Saturation(saturation_qps, 0.01) if saturation_qps else None,
        )

        low, middle, high = (posterior.quantile(part) for part in (0.05, 0.5, 0.95))
        assert 0 < low <= middle <= high < math.inf
        assert posterior.condition_number() > 0


class TestTailForm:
    @given(
        st.lists(st.floats(-2.5, 2.5), min_size=5, max_size=5),
        st.sampled_from([0.001, 0.01, 0.05]),
    )
    @settings(max_examples=60, deadline=None)
    def test_beyond_saturation_no_share_falls_with_the_rate(
        self, away: list[float], allowed_share: float
    ) -> None:
        form = TailForm(allowed_share)
        point = (PRIOR + SPREAD * np.array([0.0, *away]))[None]
        decay, decay_slope = (float(part[0]) for part in form.decay_of(point))
        beyond = decay / decay_slope + np.linspace(0.0, 6.0, 50)

        shares = form.shares(point, beyond)[0]

        assert (np.diff(shares, axis=0) >= -1e-12).all()


def arrivals(rate_qps: float, seconds: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0, seconds, int(rate_qps * seconds)))


class TestSpikes:
    def test_a_pause_of_a_quick_server_is_a_spike(self) -> None:
        intended = arrivals(400, 10)
        latency = np.full_like(intended, 0.005)
        paused = (intended >= 5.0) & (intended < 5.09)
        latency[paused] += 5.09 - intended[paused]

        (spike,) = find_spikes(intended, latency, LIMIT_S)

        assert spike.start_s == pytest.approx(5.0, abs=0.02)
        assert spike.late == int((latency > LIMIT_S).sum())

    def test_a_pause_of_a_busy_server_is_one_whatever_was_before(self) -> None:
        """Near its capacity a server is slower than usual at nearly any moment."""
        intended = arrivals(400, 10)
        latency = np.where((intended > 4.9) & (intended < 5.2), 0.028, 0.012)
        paused = (intended >= 5.0) & (intended < 5.09)
        latency[paused] += 5.09 - intended[paused]

        assert [spike.start_s for spike in find_spikes(intended, latency, LIMIT_S)] == [
            pytest.approx(5.0, abs=0.02)
        ]

    def test_a_queue_that_grows_within_a_moment_is_none(self) -> None:
        """A batching server's queue may go from usual to late within a tenth of a second."""
        intended = arrivals(400, 10)
        latency = 0.02 + np.interp(
            intended, [4.95, 5.05, 5.1, 5.2], [0.0, 0.045, 0.045, 0.0], left=0, right=0
        )

        assert (latency > LIMIT_S).sum() > 10
        assert find_spikes(intended, latency, LIMIT_S) == []

    def test_failures_are_told_by_what_was_before_since_they_have_no_latency(self) -> None:
        intended = arrivals(400, 10)
        refused = (intended >= 5.0) & (intended < 5.09)
        calm = np.where(refused, np.inf, 0.005)
        full = np.where(refused, np.inf, np.where((intended > 4.9) & (intended < 5.0), 0.045, 0.005))

        assert len(find_spikes(intended, calm, LIMIT_S)) == 1
        assert find_spikes(intended, full, LIMIT_S) == []

    def test_a_queue_that_builds_up_is_none(self) -> None:
        intended = arrivals(400, 10)
        latency = 0.005 + np.interp(intended, [4.0, 5.0, 6.0], [0.0, 0.08, 0.0], left=0, right=0)

        assert find_spikes(intended, latency, LIMIT_S) == []

    def test_what_lasts_is_no_spike(self) -> None:
        intended = arrivals(400, 10)
        latency = np.where((intended > 4) & (intended < 7), np.inf, 0.005)

        assert find_spikes(intended, latency, LIMIT_S) == []

    def test_requests_outside_spikes_are_kept_and_those_that_follow_within_the_limit_are_not(self) -> None:
        intended = np.array([0.9, 1.0, 1.05, 1.09, 1.12, 2.0])

        kept = outside(intended, [Spike(1.0, 1.05, 3)], LIMIT_S)

        assert kept.tolist() == [True, False, False, False, True, True]

    def test_what_requests_waited_before_spikes_is_not_expected_of_a_server_with_little_to_do(self) -> None:
        """Pauses of 50 ms on a queue of 30 ms make late what an idle server's would not."""
        seen = [(Spike(10.0 * i, 10.0 * i + 0.1, 60, 0.030), 500.0, 0.8) for i in range(1, 7)]
        windows = [mm1_counts(rate, 600, 6_000) for rate in (420, 480, 505)]

        def lowest(idle_s: float) -> float:
            posterior = TailPosterior(ALLOWED, LIMIT_S)
            belief = spike_share(seen, [(500.0, 60.0, 6)], ALLOWED, idle_s)
            posterior.take(windows, Saturation(600, 0.005), belief)
            return posterior.quantile(0.05)

        assert lowest(0.005) > 1.1 * lowest(0.030)

    def test_more_spikes_are_known_better_and_longer_ones_take_more(self) -> None:
        def seen(count: int, late: int) -> list[tuple[Spike, float, float]]:
            return [(Spike(float(i), i + 0.1, late), 500.0, 0.5) for i in range(count)]

        few = spike_share(seen(2, 20), [(500.0, 20.0, 2)], ALLOWED)
        many = spike_share(seen(20, 20), [(500.0, 200.0, 20)], ALLOWED)
        long = spike_share(seen(20, 60), [(500.0, 200.0, 20)], ALLOWED)

        assert many.log_sd < few.log_sd
        # Twenty of them are believed nearly as they were seen, a little drawn to what spikes usually take.
        assert many.growths[0].log_mean == pytest.approx(math.log(0.1 * 20 / 500 * 0.5), abs=0.2)
        assert (
            many.growths[0].log_mean + 0.9 < long.growths[0].log_mean < many.growths[0].log_mean + math.log(3)
        )

    def test_quiet_load_at_lower_rates_shows_that_spikes_come_with_the_load(self) -> None:
        seen = [(Spike(float(i), i + 0.1, 20), 800.0, 0.7) for i in range(8)]
        busy = (800.0, 20.0, 8)

        by_load = spike_share(seen, [busy, (400.0, 30.0, 0)], ALLOWED)
        by_clock = spike_share(
            [*seen, *seen, *((Spike(60.0 + i, 60.1 + i, 10), 400.0, 0.4) for i in range(24))],
            [busy, busy, (400.0, 60.0, 24)],
            ALLOWED,
        )
        by_request = spike_share(
            [*seen, *((Spike(30.0 + i, 30.1 + i, 10), 400.0, 0.4) for i in range(6))],
            [busy, (400.0, 30.0, 6)],
            ALLOWED,
        )

        assert by_load.growths[0].weight < 0.1
        assert by_clock.growths[0].weight > 0.95
        # Half as many at half the rate: by the request or by the clock, but no bursts of a queue.
        assert by_request.growths[1].weight > by_clock.growths[1].weight
        assert by_request.growths[2].weight < 0.001

    def test_what_was_not_seen_for_long_is_less_likely_to_be_there(self) -> None:
        short, long = (spike_share([], [(100.0, seconds, 0)], ALLOWED) for seconds in (5.0, 120.0))

        assert 0.6 < short.absent < long.absent < 1


class TestSteady:
    def test_a_trend_and_a_shift_are_seen_and_noise_is_neither(self) -> None:
        rng = np.random.default_rng(5)
        noise = rng.normal(100, 3, 20)

        assert is_steady(noise, 0.01)
        assert trend_score(noise + np.arange(20)) > 3
        assert not is_steady(noise + np.arange(20), 0.01)
        shifted = noise + np.where(np.arange(20) > 11, 20, 0)
        assert shift_probability(shifted) < 0.05 < shift_probability(noise)
        assert not is_steady(shifted, 0.01)

    def test_what_does_not_matter_is_steady_however_sure(self) -> None:
        assert is_steady(np.linspace(100, 101, 40), 0.02)

    @pytest.mark.parametrize("count", [0, 1, 5])
    def test_too_few_values_cannot_show_it(self, count: int) -> None:
        assert not is_steady(np.full(count, 10.0), 0.02)
        assert trend_score(np.full(count, 10.0)) == 0
