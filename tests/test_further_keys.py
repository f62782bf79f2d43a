"""Keys of requests beyond their first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.fidelity import fidelity
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.pattern import observe, plain_traffic
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter

KEYS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=20)


def columns(keys: list[list[int]]) -> tuple[np.typing.NDArray[np.int64], FurtherKeys]:
    further = [(row, key) for row, own in enumerate(keys) for key in own[1:]]
    pairs = np.array(further, dtype=np.int32).reshape(-1, 2)
    return np.array([own[0] if own else -1 for own in keys]), FurtherKeys(pairs[:, 0], pairs[:, 1])


@given(KEYS)
def test_a_cache_meets_all_keys_of_a_row_before_those_of_the_next(keys: list[list[int]]) -> None:
    first, further = columns(keys)

    assert further.after(first).tolist() == [key for own in keys for key in own]


@given(KEYS, st.data())
def test_rows_have_their_own_further_keys_however_often_they_come(
    keys: list[list[int]], data: st.DataObject
) -> None:
    _, further = columns(keys)
    rows = data.draw(st.lists(st.integers(0, len(keys) - 1), max_size=30))

    found = further.of(np.array(rows, dtype=np.int64))

    assert found.tolist() == [key for row in rows for key in keys[row][1:]]


def test_traffic_without_further_keys_has_the_first_ones_only() -> None:
    traffic = plain_traffic(np.array([0.0, 1.0, 2.0]), key=np.array([4, -1, 2]))

    assert traffic.keys_of(np.array([0, 1, 2, 0])).tolist() == [4, 2, 4]
    assert traffic.key_count == 5


def test_a_recording_is_compared_by_all_keys_of_its_requests(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.trace.jsonl"
    with TraceWriter(path, TraceHeader(resolution_s=0.001)) as writer:
        for t in range(400):
            items = [f"i{item}" for item in rng.integers(0, 300, 3)]
            writer.write(TraceRow(t / 10, keys=(f"u{rng.integers(0, 40)}", *items)))
    observed = observe(load_recording(path))

    same = {one.name: one for one in fidelity(observed.traffic, observed.traffic)}

    growth = same["keys: growth of distinct ones per request"]
    assert growth.measure == 0
    assert growth.recorded == observed.traffic.key_count / 1600
    assert observed.warnings == ()


@given(KEYS, st.data())
def test_keys_given_to_other_rows_are_those_rows_own(keys: list[list[int]], data: st.DataObject) -> None:
    _, further = columns(keys)
    rows = data.draw(st.lists(st.integers(0, len(keys) - 1), unique=True).map(sorted))
    whose = data.draw(st.permutations(rows))

    given_keys = further.given_to(np.array(rows, dtype=np.int64), np.array(whose, dtype=np.int64))

    found = list(zip(given_keys.row.tolist(), given_keys.key.tolist(), strict=True))
    assert found == [(row, key) for row, own in zip(rows, whose, strict=True) for key in keys[own][1:]]
