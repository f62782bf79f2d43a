"""A record is valid, finite, small and without secrets, whatever it is made of."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jsonschema
import numpy as np
import pytest

from pytest_capacity.protocols import Health, Samples
from pytest_capacity.results import shapes
from pytest_capacity.results.record import (
    Measurement,
    Record,
    breach_row,
    generator_row,
    json_text,
    make_record,
    summary_of,
)
from pytest_capacity.results.schema import SCHEMA_VERSION, load_schema, own_words
from pytest_capacity.results.shapes import Capacity
from pytest_capacity.results.summary import deciding, found_text, name_of_test, preflight_text
from pytest_capacity.slo import Bound, Breach
from pytest_capacity.stats.digest import digest_of
from pytest_capacity.stats.series import Series, SeriesColumns, series_of
from tests import records

EXAMPLES: list[Callable[[], Record]] = [
    records.passed_record,
    records.failed_record,
    records.inconclusive_record,
    records.preflight_record,
    records.interrupted_record,
]
VALIDATOR = jsonschema.Draft202012Validator(load_schema())
CAPACITY: Capacity = {
    "capacity_qps": 152.0,
    "ci_low_qps": 141.0,
    "ci_high_qps": 163.0,
    "condition_number": 0.04,
    "status": "converged",
    "load_s": 118.0,
    "requests": 16_000,
    "calm_qps": 155.0,
    "saturation_qps": 190.0,
    "cold_factor": None,
    "overloaded_qps": None,
}


def made(*measurements: Measurement, **other: Any) -> Record:
    """A record of the example's parts with others in their place."""
    parts: dict[str, Any] = {
        "nodeid": records.NODEID,
        "verdict": "PASS",
        "requirement": records.requirement(),
        "measurements": measurements,
        "generator": records.generator(),
        "environment": records.environment(),
        "versions": records.versions(),
    }
    return make_record(**{**parts, **other})


def stored_bytes(record: Record) -> int:
    return len(json_text(record).encode())


def test_the_schema_is_a_schema_and_ships_with_the_package() -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())
    assert load_schema()["properties"]["schema"]["const"] == SCHEMA_VERSION
    assert files("pytest_capacity.results").joinpath("record.schema.json").is_file()
    assert {"PASS", "nodeid", "p99_ms"} <= own_words()


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_is_valid_when_read_back(example: Callable[[], Record]) -> None:
    record = example()

    VALIDATOR.validate(json.loads(json_text(record)))
    assert json.loads(json_text(record)) == record


def test_a_search_s_capacity_is_valid() -> None:
    record = made(capacity=CAPACITY, requirement=records.requirement(None), verdict="MEASURED")

    VALIDATOR.validate(record)


@pytest.mark.parametrize(
    ("shape", "where"),
    [
        (shapes.Record, ()),
        (shapes.BreachRow, ("$defs", "breach")),
        (shapes.DoubtRow, ("$defs", "doubt")),
        (shapes.Requirement, ("$defs", "requirement")),
        (shapes.Capacity, ("$defs", "capacity")),
        (shapes.BoundRow, ("$defs", "bound")),
        (shapes.Latency, ("$defs", "latency")),
        (shapes.Digest, ("$defs", "digest")),
        (shapes.PreflightRow, ("$defs", "preflight")),
        (shapes.Measurement, ("$defs", "measurement")),
        (shapes.ProbeRow, ("$defs", "probe")),
        (shapes.Generator, ("$defs", "generator")),
        (shapes.Environment, ("$defs", "environment")),
        (shapes.Commit, ("$defs", "commit")),
        (shapes.Versions, ("$defs", "versions")),
        (shapes.Model, ("$defs", "model")),
        (Series, ("$defs", "series")),
        (SeriesColumns, ("$defs", "series", "properties", "columns")),
    ],
)
def test_types_and_schema_name_the_same_keys(shape: Any, where: tuple[str, ...]) -> None:
    node = load_schema()
    for key in where:
        node = node[key]

    assert list(node["properties"]) == list(shape.__annotations__)
    assert node["required"] == list(node["properties"])
    assert node["additionalProperties"] is False


@pytest.mark.parametrize(
    ("fixed", "where"),
    [
        (shapes.VerdictName, ("bound", "verdict")),
        (shapes.Kind, ("measurement", "kind")),
        (shapes.State, ("measurement", "state")),
        (shapes.Source, ("requirement", "source")),
    ],
)
def test_types_and_schema_name_the_same_values(fixed: Any, where: tuple[str, str]) -> None:
    definition, key = where

    assert load_schema()["$defs"][definition]["properties"][key]["enum"] == list(typing.get_args(fixed))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: r.pop("nodeid"),
        lambda r: r.update(more=1),
        lambda r: r.update(schema=2),
        lambda r: r.update(verdict="MAYBE"),
        lambda r: r.update(attempt=0),
        lambda r: r.update(requirement=None),
        lambda r: r["requirement"]["slo"].update(p99=50),
        lambda r: r["requirement"].update(source="guess"),
        lambda r: r["breaches"][0].update(bad_share=31),
        lambda r: r["breaches"][0].pop("text"),
        lambda r: r["measurements"][0].update(state="done"),
        lambda r: r["measurements"][0].update(requests=1.5),
        lambda r: r["measurements"][0]["status_counts"].update(ok=1),
        lambda r: r["measurements"][0]["latency_ms"].update(p42=1),
        lambda r: r["measurements"][0]["digest"]["centroids"].append([1]),
        lambda r: r["measurements"][0]["digest"].update(unit="s"),
        lambda r: r["measurements"][0]["series"]["columns"].update(extra=[]),
        lambda r: r["measurements"][0]["notes"].append(7),
        lambda r: r["probes"][0].update(kind="ajar"),
        lambda r: r["generator"].update(hostname="x"),
        lambda r: r["environment"].update(started_at="yesterday"),
        lambda r: r["commit"].update(id="HEAD"),
        lambda r: r["model"].update(weights="x"),
    ],
)
def test_the_schema_refuses_what_is_wrong(spoil: Callable[[Any], object]) -> None:
    record = json.loads(json_text(records.failed_record()))
    VALIDATOR.validate(record)

    spoil(record)

    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(record)


def test_infinite_and_unknown_figures_become_null_and_numpy_s_become_plain() -> None:
    broken: Any = records.measurement()
    broken["achieved_qps"] = math.nan
    broken["latency_ms"] = {**broken["latency_ms"], "p99": math.inf, "max": np.float64(91.123456789)}
    broken["outcomes"] = {"good": np.int64(4200)}
    broken["target"] = {"tuple": (1, 2), "array": np.array([1.5, np.inf]), "path": files("tests"), 7: None}

    record = made(broken, verdict="PASS")

    (kept,) = record["measurements"]
    assert kept["achieved_qps"] is None
    assert kept["latency_ms"]["p99"] is None
    assert kept["latency_ms"]["max"] == 91.12346
    assert type(kept["outcomes"]["good"]) is int
    assert kept["target"] == {"tuple": [1, 2], "array": [1.5, None], "path": str(files("tests")), "7": None}
    VALIDATOR.validate(json.loads(json_text(record)))


def long_run() -> Measurement:
    """An hour at 1,000 requests a second."""
    rng = np.random.default_rng(0)
    count = 3_600_000
    intended = np.sort(rng.uniform(0, 3600, count))
    latency_s = rng.lognormal(-4, 0.5, count)
    samples = Samples(
        row=np.arange(count),
        intended_s=intended,
        sent_s=intended,
        first_byte_s=intended + latency_s,
        done_s=intended + latency_s,
        outcome=np.zeros(count, dtype=np.uint8),
        status=np.full(count, 200, dtype=np.uint16),
        operation=np.zeros(count, dtype=np.uint16),
        bytes_received=np.zeros(count, dtype=np.int64),
    )
    centroids = digest_of(latency_s * 1000)
    return {
        **records.measurement(),
        "digest": {"unit": "ms", "count": count, "centroids": centroids},
        "series": series_of(samples, late_after_ms=50),
        "notes": [f"note {i}: {'something happened ' * 10}" for i in range(300)],
    }


def test_an_hour_with_500_probes_and_many_notes_stays_small() -> None:
    probes = [records.probe(number) for number in range(500)]
    notes = tuple(f"the loop stood still for {i} ms" for i in range(2000))

    record = made(long_run(), probes=probes, generator=records.generator(notes=notes))

    VALIDATOR.validate(json.loads(json_text(record)))
    assert stored_bytes(record) < 100_000
    assert len(record["probes"]) == 200
    assert (record["probes"][0]["id"], record["probes"][-1]["id"]) == (0, 499)
    assert record["generator"]["notes"][-1] == (
        "shortened to keep the record small: 300 of 500 probes left out; 1970 of 2000 notes left out"
    )
    (kept,) = record["measurements"]
    assert kept["notes"][-1] == "shortened to keep the record small: 270 of 300 notes left out"
    assert kept["series"] is not None
    assert len(kept["series"]["columns"]["t_s"]) == 61
    assert sum(kept["series"]["columns"]["planned"]) == 3_600_000


@pytest.mark.parametrize("filler", ["\x00", "\U0001f600", '"\\', "\udcff"])
def test_nothing_makes_a_record_large(filler: str) -> None:
    """Every text, list and map is as large as a hostile server or a strange test could make it."""
    text = filler * 600
    many = {f"{filler}{i}": [text] * 35 for i in range(8)}
    huge: Any = {
        **records.measurement(),
        "target": {"deep": many, **many},
        "stop_reason": text,
        "bounds": [{**records.latency_bound(), "label": text}] * 40,
        "outcomes": {f"{filler}{i}": i for i in range(500)},
        "status_counts": {str(i): i for i in range(500)},
        "examples": {f"{text}{i}": text for i in range(50)},
        "digest": {"unit": "ms", "count": 9999, "centroids": [[i / 7, 1.0] for i in range(9999)]},
        "preflight": [{"operation": text, "status": 500, "latency_ms": 1.0, "text": text}] * 40,
        "notes": [text] * 40,
    }
    breach = breach_row(Breach(Bound("p99_ms", 0.01, 50.0), 0.5, 0.4, 0.6, math.inf, 60, math.inf))
    slos = {"operations": {f"{i}{text}": {"p99_ms": 50.0, "error_rate": 0.01} for i in range(500)}}
    huge["slo"] = slos

    record = made(
        *[records.measurement()] * 16,
        *[huge] * 5,
        nodeid=f"tests/test_x.py::test_y[{text}]",
        verdict="FAIL",
        breaches=[{**breach, "text": text}] * 200,
        doubts=[{"kind": text, "text": text, "remedy": text}] * 200,
        probes=[{**records.probe(i, i % 21), "role": text} for i in range(2000)],
        generator={**records.generator(), "engine": text, "notes": [text] * 500},
        environment={**records.environment(), "overrides": many, "cpu": text},
        trace={
            **records.trace_row(),
            "file": text,
            "name": text,
            "source": text,
            "warnings": [text] * 500,
            "fidelity": {"judged": 500, "outside": 500, "outside_names": [text] * 500},
        },
        requirement={**records.requirement(), "slo": slos},
        model={"name": text, "class": text, "size": text},
    )

    VALIDATOR.validate(json.loads(json_text(record)))
    assert stored_bytes(record) < 200_000
    assert all(probe["measurement"] < len(record["measurements"]) for probe in record["probes"])
    assert sum(record["measurements"][-1]["status_counts"].values()) == sum(range(500))


def test_a_coarser_series_loses_no_request() -> None:
    big: Any = {**records.measurement(), "series": records.series(119), "notes": ["x" * 490] * 30}
    big["target"] = {f"k{i}": "y" * 490 for i in range(30)}

    record = made(*[big] * 12, verdict="PASS")

    (kept, *_) = record["measurements"]
    assert kept["series"] is not None
    columns = kept["series"]["columns"]
    assert kept["series"]["bin_s"] > 1
    assert sum(columns["planned"]) == 119 * 200
    assert columns["p99_ms"][-1] is None
    assert columns["p99_ms"][0] == 71.0
    assert "bins joined" in kept["notes"][-1]


def test_long_node_ids_that_begin_alike_stay_apart() -> None:
    one, other = (made(nodeid=f"t.py::t[{'a' * 5000}{end}]")["nodeid"] for end in "xy")

    assert one != other
    assert len(one) < 1100


def test_secrets_are_masked_before_texts_are_cut() -> None:
    secret = "s3cr3t-" * 6

    record = made(generator=records.generator(notes=("x" * 480 + secret,)), secrets=[secret])

    assert "s3cr3t" not in json_text(record)


def test_a_breach_with_an_infinite_quantile_has_none() -> None:
    row = breach_row(Breach(Bound("p99_ms", 0.01, 50.0), 0.5, 0.4, 0.6, math.inf, 60, math.inf))

    assert (row["measured_ms"], row["low_ms"], row["high_ms"]) == (None, 60, None)
    assert (row["bound"], row["label"], row["margin"]) == ("p99_ms", "p99", 50)


def test_the_generator_s_health_is_told_in_milliseconds() -> None:
    health = Health(
        0.0001, 0.002, 0.03, 4, 100, 0.5, 1.5, 20.0, 2, ("a note",), connection_waits=3, late_share=0.25
    )

    row = generator_row(
        health, engine="aiohttp", arrivals="poisson", seed=1, offered_qps=200, achieved_qps=199.5
    )

    assert row == {
        "engine": "aiohttp",
        "arrivals": "poisson",
        "seed": 1,
        "max_in_flight": 100,
        "late_p50_ms": pytest.approx(0.1),
        "late_p99_ms": 2,
        "late_max_ms": 30,
        "offered_qps": 200,
        "achieved_qps": 199.5,
        "not_sent": 4,
        "loop_stall_ms": 500,
        "cpu_s": 1.5,
        "wall_s": 20,
        "gc_collections": 2,
        "workers": 0,
        "connection_waits": 3,
        "late_share": 0.25,
        "spin_s": 0.0,
        "throttled_s": 0.0,
        "steal_share": 0.0,
        "foreign_share": 0.0,
        "notes": ["a note"],
    }


def test_json_holds_no_nan_and_keeps_columns_on_one_line() -> None:
    assert json_text({"a": [1, 2], "b": {"c": [[1, 2]]}, "d": [{"e": 1}, {"e": {}}], "f": {}}) == (
        '{\n "a": [1, 2],\n "b": {\n  "c": [[1, 2]]\n },\n "d": [\n  {"e": 1},\n  {"e": {}}\n ],\n "f": {}\n}'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": [math.inf]})


@pytest.mark.parametrize(
    ("example", "headline", "remedy"),
    [
        (records.passed_record, "", ""),
        (
            records.failed_record,
            "p99 > 50 ms at 200/s: 3.1 % of requests late (2.4-3.9), 1 % allowed",
            "",
        ),
        (
            records.inconclusive_record,
            "the load generator was late: p99 38 ms behind schedule, 1 ms allowed (2 % of the 50 ms bound)",
            "a quieter runner, --capacity-workers=2, or a lower rate",
        ),
        (
            records.preflight_record,
            "422 from POST /rank: field 'items' required. No load was sent.",
            "",
        ),
        (records.interrupted_record, "interrupted after 21 s of load; no verdict", ""),
    ],
)
def test_a_summary_tells_the_reason(example: Callable[[], Record], headline: str, remedy: str) -> None:
    record = example()

    row = summary_of(record, artifact="x.json")

    assert json.loads(json.dumps(row)) == row
    assert (row["verdict"], row["headline"], row["remedy"]) == (record["verdict"], headline, remedy)
    assert (row["test"], row["asked_qps"], row["artifact"]) == ("test_sustains_200_per_second", 200, "x.json")


def test_a_summary_s_figures_are_the_deciding_measurement_s() -> None:
    failed = records.measurement("FAIL", (records.error_bound("FAIL", 0.02),))
    record = made(records.measurement(), failed, records.measurement(), verdict="FAIL", capacity=CAPACITY)

    row = summary_of(record)

    assert deciding(record) == record["measurements"][1]
    assert (row["error_rate"], row["seconds"], row["p50_ms"], row["p99_ms"]) == (0.02, 63, 18, 71)
    assert (row["found_qps"], row["found_low_qps"], row["found_high_qps"]) == (152, 141, 163)
    assert row["headline"] == ("capacity 152/s (90 % interval 141-163), converged; 200/s required")


def test_without_a_bound_the_error_rate_is_that_of_all_outcomes() -> None:
    outcomes = {"good": 90, "timeout": 6, "late_unanswered": 4, "cancelled": 50}
    interrupted = records.measurement(None, (), state="interrupted", outcomes=outcomes)

    assert summary_of(made(interrupted, verdict=None))["error_rate"] == 0.06


def test_a_summary_of_nothing_measured_is_empty() -> None:
    row = summary_of(made(verdict=None))

    assert (row["p50_ms"], row["error_rate"], row["seconds"]) == (None, None, 0)
    assert row["headline"] == "interrupted after 0 s of load; no verdict"


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/test_a.py::test_x", "test_x"),
        ("tests/test_a.py::TestA::test_x[a::b-1]", "test_x[a::b-1]"),
        ("search-20261120", "search-20261120"),
    ],
)
def test_a_test_is_called_by_its_own_name(nodeid: str, name: str) -> None:
    assert name_of_test(nodeid) == name


def test_several_bad_operations_are_counted_and_the_assurance_is_given_once() -> None:
    bad = records.preflight_measurement("no reply from rank: refused. No load was sent.", None)
    more: Any = {**bad, "preflight": bad["preflight"] * 3}
    silent: Any = {**bad, "preflight": [], "stop_reason": "the name does not resolve"}

    assert preflight_text(bad) == "no reply from rank: refused. No load was sent."
    assert preflight_text(silent) == "the name does not resolve. No load was sent."
    assert "2 more operations" in preflight_text(more)
    assert preflight_text(more).count("No load was sent") == 1


def test_a_search_that_found_nothing_says_so() -> None:
    nothing: Capacity = {**CAPACITY, "capacity_qps": None, "status": "unattainable"}

    assert found_text(made(capacity=nothing)) == "no capacity found (unattainable)"
    assert found_text(made()) == ""
