"""Descriptions of servers: what is read, and what is refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.simulate.spec import (
    Cold,
    Neighbour,
    Overload,
    Pause,
    ServerError,
    ServerSpec,
    Spikes,
)

EVERYTHING = """
workers: 2
batch_max: 8
batch_wait_s: 0.005
cost_base_s: 1e-3
cost_item_s: 0.0025
overhead_s: 0.001
size: {lognormal_sigma: 0.5}
queue_max: 100
timeout_s: 2
pause: {every_s: 10, duration_s: 0.05, jitter: 0.1}
spikes: {rate_hz: 0.1, low_s: 0.02, high_s: 5E-2}
neighbour: {on_s: 2, off_s: 20, factor: 1.5}
cold: {factor: 5, requests: 200, start_s: 1.5}
overload: {backlog: 50, factor: 2, recover_s: 3}
"""


def test_every_field_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(EVERYTHING)

    assert ServerSpec.load(path) == ServerSpec(
        workers=2,
        batch_max=8,
        batch_wait_s=0.005,
        cost_base_s=0.001,
        cost_item_s=0.0025,
        overhead_s=0.001,
        lognormal_sigma=0.5,
        queue_max=100,
        timeout_s=2,
        pause=Pause(10, 0.05, 0.1),
        spikes=Spikes(0.1, 0.02, 0.05),
        neighbour=Neighbour(2, 20, 1.5),
        cold=Cold(5, 200, 1.5),
        overload=Overload(50, 2, 3),
    )


def test_what_is_not_said_is_as_the_design_has_it() -> None:
    spec = ServerSpec.of({"cost_item_s": 0.01, "size": [1, 2.5], "queue_max": None})

    assert (spec.workers, spec.batch_max, spec.batch_wait_s, spec.cost_base_s) == (1, 1, 0.0, 0.0)
    assert (spec.overhead_s, spec.timeout_s, spec.queue_max) == (0.0005, 5.0, None)
    assert spec.sizes == (1.0, 2.5)
    assert ServerSpec.of({"cost_base_s": 1, "pause": {"every_s": 2, "duration_s": 1}}).pause == Pause(
        2, 1, 0.0
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"worker": 2}, "'worker' is no field of a server; did you mean workers?"),
        ({"sizes": [1]}, "'sizes' is no field of a server; did you mean size?"),
        ({"xyz": 2}, "'xyz' is no field of a server; known are batch_max, "),
        ({7: 2}, "7 is no field of a server"),
        ({"workers": 0}, "workers=0 must be a whole number of at least 1"),
        ({"workers": True}, "workers=True must be a whole number"),
        ({"batch_max": 2.5}, "batch_max=2.5 must be a whole number"),
        ({"queue_max": 0}, "queue_max=0 must be a whole number of at least 1"),
        ({"cost_base_s": "much"}, "cost_base_s='much' must be a number"),
        ({"cost_base_s": -1}, "cost_base_s=-1 must be at least 0"),
        ({"cost_base_s": math.nan}, "cost_base_s=nan must be a number"),
        ({"cost_base_s": 0}, "cost_base_s and cost_item_s are both 0"),
        ({"cost_base_s": 0, "cost_item_s": 1, "size": [0, 0.0]}, "size holds only 0"),
        ({"timeout_s": 0}, "timeout_s=0 must be positive"),
        ({"size": []}, r"size=\[\] must be {lognormal_sigma: s} or a list of numbers"),
        ({"size": "large"}, "size='large' must be"),
        ({"size": [1, "two"]}, "size='two' must be a number"),
        ({"size": [-1]}, "size=-1 must be at least 0"),
        ({"size": {"sigma": 1}}, "size takes {lognormal_sigma: s} or a list of numbers"),
        ({"size": {"lognormal_sigma": -1}}, "size.lognormal_sigma=-1 must be at least 0"),
        ({"pause": 5}, "pause takes {every_s, duration_s, jitter}, not 5"),
        ({"pause": {"every": 5}}, "pause takes {every_s, duration_s, jitter}, not"),
        ({"pause": {"every_s": 5}}, "pause needs duration_s"),
        ({"pause": {"every_s": 0, "duration_s": 1}}, "pause.every_s=0 must be positive"),
        ({"pause": {"every_s": 1, "duration_s": 1}}, "pause.duration_s must be below pause.every_s"),
        ({"spikes": {"rate_hz": 1}}, "spikes needs high_s, low_s"),
        ({"spikes": {"rate_hz": 1, "low_s": 2, "high_s": 1}}, "spikes.low_s=2 is above spikes.high_s=1"),
        ({"spikes": {"rate_hz": 50, "low_s": 0, "high_s": 1}}, "spikes.rate_hz is too high"),
        ({"neighbour": {"on_s": 1, "off_s": 1, "factor": 0}}, "neighbour.factor=0 must be positive"),
        ({"cold": {"factor": 2}}, "cold needs requests"),
        ({"cost_item_s": 10**400}, "cost_item_s must be at most 1e\\+09"),
        ({"workers": 10**18}, "workers must be at most 1,000,000"),
        ({"size": {"lognormal_sigma": 50}}, "size.lognormal_sigma must be at most 4"),
        ({"pause": {"every_s": 1e-9, "duration_s": 1e-10}}, "pause.every_s=1e-09 must be at least 0.001"),
        ({"pause": {"every_s": 1, "duration_s": 0.1, "jitter": 1e300}}, "pause.jitter must be at most 1,000"),
        (
            {"spikes": {"rate_hz": 1e8, "low_s": 1e-10, "high_s": 1e-9}},
            "spikes.rate_hz must be at most 1,000",
        ),
        (
            {"neighbour": {"on_s": 1e-9, "off_s": 1, "factor": 2}},
            "neighbour.on_s=1e-09 must be at least 0.001",
        ),
        ({"neighbour": {"on_s": 1, "off_s": 1, "factor": math.inf}}, "neighbour.factor=inf must be a number"),
        (
            {"overload": {"backlog": -1, "factor": 2, "recover_s": 0}},
            "overload.backlog=-1 must be at least 0",
        ),
    ],
)
def test_what_makes_no_sense_is_named(fields: dict[Any, Any], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        ServerSpec.of({"cost_base_s": 0.01} | fields)


@pytest.mark.parametrize("text", ["", "- 1", "just words", "5"])
def test_a_file_that_holds_no_mapping_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(text)

    with pytest.raises(ServerError, match=r"server\.yaml: a server is described by a mapping"):
        ServerSpec.load(path)


@pytest.mark.parametrize(
    "text",
    [
        b"a: [1",
        b"workers: \xff",
        b"a: !!python/object/apply:os.getcwd []",
        b"pause: &a {every_s: *a}\ncost_item_s: .01",
        b"size: " + b"[" * 3000,
        b"cost_item_s: 1" + b"0" * 5000,
        b"cost_item_s: 0.01\ncost_item_s: 0.02",
        b"# " + b"x" * 2**20,
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "server.yaml"
    path.write_bytes(text)

    with pytest.raises(ServerError, match=r"server\.yaml: ") as caught:
        ServerSpec.load(path)
    assert "\n" not in str(caught.value)
