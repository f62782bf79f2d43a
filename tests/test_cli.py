"""The shell's door: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pytest_capacity import __version__
from pytest_capacity.cli import main
from pytest_capacity.results.schema import load_schema
from tests import servers

QUICK = ("--qps", "60", "--p50-ms", "20000", "--error-rate", "0.3", "--min-s", "1", "--budget-s", "6")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_pass_is_said_in_words_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with servers.healthy() as server:
        code = main(["sustain", server.url + "/rank", *QUICK])

    out, err = capsys.readouterr()
    assert code == 0
    assert out.startswith("PASS  60/s held: ")
    assert (
        "plan: 3-6 s, 180-360 requests, at most 60/s; once more as long where undecided; p50 <= 20000 ms"
        in err
    )
    (path,) = Path(".capacity").glob("sustain-*.json")
    assert str(path) in out


def test_json_is_all_that_stands_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    Path("body.json").write_text('{"items": [1]}')
    with servers.healthy() as server:
        code = main(["sustain", server.url, *QUICK, "--json", "--json-body", "body.json"])

    record = json.loads(capsys.readouterr().out)
    assert code == 0
    Draft202012Validator(load_schema()).validate(record)
    assert record["requirement"]["source"] == "command line"
    assert server.requests[-1].method == "POST"
    assert json.loads(server.requests[-1].body) == {"items": [1]}


def test_a_failed_preflight_exits_with_1_and_says_that_no_load_was_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with servers.answering(500, b"boom") as server:
        code = main(["sustain", server.url + "/rank", *QUICK])

    assert code == 1
    assert capsys.readouterr().out.startswith("FAIL  500 from GET /rank: boom. No load was sent.")
    assert server.count == 1


def test_what_the_budget_cannot_decide_exits_with_3() -> None:
    with servers.alternating(500) as server:
        code = main(
            ["sustain", server.url, "--qps", "30", "--error-rate", "0.5", "--min-s", "1", "--budget-s", "4"]
        )

    assert code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qps", "0", "--p99-ms", "50"], "qps=0 must be positive"),
        (["--qps", "60", "--p99-ms", "-5"], "p99_ms=-5.0 must be a positive number"),
        (["--qps", "60"], "an SLO needs at least one bound"),
        (["--qps", "5", "--p99-ms", "50"], "p99 at 5/s needs 299 requests = 60 s"),
        (["--qps", "60", "--p99-ms", "50", "--json-body", "nowhere.json"], "nowhere.json"),
        (["--qps", "60", "--p99-ms", "50", "--header", "secret"], "--header must be 'Name: value'"),
        (["--qps", "60", "--p99-ms", "50", "--bearer-env", "UNSET_HERE"], "variable UNSET_HERE is not set"),
    ],
)
def test_wrong_arguments_exit_with_2_before_any_load(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with servers.healthy() as server:
        code = main(["sustain", server.url, *arguments])

    assert code == 2
    assert message in capsys.readouterr().err
    assert server.count == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "an SLO needs at least one bound"),
        (["--p99-ms", "50", "--tolerance", "2"], "tolerance=2 must be a share of the capacity"),
        (["--p99-ms", "50", "--allow", "budgt"], "allow='budgt' is none of"),
        (["--p99-ms", "50", "--budget-s", "3"], "budget_s=3 is too short for a search: use 10 or more"),
        (["--p99-ms", "50", "--require-qps", "90", "--max-qps", "50"], "require_qps=90 is above the highest"),
        (["--p99-ms", "50", "--min-qps", "90", "--max-qps", "50"], "min_qps=90"),
        (["--p99-ms", "50", "--budget-s", "nan"], "budget_s=nan"),
    ],
)
def test_a_search_that_cannot_be_made_exits_with_2_before_any_load(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with servers.healthy() as server:
        code = main(["search", server.url, *arguments])

    assert code == 2
    assert message in capsys.readouterr().err
    assert server.count == 0


def test_a_url_that_is_none_is_told_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sustain", "user:pa55word@host/rank", *QUICK]) == 2

    err = capsys.readouterr().err
    assert "needs a scheme" in err
    assert "pa55word" not in err


def test_another_host_needs_permission(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sustain", "http://192.0.2.1/", *QUICK]) == 2
    assert "192.0.2.1 is not this machine" in capsys.readouterr().err


def test_a_bearer_token_is_sent_and_never_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN_HERE", "t0ken-of-mine")
    with servers.healthy() as server:
        code = main(
            ["sustain", server.url, *QUICK, "--bearer-env", "TOKEN_HERE", "--header", "X-Team: blue-team"]
        )

    assert code == 0
    assert server.requests[-1].headers["authorization"] == "Bearer t0ken-of-mine"
    assert server.requests[-1].headers["x-team"] == "blue-team"
    (path,) = Path(".capacity").glob("*.json")
    out, err = capsys.readouterr()
    assert "t0ken-of-mine" not in path.read_text() + out + err


def test_ctrl_c_stops_the_load_keeps_what_was_seen_and_exits_with_130(tmp_path: Path) -> None:
    with servers.healthy() as server:
        command = [
            str(Path(sys.executable).with_name("pytest-capacity")),
            "sustain",
            server.url,
            "--qps",
            "50",
            "--p99-ms",
            "20000",
        ]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ)
        server.wait_for(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "interrupted; the load has stopped" in err
    assert "Traceback" not in err
    (path,) = tmp_path.glob(".capacity/*.json")
    assert json.loads(path.read_text())["verdict"] is None


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out.strip() == f"pytest-capacity {__version__}"


@pytest.mark.parametrize("arguments", [["inspect", "a.trace.jsonl"], ["inspect", "a.trace.jsonl", "--json"]])
def test_output_that_nobody_reads_any_more_ends_it_quietly(arguments: list[str]) -> None:
    rows = [f'{{"t": {second}}}' for second in range(20)]
    Path("a.trace.jsonl").write_text("\n".join(['{"pytest_capacity_trace": 1}', *rows, ""]))
    reading, writing = os.pipe()
    os.close(reading)

    with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor has no path
        ended = subprocess.run(
            [str(Path(sys.executable).with_name("pytest-capacity")), *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    assert ended.stderr == ""
    assert ended.returncode == 141


def test_what_was_read_before_the_reader_left_is_whole(tmp_path: Path) -> None:
    rows = [f'{{"t": {second}, "op": "operation {second}"}}' for second in range(20_000)]
    Path("a.trace.jsonl").write_text("\n".join(['{"pytest_capacity_trace": 1}', *rows, ""]))
    command = [str(Path(sys.executable).with_name("pytest-capacity")), "inspect", "a.trace.jsonl", "--json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr

    first = process.stdout.readline()
    process.stdout.close()

    assert first == "{\n"
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    process.stderr.close()
