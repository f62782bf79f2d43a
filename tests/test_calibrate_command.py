"""``pytest-capacity calibrate``: a trace in, a model and its fidelity out, or nothing at all."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_capacity.cli import main
from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.fidelity import fidelity
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.pattern import Traffic, observe
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter
from pytest_capacity.traffic.workload_reading import read_workload
from tests.traffics import eventful, steady

HEADER = TraceHeader(name="rank-prod", class_="ranking", resolution_s=1e-6)


def write_trace(path: Path, traffic: Traffic, header: TraceHeader = HEADER) -> Path:
    with TraceWriter(path, header) as writer:
        for row in range(len(traffic)):
            writer.write(
                TraceRow(
                    t=float(traffic.t_s[row]),
                    op=traffic.operations[traffic.operation[row]],
                    body={"secret": f"body-of-row-{row}"},
                    size={unit: float(column[row]) for unit, column in traffic.sizes.items()},
                    keys=(f"key-{traffic.key[row]}",) if traffic.key[row] >= 0 else (),
                    session=f"session-{traffic.session[row]}" if traffic.session[row] >= 0 else None,
                )
            )
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trace(tmp_path_factory.mktemp("traces") / "peak.trace.jsonl.gz", eventful(5))


def test_a_trace_becomes_a_small_model_and_a_table(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "workload.yaml"

    assert main(["calibrate", str(trace), "--out", str(out)]) == 0

    said = capsys.readouterr()
    assert "ok   rate: mean" in said.out
    assert "ok   keys: hits of an LRU cache of 4" in said.out
    assert f"all within tolerance; wrote {out} ({out.stat().st_size:,} bytes)" in said.out
    assert not said.err
    assert out.stat().st_size < 40_000


def test_the_model_holds_no_body_key_or_session(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "workload.yaml"
    main(["calibrate", str(trace), "--out", str(out)])

    text = out.read_text()

    for secret in ("body-of", "secret", "key-", "session-"):
        assert secret not in text


def test_what_is_told_is_what_the_model_in_the_file_generates(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "workload.yaml"

    assert main(["calibrate", str(trace), "--out", str(out), "--seed", "3", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    vector = fidelity(observe(load_recording(trace)).traffic, generate(read_workload(out), 3))
    assert document["fidelity"] == json.loads(json.dumps([*map(_plain, vector)]))
    assert document["within_tolerance"] is True
    assert (document["rows"], document["seed"], document["out"]) == (len(eventful(5)), 3, str(out))
    assert document["bytes"] == out.stat().st_size


def _plain(statistic: object) -> dict[str, object]:
    return {name: getattr(statistic, name) for name in statistic.__dataclass_fields__}  # type: ignore[attr-defined]


def test_statistics_outside_their_tolerance_make_exit_code_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Pairs at a fixed distance: no cascade of halves makes those.
    t_s = np.sort(np.concatenate([np.arange(0, 2000, 1.0), np.arange(0, 2000, 1.0) + 0.13]))
    trace = write_trace(tmp_path / "even.trace.jsonl", replace(steady(2, 2000), t_s=t_s))

    assert main(["calibrate", str(trace), "--out", str(tmp_path / "w.yaml")]) == 3

    said = capsys.readouterr().out
    assert "OUT  gaps between arrivals: KS distance" in said
    assert "outside their tolerance; wrote" in said


def test_too_few_values_to_judge_by_are_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "three.trace.jsonl"
    with TraceWriter(trace, HEADER) as writer:
        for at_s in (0.0, 1.0, 1.5):
            writer.write(TraceRow(t=at_s, op="rank"))
    model = tmp_path / "w.yaml"

    assert main(["calibrate", str(trace), "--out", str(model)]) == 3

    said = capsys.readouterr().out
    assert "\n2 within their tolerances, 6 could not be judged (too few values); wrote" in said
    assert main(["calibrate", str(trace), "--out", str(model), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["within_tolerance"], document["not_judged"]) == (False, 5)
    (doubt,) = load_recorded(model, seed=0).doubts
    assert doubt.kind == "workload_not_judged"
    assert "too few values: 5 of 7 statistics could not be judged" in doubt.text


def test_a_few_that_were_not_judged_are_told_and_no_doubt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    trace = tmp_path / "short.trace.jsonl"
    with TraceWriter(trace, HEADER) as writer:
        for at_s in np.sort(rng.random(1200) * 30).tolist():
            writer.write(TraceRow(t=at_s, op="rank"))
    model = tmp_path / "w.yaml"

    assert main(["calibrate", str(trace), "--out", str(model)]) == 0

    assert "could not be judged (their notes say why); wrote" in capsys.readouterr().out
    recorded = load_recorded(model, seed=0)
    assert recorded.doubts == ()
    warnings: Any = recorded.facts["warnings"]
    assert any(note.startswith("not judged: ") and "dispersion at 60 s" in note for note in warnings)


def test_the_same_seed_makes_the_same_file(trace: Path, tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        main(["calibrate", str(trace), "--out", str(tmp_path / name)])

    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_a_coarse_clock_is_spread_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = steady(10, 200)
    trace = write_trace(
        tmp_path / "coarse.trace.jsonl",
        replace(traffic, t_s=np.floor(traffic.t_s)),
        TraceHeader(resolution_s=1.0, clock="completion", sampling=0.1, prefix_block=512),
    )

    main(["calibrate", str(trace), "--out", str(tmp_path / "w.yaml"), "--json"])

    document = json.loads(capsys.readouterr().out)
    assert (document["spread_within_s"], document["clock"], document["sampling"]) == (1.0, "completion", 0.1)
    assert [warning.split(":")[0] for warning in document["warnings"]] == [
        "the clock's tick is 1 s",
        "times are those of completion",
        "10 % of the traffic was recorded",
        "prefixes of prompts are not modelled",
    ]
    workload = read_workload(tmp_path / "w.yaml")
    assert workload.tick_s == 1.0
    unknown = "not judged: rate: correlation of counts per 10 s, burstiness: dispersion at 60 s"
    assert list(workload.notes) == [*document["warnings"], unknown]


BAD = {
    "empty": (b"", "empty"),
    "no header": (b'{"t": 1}\n', "line 1: no trace"),
    "no rows": (b'{"pytest_capacity_trace": 1}\n', "no rows"),
    "one row": (b'{"pytest_capacity_trace": 1}\n{"t": 1}\n', "two arrivals or more, at different times"),
    "one moment": (b'{"pytest_capacity_trace": 1}\n' + b'{"t": 1}\n' * 9, "at different times"),
    "one moment of many": (
        b'{"pytest_capacity_trace": 1, "resolution_s": 1e-6}\n' + b'{"t": 1}\n' * 99,
        "two arrivals or more, at different times",
    ),
    "negative": (b'{"pytest_capacity_trace": 1}\n{"t": -1}\n', "line 2: t must be"),
    "unsorted": (b'{"pytest_capacity_trace": 1}\n{"t": 2}\n{"t": 1}\n', "line 3: rows out of order"),
    "binary": (b'{"pytest_capacity_trace": 1}\n\x00\x01\n', "line 2: not text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_told_with_its_line_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = BAD[name]
    trace, out = tmp_path / "bad.trace.jsonl", tmp_path / "workload.yaml"
    trace.write_bytes(data)
    out.write_text("before")

    assert main(["calibrate", str(trace), "--out", str(out)]) == 2

    said = capsys.readouterr()
    assert str(trace) in said.err
    assert message in said.err
    assert not said.out
    assert out.read_text() == "before"
    assert {one.name for one in tmp_path.iterdir()} == {trace.name, out.name}


def test_a_truncated_trace_is_told(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.trace.jsonl.gz"
    cut.write_bytes(trace.read_bytes()[:-200])

    assert main(["calibrate", str(cut), "--out", str(tmp_path / "w.yaml")]) == 2
    assert "gzip" in capsys.readouterr().err
    assert not (tmp_path / "w.yaml").exists()


def test_a_place_that_cannot_be_written_is_told(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert main(["calibrate", str(trace), "--out", str(tmp_path / "file" / "w.yaml")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_negative_seed_is_refused(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(trace), "--out", str(tmp_path / "w.yaml"), "--seed", "-1"]) == 2
    assert "--seed -1 must be 0 or more" in capsys.readouterr().err


def test_gzip_by_suffix_is_read(trace: Path) -> None:
    assert gzip.decompress(trace.read_bytes()).startswith(b'{"pytest_capacity_trace"')


@pytest.mark.parametrize(("how", "tick_s"), [("spread", 1.0), ("kept", None)])
def test_a_coarse_clock_s_ticks_are_spread_unless_told_otherwise(
    how: str, tick_s: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = steady(rate_qps=20.0, duration_s=60.0)
    whole = replace(whole, t_s=np.floor(whole.t_s))
    trace = write_trace(tmp_path / "a.trace.jsonl", whole, replace(HEADER, resolution_s=1.0))
    out = tmp_path / "w.yaml"

    main(["calibrate", str(trace), "--out", str(out), "--trace-ticks", how, "--json"])

    assert json.loads(capsys.readouterr().out)["spread_within_s"] == tick_s
    assert read_workload(out).tick_s == tick_s
