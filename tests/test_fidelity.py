"""The fidelity vector: what is alike is within tolerance, and each way of differing has its own name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_capacity.traffic.fidelity import (
    OTHER,
    Statistic,
    as_json,
    cache_sizes,
    fidelity,
    profile_window_s,
    sender_statistic,
    within_tolerance,
)
from pytest_capacity.traffic.pattern import Traffic, plain_traffic
from tests.traffics import eventful, popular_keys, steady

RECORDED = eventful(3)
RNG = np.random.default_rng(0)


def outside(workload: Traffic, recorded: Traffic = RECORDED) -> set[str]:
    """The groups of statistics that are outside their tolerance."""
    return {one.name.split(":")[0].split(" ")[0] for one in fidelity(recorded, workload) if one.ok is False}


def with_times(traffic: Traffic, t_s: np.typing.NDArray[np.float64]) -> Traffic:
    return replace(traffic, t_s=np.sort(t_s))


def test_a_recording_is_faithful_to_itself() -> None:
    vector = fidelity(RECORDED, RECORDED)

    assert within_tolerance(vector)
    assert {one.ok for one in vector if not one.name.startswith("sender")} == {True}


def test_every_statistic_of_the_definition_is_there() -> None:
    names = [one.name for one in fidelity(RECORDED, RECORDED)]

    for start in (
        "rate: mean", "rate: correlation", "burstiness: dispersion at 1 s", "burstiness: dispersion at 10 s",
        "burstiness: dispersion at 60 s", "gaps", "size items of rank: mean", "size items of rank: p99",
        "size items of rank: KS", "size bytes of embed", "coupling: mean items", "coupling: items with",
        "operations: total variation", "keys: hits of an LRU cache of 4", "keys: growth",
        "sessions: requests", "sessions: seconds", "sessions: share", "sender",
    ):  # fmt: skip
        assert any(name.startswith(start) for name in names), start


def test_what_the_recording_does_not_have_is_not_judged() -> None:
    names = {one.name.split(":")[0] for one in fidelity(steady(), steady(seed=1))}

    assert not names & {"keys", "sessions", "coupling"}


def test_another_rate_is_told() -> None:
    slower = replace(RECORDED, t_s=RECORDED.t_s * 1.05, cycle_s=RECORDED.cycle_s * 1.05)

    assert "rate" in outside(slower)


def test_even_arrivals_are_told_by_rate_bursts_and_gaps() -> None:
    even = with_times(RECORDED, np.arange(len(RECORDED)) * RECORDED.cycle_s / len(RECORDED))

    assert {"rate", "burstiness", "gaps"} <= outside(even)


def test_poisson_arrivals_with_the_recorded_rate_profile_pass_unless_clumped_within() -> None:
    windows = np.floor(RECORDED.t_s / 10)
    spread = with_times(
        RECORDED, np.minimum((windows + RNG.random(len(windows))) * 10, RECORDED.cycle_s - 1e-6)
    )
    clumped = with_times(RECORDED, windows * 10 + np.floor((RECORDED.t_s % 10) / 5) * 5)

    assert not outside(spread) & {"rate", "burstiness", "gaps"}
    assert {"burstiness", "gaps"} <= outside(clumped)


@pytest.mark.parametrize(
    "change", [lambda column: column * 1.1, lambda column: np.full(len(column), column.mean())]
)
def test_other_sizes_are_told(change: object) -> None:
    workload = replace(RECORDED, sizes={unit: change(column) for unit, column in RECORDED.sizes.items()})  # type: ignore[operator]

    assert "size" in outside(workload)


def test_sizes_that_do_not_go_with_the_time_any_more_are_told_as_coupling() -> None:
    size = np.where(np.floor(np.arange(2000) / 40) % 2 == 0, 10.0, 20.0)
    t_s = np.cumsum(np.where(size == 10, 0.1, 0.3))
    recorded = plain_traffic(t_s, sizes={"items": size})

    assert outside(replace(recorded, sizes={"items": RNG.permutation(size)}), recorded) == {"coupling"}


def test_another_mix_of_operations_is_told() -> None:
    flipped = RNG.random(len(RECORDED)) < 0.1

    workload = replace(RECORDED, operation=np.where(flipped, 1, RECORDED.operation))

    assert "operations" in outside(workload)


def test_operations_are_compared_by_name() -> None:
    renamed = replace(RECORDED, operations=("embed", "rank"), operation=1 - RECORDED.operation)

    assert within_tolerance(fidelity(RECORDED, renamed))


def test_operations_that_a_model_lumps_together_are_compared_so() -> None:
    lumped = replace(RECORDED, operations=("rank", OTHER))

    assert within_tolerance(fidelity(RECORDED, lumped))


def test_keys_drawn_otherwise_are_told() -> None:
    uniform = replace(RECORDED, key=RNG.integers(0, 400, len(RECORDED)))
    none = replace(RECORDED, key=np.full(len(RECORDED), -1))

    assert outside(uniform) == {"keys"}
    assert outside(none) == {"keys", "sessions"}


def test_the_order_of_keys_counts() -> None:
    key = np.repeat(np.arange(500), 4)
    recorded = plain_traffic(np.arange(2000.0) / 10, key=key)

    assert outside(replace(recorded, key=RNG.permutation(key)), recorded) == {"keys"}


def test_keys_from_the_same_popularity_are_alike() -> None:
    assert "keys" not in outside(replace(RECORDED, key=popular_keys(len(RECORDED), np.random.default_rng(9))))


def test_sessions_cut_in_two_are_told() -> None:
    halves = RECORDED.session * 2 + (np.arange(len(RECORDED)) % 2)

    assert outside(replace(RECORDED, session=halves)) == {"sessions"}


def test_missing_sessions_are_told() -> None:
    assert outside(replace(RECORDED, session=np.full(len(RECORDED), -1))) == {"sessions"}


def test_few_values_are_not_judged_and_say_so() -> None:
    few = plain_traffic(np.arange(30.0), sizes={"items": np.arange(30.0)})

    vector = fidelity(few, replace(few, sizes={"items": np.arange(30.0) * 2}))

    sizes = [one for one in vector if one.name.startswith("size")]
    assert {one.ok for one in sizes} == {None}
    assert all("fewer than" in one.note for one in sizes)


def test_a_distance_that_chance_alone_makes_is_no_verdict() -> None:
    first, second = steady(2, 100, seed=1), steady(2, 100, seed=2)

    (gaps,) = (one for one in fidelity(first, second) if one.name.startswith("gaps"))

    assert gaps.measure is not None
    assert gaps.measure > gaps.tolerance
    assert gaps.ok is None
    assert "by chance" in gaps.note


def test_the_sender_is_judged_by_its_lateness_over_the_bound() -> None:
    assert sender_statistic(0.001, 0.05).ok
    assert sender_statistic(0.004, 0.05).ok is False
    assert sender_statistic(None, 0.05).ok is None


@pytest.mark.parametrize(
    ("rate_qps", "window_s"), [(100, 10), (0.5, 10), (0.3, 20), (0.1, 50), (0.004, 2000)]
)
def test_windows_of_the_profile_hold_five_requests(rate_qps: float, window_s: float) -> None:
    assert profile_window_s(steady(rate_qps, 500 / rate_qps)) == pytest.approx(window_s)


@pytest.mark.parametrize(("distinct", "sizes"), [(1, [1]), (10, [1, 5]), (839, [8, 84, 420])])
def test_caches_of_three_sizes(distinct: int, sizes: list[int]) -> None:
    assert list(cache_sizes(distinct)) == sizes


def test_the_vector_is_plain_data() -> None:
    statistic = Statistic("rate: mean", 1.0, 1.1, 0.1, 0.02, ok=False)

    assert as_json([statistic]) == [
        {
            "name": "rate: mean", "recorded": 1.0, "workload": 1.1, "measure": 0.1, "tolerance": 0.02,
            "ok": False, "at_most": True, "note": "",
        }
    ]  # fmt: skip
