"""Recorded traffic from the shell: ``sustain --trace`` and ``search --trace``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pytest_capacity.cli import main
from pytest_capacity.results.schema import load_schema
from tests import servers
from tests.replays import made_rows, without_bodies, write_trace

LENIENT = ("--p50-ms", "20000", "--error-rate", "0.3")
TRACE = "a.trace.jsonl.gz"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / TRACE, made_rows(4.0))


def test_a_rate_of_recorded_traffic_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    with servers.healthy() as server:
        arguments = ["--trace", TRACE, "--qps", "60", *LENIENT, "--min-s", "1", "--budget-s", "6", "--json"]
        code = main(["sustain", server.url, *arguments])

    out, err = capsys.readouterr()
    found = json.loads(out)
    assert code == 0
    Draft202012Validator(load_schema()).validate(found)
    assert (found["trace"]["file"], found["requirement"]["arrivals"]) == (TRACE, "recorded")
    assert set(server.paths()) == {"/rank", "/embed"}
    assert f"at most 60/s; replays {TRACE}; once more as long" in err


def test_without_a_rate_it_is_replayed_as_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    with servers.healthy() as server:
        code = main(["sustain", server.url, "--trace", TRACE, "--duration-s", "2", *LENIENT])

    out, err = capsys.readouterr()
    assert code == 0
    assert f"plan: 2-4 s, 80-160 requests, at most 39.97/s; replays {TRACE} as recorded; p50 <= " in err
    assert out.startswith("PASS  39.97/s held: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sustain", *LENIENT], "--qps is required"),
        (["sustain", "--trace", "nowhere", *LENIENT], "nowhere: No such file or directory"),
        (["sustain", "--trace", "log.trace.jsonl", *LENIENT], "line 2: POST /embed has no body"),
        (["sustain", "--trace", TRACE, "--p99-ms", "50"], "160 requests, and p99 needs 299"),
        (["sustain", "--trace", TRACE, "--arrivals", "poisson", *LENIENT], "--trace and --arrivals exclude"),
        (["sustain", "--trace", TRACE, "--method", "PUT", *LENIENT], "--trace sends requests as recorded"),
        (["sustain", "--qps", "60", "--trace-mode", "compress", *LENIENT], "--trace-mode is given and no"),
        (["sustain", "--qps", "60", "--trace-ticks", "kept", *LENIENT], "--trace-ticks is given and no"),
        (["sustain", "--trace", "w.yaml", "--trace-ticks", "kept", *LENIENT], "has no ticks that could be"),
        (["sustain", "--qps", "60", "--duration-s", "9", *LENIENT], "--duration-s is for a replay"),
        (["search", "--trace", "nowhere", *LENIENT], "nowhere: No such file or directory"),
        (["search", "--trace", "log.trace.jsonl", *LENIENT], "line 2: POST /embed has no body"),
    ],
)
def test_wrong_arguments_exit_with_2_before_any_load(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_trace(Path("log.trace.jsonl"), without_bodies(made_rows(4.0)))
    command, *rest = arguments
    with servers.healthy() as server:
        code = main([command, server.url, *rest])

    assert code == 2
    assert message in capsys.readouterr().err
    assert server.count == 0
