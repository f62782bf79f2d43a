"""``pytest-capacity selftest``, against its own null server and against a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_capacity.cli import main
from pytest_capacity.load.nullserver import null_server
from pytest_capacity.load.selftest import MOST_SECONDS, check_extent, rates_from
from tests import servers

SHORT = ["selftest", "--seconds", "0.5", "--rates", "50,200", "--json"]


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"], ["--engine", "aiohttp"]])
def test_it_answers_as_the_contract_says(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert main([*SHORT, *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)

    assert set(answer) == {"engine", "closed_loop", "open_loop", "host"}
    assert answer["engine"] == ("aiohttp" if "aiohttp" in arguments else "fast")
    closed = answer["closed_loop"]
    assert set(closed) == {"qps", "cpu_us_per_request", "requests"}
    assert closed["requests"] == pytest.approx(closed["qps"] * 0.5, rel=0.3)
    assert closed["cpu_us_per_request"] > 0
    assert [row["offered_qps"] for row in answer["open_loop"]] == [50, 200]
    for row in answer["open_loop"]:
        assert 0 < row["lateness_p50_us"] <= row["lateness_p99_us"]
        assert row["requests"] > 0
    assert set(answer["host"]) == {"foreign_cpu_percent", "steal_percent"}


def test_a_url_is_loaded_with_the_body_given(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"items": [1]}')
    with servers.healthy() as server:
        assert main([*SHORT, "--url", server.url + "/rank", "--json-body", str(body)]) == 0
    answer = json.loads(capsys.readouterr().out)

    assert {request.body for request in server.requests} == {b'{"items":[1]}'}
    assert server.paths().keys() == {"/rank"}
    assert answer["closed_loop"]["requests"] <= server.count


def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SHORT[:-1]) == 0
    said = capsys.readouterr().out

    assert "requests/s with 32 in flight" in said
    assert "late p99 us" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "http://192.0.2.1/"], "is not this machine"),
        (["--url", servers.refusing()], "no request succeeded: no connection: Connection refused"),
        (["--rates", "fast"], "--rates 'fast' must be numbers"),
        (["--rates", "-1"], "--rates '-1' must be positive"),
        (["--seconds", "1e9"], "must be positive and at most 60"),
        (["--workers", "0"], "workers=0 must be at least 1"),
    ],
)
def test_what_cannot_be_tested_exits_with_2_and_says_why(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main([*SHORT[:-1], *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_self_test_is_bounded() -> None:
    with pytest.raises(ValueError, match="requests are more than"):
        check_extent(MOST_SECONDS, [1e9])
    assert rates_from("1,2.5") == (1.0, 2.5)


def test_the_null_server_ends_with_its_user() -> None:
    with null_server() as url:
        assert url.startswith("http://127.0.0.1:")
