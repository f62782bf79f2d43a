"""Workload models: what is fitted to a recording comes out of what is generated, and nothing else goes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.traffic.bursts import cascade, fit_halvings
from pytest_capacity.traffic.calibration import MOST_OPERATIONS, calibrate
from pytest_capacity.traffic.fidelity import OTHER, fidelity, within_tolerance
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.grids import at_shares, draw_together, quantile_grid, rank_links
from pytest_capacity.traffic.pattern import Traffic, plain_traffic
from pytest_capacity.traffic.statistics import (
    index_of_dispersion,
    lru_hit_shares,
    sessions_of,
    stack_distances,
    window_counts,
)
from pytest_capacity.traffic.workload import as_text
from pytest_capacity.traffic.workload_reading import parse_workload
from tests.traffics import eventful, popular_keys, steady

RECORDED = eventful(5)


def remade(traffic: Traffic, seed: int = 1) -> Traffic:
    """A cycle from the model of some traffic, as a reader of the model's file has it."""
    return generate(parse_workload(as_text(calibrate(traffic))), seed)


def whole_day(rng: np.random.Generator) -> Traffic:
    """A request a second on average, half of that at night and half as many again at noon; some are large."""
    t_s = np.sort(rng.random(130_000) * 86_400)
    t_s = t_s[rng.random(len(t_s)) < (1 + 0.5 * np.sin(2 * np.pi * t_s / 86_400)) / 1.5]
    return plain_traffic(t_s, sizes={"items": np.rint(np.exp(rng.normal(2.5, 0.6, len(t_s)))) + 1})


class TestWholeModels:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_a_generated_cycle_is_within_tolerance_of_the_recording(self, seed: int) -> None:
        vector = fidelity(RECORDED, remade(RECORDED, seed))

        assert within_tolerance(vector), [one for one in vector if one.ok is False]

    def test_a_model_of_a_model_still_is_one_of_the_recording(self) -> None:
        vector = fidelity(RECORDED, remade(remade(RECORDED)))

        assert sum(one.ok is False for one in vector) <= 2

    def test_the_same_seed_generates_the_same_and_another_one_something_else(self) -> None:
        model = calibrate(RECORDED)
        first, same, other = (generate(model, seed) for seed in (1, 1, 2))

        assert np.array_equal(first.t_s, same.t_s)
        assert np.array_equal(first.key, same.key)
        assert np.array_equal(first.session, same.session)
        assert not np.array_equal(first.t_s, other.t_s)

    def test_the_counts_of_each_window_are_those_recorded(self) -> None:
        model = calibrate(RECORDED)
        generated = generate(model, 3)

        both = [window_counts(one.t_s, one.cycle_s, model.window_s) for one in (RECORDED, generated)]
        assert both[0].tolist() == both[1].tolist()
        assert len(generated) == len(RECORDED) == model.requests

    def test_a_rate_of_few_requests_changes_as_it_did(self) -> None:
        rng = np.random.default_rng(0)
        # Five or six requests in a window, more in the second half of the day.
        t_s = np.sort(np.concatenate([rng.random(400) * 27_000, 27_000 + rng.random(1100) * 27_000]))
        traffic = plain_traffic(t_s)

        (found,) = (one for one in fidelity(traffic, remade(traffic)) if "correlation of counts" in one.name)

        assert found.name == "rate: correlation of counts per 200 s"
        assert found.ok is True

    def test_a_day_whose_rate_changes_slowly_is_within_tolerance(self) -> None:
        day = whole_day(np.random.default_rng(0))

        vector = fidelity(day, remade(day))

        assert within_tolerance(vector), [one for one in vector if one.ok is False]
        (shape,) = (one for one in vector if "correlation of counts" in one.name)
        # In 10 s come ten requests: what chance does to them hides how the rate changes.
        assert shape.ok is True
        assert not shape.name.endswith(" per 10 s")

    def test_a_day_at_another_time_of_day_is_outside(self) -> None:
        day = whole_day(np.random.default_rng(0))
        moved = plain_traffic(np.sort((day.t_s + 21_600) % day.cycle_s))

        (found,) = (one for one in fidelity(day, moved) if "correlation of counts" in one.name)

        assert found.ok is False

    def test_a_model_is_small_and_holds_no_time_key_or_session_of_the_recording(self) -> None:
        shifted = replace(RECORDED, key=RECORDED.key + 770_000, session=RECORDED.session + 880_000)
        shifted = replace(shifted, t_s=shifted.t_s + 1e-5)

        text = as_text(calibrate(shifted))

        assert len(text.encode()) < 40_000
        assert text == as_text(calibrate(replace(RECORDED, t_s=RECORDED.t_s + 1e-5)))

    def test_many_operations_are_told_by_the_most_frequent_ones(self) -> None:
        rng = np.random.default_rng(0)
        paths = tuple(f"/users/{number}" for number in range(300))
        operation = np.minimum(rng.zipf(1.5, len(RECORDED)) - 1, 299)
        traffic = replace(RECORDED, operation=operation, operations=paths)

        model = calibrate(traffic)

        names = {kind.operation for kind in model.kinds}
        assert len(names) == MOST_OPERATIONS
        assert "/users/0" in names
        assert "/users/250" not in names
        assert OTHER in names
        assert len(as_text(model)) < 100_000
        generated = generate(model, 0)
        (mix,) = (one for one in fidelity(traffic, generated) if one.name.startswith("operations"))
        assert mix.ok

    def test_what_stands_behind_a_question_mark_is_not_told(self) -> None:
        traffic = replace(RECORDED, operations=("/rank?user=secret", "/embed?user=secret"))

        model = calibrate(traffic)

        assert "secret" not in as_text(model)
        assert {kind.operation for kind in model.kinds} == {"/rank", "/embed"}
        assert within_tolerance(fidelity(traffic, generate(model, 1)))

    def test_a_recording_of_two_requests_can_be_modelled(self) -> None:
        generated = remade(plain_traffic(np.array([0.0, 1.0]), sizes={"items": np.array([3.0, 9.0])}))

        assert len(generated) == 2
        assert sorted(generated.sizes["items"]) == [3, 9]

    def test_a_unit_that_only_some_requests_have_stays_with_them(self) -> None:
        images = np.where(RECORDED.operation == 1, 2.0, np.nan)
        generated = remade(replace(RECORDED, sizes={**RECORDED.sizes, "images": images}))

        is_embed = np.array(generated.operations)[generated.operation] == "embed"
        assert np.array_equal(np.isfinite(generated.sizes["images"]), is_embed)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(2, 400), st.integers(0, 2**16))
    def test_whatever_is_recorded_the_model_keeps_its_size_and_rate(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        traffic = plain_traffic(
            np.cumsum(rng.pareto(1.1, count) + 1e-6) * 10.0 ** rng.integers(-3, 4),
            operation=rng.integers(0, 3, count),
            operations=("a", "b", "c"),
            key=rng.integers(-1, 20, count),
            session=rng.integers(-1, 10, count),
            sizes={"items": np.where(rng.random(count) < 0.2, np.nan, rng.pareto(1.5, count))},
        )

        generated = remade(traffic, seed)

        assert len(generated) == count
        assert generated.cycle_s == pytest.approx(traffic.cycle_s)
        assert (
            np.isfinite(generated.sizes.get("items", np.full(1, np.nan))).sum()
            == np.isfinite(traffic.sizes["items"]).sum()
        )
        assert (generated.key >= 0).sum() == (traffic.key >= 0).sum()


class TestBursts:
    @pytest.mark.parametrize("scale_s", [0.02, 0.3, 3.0])
    def test_clumps_of_any_length_come_back(self, scale_s: float) -> None:
        rng = np.random.default_rng(1)
        centres = rng.random(2000) * 1000
        t_s = np.sort((np.repeat(centres, 5) + rng.random(10_000) * scale_s) % 1000)
        traffic = plain_traffic(t_s)

        generated = remade(traffic)

        for window_s in (scale_s / 2, 2 * scale_s, 10 * scale_s):
            both = [index_of_dispersion(one.t_s, one.cycle_s, window_s) for one in (traffic, generated)]
            assert both[1] == pytest.approx(both[0], rel=0.2)

    def test_poisson_arrivals_stay_poisson(self) -> None:
        generated = remade(steady(50, 1000))

        for window_s in (0.05, 0.5, 1.0, 10.0):
            found = index_of_dispersion(generated.t_s, generated.cycle_s, window_s)
            assert found == pytest.approx(1.0, abs=0.25 if window_s == 10.0 else 0.1)

    def test_arrivals_that_keep_apart_are_not_made_random(self) -> None:
        even = plain_traffic(np.arange(4000) / 20)

        generated = remade(even)

        found = index_of_dispersion(generated.t_s, generated.cycle_s, 0.5)
        assert found is not None
        assert found < 0.25

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(0, 40), min_size=1, max_size=30),
        st.lists(st.tuples(st.floats(-1, 0.999), st.floats(-1, 0.999)), max_size=12),
        st.integers(0, 2**16),
    )
    def test_each_window_gets_as_many_as_it_should(
        self, counts: list[int], halvings: list[tuple[float, float]], seed: int
    ) -> None:
        t_s = cascade(counts, 2.0, halvings, np.random.default_rng(seed))

        assert np.all(np.diff(t_s) >= 0)
        assert window_counts(t_s, 2.0 * len(counts), 2.0).tolist() == counts

    def test_independent_arrivals_share_nothing(self) -> None:
        shares = np.array(fit_halvings(steady(200, 500).t_s, 10.0))

        assert shares[:, 1] == pytest.approx(0, abs=0.1)


class TestGrids:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 300), st.integers(0, 2**16), st.sampled_from(["even", "tail", "steps"]))
    def test_a_grid_has_the_mean_and_the_quantiles(self, count: int, seed: int, kind: str) -> None:
        rng = np.random.default_rng(seed)
        values = {
            "even": rng.random(count),
            "tail": rng.lognormal(0, 1, count),
            "steps": rng.choice([1.0, 5.0, 6.0, 100.0], count),
        }[kind]

        grid = quantile_grid(values, 33)
        drawn = draw_together({"x": grid}, (), count, rng)["x"]

        assert list(grid) == sorted(grid)
        assert grid[0] >= values.min() * (1 - 1e-5)
        assert grid[-1] <= values.max() * (1 + 1e-5)
        if kind != "steps":
            assert drawn.mean() == pytest.approx(values.mean(), rel=0.04)
            assert np.quantile(drawn, 0.5) == pytest.approx(np.quantile(values, 0.5), rel=0.3)

    def test_few_values_are_drawn_as_they_were(self) -> None:
        values = np.array([616.0, 3.0, 8.0, 8.0])

        drawn = draw_together({"x": quantile_grid(values, 33)}, (), 4, np.random.default_rng(0))["x"]

        assert sorted(drawn) == sorted(values)

    @pytest.mark.parametrize("link", [-0.9, -0.3, 0.0, 0.5, 0.99])
    def test_columns_go_together_as_they_did(self, link: float) -> None:
        rng = np.random.default_rng(2)
        first, noise = rng.standard_normal((2, 20_000))
        columns = [np.exp(first), link * first + np.sqrt(1 - link**2) * noise]

        links = rank_links(columns, rng)
        drawn = draw_together(
            {"a": quantile_grid(columns[0], 33), "b": quantile_grid(columns[1], 33)}, links, 20_000, rng
        )

        assert links[0] == pytest.approx(link, abs=0.03)
        assert rank_links(list(drawn.values()), rng)[0] == pytest.approx(link, abs=0.03)

    def test_links_that_cannot_be_together_are_brought_close(self) -> None:
        grids = dict.fromkeys("abc", (0.0, 1.0))

        drawn = draw_together(grids, (0.9, 0.9, -0.9), 1000, np.random.default_rng(0))

        assert all(np.isfinite(column).all() for column in drawn.values())

    def test_a_grid_of_one_point_is_one_value(self) -> None:
        assert at_shares((7.0,), np.array([0.0, 0.5, 1.0])).tolist() == [7, 7, 7]


class TestKeys:
    def test_popularity_and_recency_come_back(self) -> None:
        rng = np.random.default_rng(4)
        key = popular_keys(8000, rng)
        # Every fifth request repeats the one before: recency that popularity does not explain.
        again = np.nonzero(rng.random(8000) < 0.2)[0]
        key[again[again > 0]] = key[again[again > 0] - 1]
        traffic = replace(steady(20, 400), key=key)

        generated = remade(traffic)

        capacities = (1, 4, 40, 200)
        both = [lru_hit_shares(stack_distances(one.key), capacities) for one in (traffic, generated)]
        assert both[1] == pytest.approx(both[0], abs=0.06)
        top = [np.sort(np.bincount(one.key))[::-1][:5] / len(key) for one in (traffic, generated)]
        assert top[1] == pytest.approx(top[0], rel=0.3)
        assert len(set(generated.key)) == len(set(traffic.key))

    def test_keys_that_never_come_again_stay_so(self) -> None:
        generated = remade(replace(steady(10, 100), key=np.arange(1000)))

        assert len(set(generated.key)) == 1000

    def test_requests_without_a_key_stay_without(self) -> None:
        key = np.where(np.arange(1000) % 4 == 0, -1, np.arange(1000) % 7)

        generated = remade(replace(steady(10, 100), key=key))

        assert (generated.key < 0).sum() == 250


class TestSessions:
    def test_a_session_whose_requests_share_a_key_keeps_it(self) -> None:
        traffic = replace(RECORDED, key=RECORDED.session)

        generated = remade(traffic)

        ours, theirs = sessions_of(generated), sessions_of(traffic)
        assert ours is not None
        assert theirs is not None
        assert ours.same_key == pytest.approx(1, abs=0.02)
        assert len(ours.requests) == pytest.approx(len(theirs.requests), rel=0.02)

    def test_sessions_without_keys_keep_their_lengths_and_gaps(self) -> None:
        traffic = replace(RECORDED, key=np.full(len(RECORDED), -1))

        vector = fidelity(traffic, remade(traffic))

        assert {one.ok for one in vector if one.name.startswith("sessions")} <= {True, None}

    def test_requests_without_a_session_stay_without(self) -> None:
        session = np.where(np.arange(1000) % 2 == 0, -1, np.arange(1000) // 10)

        generated = remade(replace(steady(10, 100), session=session))

        assert (generated.session < 0).sum() == pytest.approx(500, abs=40)
