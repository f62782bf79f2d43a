"""Workload models as files: what is written is read again, what is wrong is told with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.traffic.calibration import calibrate
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.workload import as_mapping, as_text, write_text
from pytest_capacity.traffic.workload_reading import (
    WorkloadError,
    from_mapping,
    parse_workload,
    read_workload,
)
from tests.traffics import eventful, steady

MODEL = calibrate(eventful(), name="rank-prod", class_="ranking", tick_s=0.01, notes=("sampled",))
TEXT = as_text(MODEL)
KEYS = yaml.safe_load(TEXT)["keys"]
SHORT_TEXT = as_text(calibrate(eventful(windows=5)))


def changed(*path: str | int, to: object) -> dict[str, Any]:
    """The model as plain data with one field changed, or taken out where ``to`` is ``...``."""
    document: Any = yaml.safe_load(TEXT)
    place = document
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return document  # type: ignore[no-any-return]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "workload.yaml", TEXT)

    assert read_workload(tmp_path / "deep" / "workload.yaml") == MODEL


def test_a_model_without_sizes_keys_and_sessions_is_read_again() -> None:
    plain = calibrate(steady())

    assert parse_workload(as_text(plain)) == plain


def test_an_older_model_lies_there_whole_until_the_new_one_does(tmp_path: Path) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text("before")
    path.chmod(0o400)

    write_text(path, TEXT)

    assert path.read_text() == TEXT
    assert [one.name for one in tmp_path.iterdir()] == ["workload.yaml"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the document: must be a mapping"),
        ({}, "no workload model: it has no 'pytest_capacity_workload'"),
        (changed("pytest_capacity_workload", to=2), "pytest_capacity_workload 2: this version reads 1 only"),
        (changed("cycle_s", to=...), "cycle_s: missing"),
        (changed("cycle_s", to=-1.0), "cycle_s: -1.0 must be positive"),
        (changed("cycle_s", to=float("nan")), "cycle_s: nan must be a finite number"),
        (changed("cycle_s", to="long"), "cycle_s: 'long' must be a finite number"),
        (changed("window_s", to=True), "window_s: True must be a finite number"),
        (changed("colour", to="red"), "the document: unknown colour"),
        (changed("kinds", to=[]), "0 requests in all"),
        (changed("kinds", to={}), "kinds: must be a list"),
        (changed("kinds", 0, "operation", to=7), r"kinds\[0\].operation: 7 must be a text"),
        (changed("kinds", 0, "state", to="old"), r"kinds\[0\].state: 'old' must be one of none, new, again"),
        (
            changed("kinds", 1, "arrivals", to=[1, 2]),
            r"kinds\[1\].arrivals: 2 windows; cycle_s over window_s",
        ),
        (changed("kinds", 1, "arrivals", 3, to=-1), r"kinds\[1\].arrivals\[3\]: -1 must be between 0 and"),
        (changed("kinds", 1, "arrivals", 3, to=0.5), r"arrivals\[3\]: 0.5 must be a whole number"),
        (changed("kinds", 0, "arrivals", 3, to=10_000_000), "requests in all; 2 to 10,000,000 are possible"),
        (changed("kinds", 0, "links", to=[]), r"kinds\[0\].links: one for each pair of sizes"),
        (changed("kinds", 0, "links", to=[2]), r"kinds\[0\].links\[0\]: 2 must be between -1 and 1"),
        (changed("kinds", 0, "sizes", "items", to=[2, 1]), r"kinds\[0\].sizes.items: quantiles must ascend"),
        (changed("kinds", 0, "sizes", "items", to=[]), r"kinds\[0\].sizes.items: quantiles must ascend, one"),
        (
            changed("kinds", 0, "sizes", "items", to=[-1]),
            r"kinds\[0\].sizes.items\[0\]: -1 must be 0 or more",
        ),
        (changed("halvings", 0, to=[0.5]), r"halvings\[0\]: one share for few and one for many"),
        (changed("halvings", to=[[0.1, 0.1]] * 65), "halvings: 64 at most"),
        (changed("keys", "classes", to=[]), "keys: one class, and one recent key, at least"),
        (changed("keys", "classes", 0, "new_at", to=...), r"keys.classes\[0\]: quantiles are missing"),
        (changed("keys", to={**KEYS, "recent_share": 0.5, "recent_depth": []}), "keys.recent_depth: quant"),
        (
            changed("keys", to={**KEYS, "recent_share": 0.5, "recent_depth": None}),
            "keys.recent_depth: missing",
        ),
        (changed("keeps_size", to={"seats": 0.5}), "keeps_size: no kind has the size seats"),
        (changed("keeps_size", to={"items": 1.5}), "keeps_size.items: 1.5 must be between -1 and 1"),
        (changed("sessions", "starts", to=[1, 0]), "sessions.starts: one share for each of none, new, again"),
        (changed("sessions", "later", 0, to=1.5), r"sessions.later\[0\]: 1.5 must be between 0 and 1"),
        (changed("sessions", "gaps_s", to=[]), "sessions: requests and gaps_s need as many parts"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(document: object, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        from_mapping(document)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the document: must be a mapping"),
        (b"a: [1, 2", "line 1: not YAML"),
        (b"a: 1\nb: {c\n", "line 3: not YAML"),
        (b"\x00\x01", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"!!python/object/apply:os.getcwd []", "line 1: not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"a" * (5 * 2**20), "larger than 4 MiB"),
    ],
)
def test_what_is_no_model_is_told_with_its_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "workload.yaml"
    path.write_bytes(data)

    with pytest.raises(WorkloadError, match=message) as caught:
        read_workload(path)

    assert str(caught.value).startswith(f"{path}: ")


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=3), st.just([])
)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_field_of_another_kind_gets_through_unless_it_still_makes_sense(data: st.DataObject) -> None:
    document: Any = yaml.safe_load(SHORT_TEXT)
    place, steps = document, 0
    while isinstance(place, dict | list) and place:
        step = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        steps += 1
        if not isinstance(place[step], dict | list) or data.draw(st.integers(0, 3)) == 0:
            place[step] = data.draw(LEAVES)
            break
        place = place[step]

    try:
        model = from_mapping(document)
    except WorkloadError:
        return

    traffic = generate(model, 0)
    assert len(traffic) == model.requests
    assert np.all(np.diff(traffic.t_s) >= 0)


def test_a_model_as_plain_data_holds_nothing_that_json_cannot() -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for one in value.values():
                check(one)
        elif isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert value is None or type(value) in {str, int, float, bool}, type(value)

    check(as_mapping(MODEL))


def test_the_function_under_test_is_the_safe_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Callable[[], None]:
        raise AssertionError("an unsafe loader was used")

    monkeypatch.setattr(yaml, "unsafe_load", refuse)
    monkeypatch.setattr(yaml, "full_load", refuse)

    assert parse_workload(TEXT) == MODEL
