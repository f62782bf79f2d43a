"""Workload models of requests with several keys: a user and the items to be ranked, say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.traffic.calibration import calibrate
from pytest_capacity.traffic.fidelity import Statistic, fidelity
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.pattern import Traffic, plain_traffic
from pytest_capacity.traffic.statistics import previous_of
from pytest_capacity.traffic.workload import as_text, write_text
from pytest_capacity.traffic.workload_reading import WorkloadError, from_mapping, parse_workload
from tests.traffics import eventful

CATALOGUE = 1500


def with_items(traffic: Traffic, items: list[list[int]], *, users: bool) -> Traffic:
    """The traffic with these items as keys: behind its own, or alone."""
    further = [own if users else own[1:] for own in items]
    row = np.repeat(np.arange(len(traffic)), [len(own) for own in further]).astype(np.int32)
    beyond = traffic.key_count if users else 0
    key = np.array([one + beyond for own in further for one in own], dtype=np.int32)
    first = traffic.key if users else np.array([own[0] for own in items])
    return replace(traffic, key=first, further_keys=FurtherKeys(row, key))


def popular_items(traffic: Traffic, seed: int) -> list[list[int]]:
    """Different items for each request, as many as its size says, the n-th most popular as 1/n."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, CATALOGUE + 1)
    shares = np.cumsum(popularity / popularity.sum())
    found = []
    for many in np.minimum(traffic.sizes["items"], 60).astype(int).tolist():
        drawn = np.searchsorted(shares, rng.random(8 * many + 40))
        found.append(list(dict.fromkeys(drawn.tolist()))[:many])
    return found


@cache
def recorded_keys(*, users: bool) -> tuple[Traffic, str]:
    """Traffic with items as keys, and the text of its model."""
    recorded = with_items(BASE, ITEMS, users=users)
    return recorded, as_text(calibrate(recorded))


def remade(traffic: Traffic, seed: int = 1) -> Traffic:
    """A cycle from the model of some traffic, as a reader of the model's file has it."""
    return generate(parse_workload(as_text(calibrate(traffic))), seed)


def about_keys(recorded: Traffic, generated: Traffic) -> dict[str, Statistic]:
    return {one.name: one for one in fidelity(recorded, generated) if "keys" in one.name}


BASE = eventful(1, windows=25)
ITEMS = popular_items(BASE, 3)


@pytest.mark.parametrize("users", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_draws_all_keys_as_the_recording_had_them(users: bool, seed: int) -> None:
    recorded, text = recorded_keys(users=users)

    found = about_keys(recorded, generate(parse_workload(text), seed))

    assert {one.ok for one in found.values()} == {True}, found
    assert ("first keys: growth of distinct ones per request" in found) == users
    assert found["keys of each request: mean"].recorded == pytest.approx(
        1 + len(recorded.further_keys) / len(recorded)
    )


def test_a_request_s_keys_go_with_its_size() -> None:
    generated = generate(parse_workload(recorded_keys(users=True)[1]), 1)

    items = np.minimum(generated.sizes["items"], 60)
    keys = np.bincount(generated.further_keys.row, minlength=len(generated))
    assert np.corrcoef(items, keys)[0, 1] > 0.95


def test_users_and_items_stay_two_kinds_of_keys_and_items_alone_one() -> None:
    both, alone = (generate(parse_workload(recorded_keys(users=users)[1]), 1) for users in (True, False))

    assert not set(both.key.tolist()) & set(both.further_keys.key.tolist())
    assert len(set(alone.key.tolist()) & set(alone.further_keys.key.tolist())) > 100


def test_operations_without_further_keys_have_none() -> None:
    is_rank = np.flatnonzero(BASE.operation == 0).tolist()
    ranked = set(is_rank)
    items = [own if row in ranked else [] for row, own in enumerate(ITEMS)]

    generated = remade(with_items(BASE, items, users=True))

    names = np.array(generated.operations)[generated.operation[generated.further_keys.row]]
    assert set(names.tolist()) == {"rank"}


def test_a_model_of_the_first_keys_only_is_outside_its_tolerance() -> None:
    recorded, _ = recorded_keys(users=True)

    found = about_keys(recorded, remade(BASE))

    assert found["keys of each request: mean"].ok is False


def test_new_keys_that_come_together_are_told_to_be_spread_by_the_model() -> None:
    rng = np.random.default_rng(0)
    # Every fifth request asks for ten items that nobody asked for before, the others for popular ones.
    items = [
        [CATALOGUE + 10 * row + one for one in range(10)]
        if row % 5 == 0
        else rng.integers(0, 50, 10).tolist()
        for row in range(len(BASE))
    ]
    recorded = with_items(BASE, items, users=True)

    found = about_keys(recorded, remade(recorded))

    assert found["keys of each request: new ones: KS distance"].ok is False
    assert found["keys: growth of distinct ones per request"].ok


def test_one_key_stays_one_also_where_its_first_request_is_not_the_window_s_first() -> None:
    traffic = replace(BASE, key=np.zeros(len(BASE), dtype=np.int64))

    for seed in range(5):
        assert remade(traffic, seed).key.max() == 0


def test_rows_drawn_from_a_model_name_all_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    write_text(path, recorded_keys(users=True)[1])

    recorded = load_recorded(path, 0)

    further = recorded.traffic.further_keys
    for index in (0, 17):
        row, body = recorded.rows.read(index)
        assert body is None
        own = [int(recorded.traffic.key[index]), *further.key[further.row == index].tolist()]
        assert row.keys == tuple(f"k{key}" for key in own)
        assert "(further keys)" not in row.size


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=5), min_size=2, max_size=60),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_whatever_keys_were_recorded_the_model_draws_as_many_requests(
    keys: list[list[int]], apart: bool, seed: int
) -> None:
    further = [(row, key + 20 * apart) for row, own in enumerate(keys) for key in own[1:]]
    pairs = np.array(further, dtype=np.int32).reshape(-1, 2)
    traffic = plain_traffic(
        np.arange(float(len(keys))),
        key=np.array([own[0] if own else -1 for own in keys]),
        session=np.arange(len(keys)) // 3,
        sizes={"items": np.array([float(len(own)) for own in keys])},
        further_keys=FurtherKeys(pairs[:, 0], pairs[:, 1]),
    )

    generated = remade(traffic, seed)

    assert len(generated) == len(keys)
    has_key = generated.key >= 0
    assert has_key.sum() == sum(bool(own) for own in keys)
    assert has_key[generated.further_keys.row].all()
    assert (np.diff(generated.further_keys.row) >= 0).all()
    assert "(further keys)" not in generated.sizes
    _, key, _ = generated.further_keys.accesses(generated.key)
    assert (previous_of(key) < 0).sum() == len(set(key.tolist()))


MODEL: dict[str, Any] = yaml.safe_load(recorded_keys(users=True)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"further": None}, "further: goes together with the size"),
        ({"keys": None}, "further: there are no first keys"),
        ({"further": {**MODEL["further"], "new_share": 2}}, "further.new_share: 2 must be between 0 and 1"),
        ({"further": {**MODEL["further"], "new_at": None}}, "further.new_at: missing"),
        ({"further": {**MODEL["further"], "new_at": [0.1, 3]}}, "further.new_at: 3 must be between 0 and 1"),
        ({"further": {**MODEL["further"], "colour": 1}}, "further: unknown colour"),
        ({"keeps_size": {"(further keys)": 0.5}}, "keeps_size: no kind has the size"),
        (
            {
                "kinds": [{**one, "sizes": {"(further keys)": [1e9]}, "links": []} for one in MODEL["kinds"]],
                "keeps_size": None,
            },
            "more than 100,000,000 keys in all",
        ),
    ],
)
def test_what_is_wrong_about_further_keys_is_told_with_its_place(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WorkloadError) as caught:
        from_mapping({**MODEL, **changes})

    assert message in str(caught.value)
