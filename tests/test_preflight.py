"""Trying each recorded operation before the load: which failures end the test, and which are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.cli import main
from pytest_capacity.measurement.preflight import STRICT, leniency
from pytest_capacity.measurement.recorded import first_rows, load_recorded
from pytest_capacity.slo import SLO, OperationSLOs
from pytest_capacity.traffic.trace import TraceRow
from tests import servers
from tests.conftest import Project
from tests.replays import write_trace
from tests.servers import Connection, Received, Server
from tests.test_outcomes import record

LENIENT = ("--p50-ms", "20000", "--error-rate", "0.3")


def mixed(odd_every: int, *, op: str = "/odd", method: str = "GET", **seen: Any) -> list[TraceRow]:
    """Two seconds of one operation and, each so many rows, another one that was seen as told."""
    return [
        TraceRow(number / 50, op=op, method=method, path=op, seen=dict(seen))
        if number % odd_every == odd_every - 1
        else TraceRow(number / 50, op="/rank", method="GET", path="/rank")
        for number in range(100)
    ]


def failing(path: str, fail: Callable[[Connection], Any]) -> Server:
    """Answers every path well but one."""

    async def behave(_: Server, connection: Connection, received: Received) -> bool:
        if received.path == path:
            await fail(connection)
        else:
            await connection.reply()
        return True

    return Server(behave)


def sustain(server: Server, rows: list[TraceRow], *more: str) -> int:
    write_trace(Path("a.trace.jsonl"), rows)
    return main(["sustain", server.url, "--trace", "a.trace.jsonl", *LENIENT, *more])


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestRecordedTraffic:
    def test_a_rare_operation_that_fails_is_told_and_the_load_is_judged(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with failing("/odd", lambda connection: connection.reply(500, b"no")) as server:
            code = sustain(server, mixed(20))
            out, _ = capsys.readouterr()
            assert (code, sustain(server, mixed(20), "--json")) == (0, 0)

        assert out.startswith("PASS")
        assert "  before the load: 500 from GET /odd: no\n" in out
        found = json.loads(capsys.readouterr()[0])
        (warning,) = found["trace"]["warnings"]
        assert warning.startswith("operation '/odd' failed before the load: 500 from GET /odd: no ")
        assert warning.endswith("(0.05 of all requests, where 0.3 may fail)")

    def test_one_that_the_recording_saw_fail_is_left_to_the_load_to_judge(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with failing("/odd", lambda connection: connection.reply(500, b"no")) as server:
            code = sustain(server, mixed(2, status=500))

        out, _ = capsys.readouterr()
        assert code == 1
        assert server.count > 50
        assert "error_rate" in out
        assert "No load was sent" not in out

    def test_one_that_is_too_many_of_all_requests_fails_before_any_load(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with failing("/odd", lambda connection: connection.reply(500, b"no")) as server:
            code = sustain(server, mixed(2))

        out, _ = capsys.readouterr()
        assert code == 1
        assert out.startswith("FAIL  500 from GET /odd: no. No load was sent.")
        assert server.count <= 2

    def test_refused_credentials_fail_before_any_load_however_rare(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with failing("/odd", lambda connection: connection.reply(401, b"who?")) as server:
            code = sustain(server, mixed(20, status=401))

        assert code == 1
        assert "No load was sent." in capsys.readouterr()[0]
        assert server.count == 2

    def test_a_server_that_refuses_all_fails_before_any_load(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = mixed(2, status=500)
        for row in rows:
            row.seen = {"status": 500}
        with servers.answering(500, b"no") as server:
            code = sustain(server, rows)

        assert code == 1
        assert "No load was sent." in capsys.readouterr()[0]
        assert server.count == 2

    def test_a_server_that_dies_of_what_may_fail_fails_before_any_load(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def die(_: Connection) -> None:
            await server.die()

        with failing("/odd", die) as server:
            code = sustain(server, mixed(20, error="disconnected"))

        assert code == 1
        assert "No load was sent." in " ".join(capsys.readouterr()[0].split())
        assert server.count == 2

    def test_a_reply_to_head_is_good_in_a_trace(self, capsys: pytest.CaptureFixture[str]) -> None:
        with servers.writing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") as server:
            rows = [TraceRow(at / 50, op="HEAD /up", method="HEAD", path="/up") for at in range(100)]
            code = sustain(server, rows)

        assert (code, capsys.readouterr()[0][:4]) == (0, "PASS")

    def test_an_operation_without_an_slo_may_fail(self, project: Project) -> None:
        trace = write_trace(Path(project.pytester.path) / "a.trace.jsonl", mixed(2))
        with failing("/odd", lambda connection: connection.reply(500, b"no")) as server:
            project.write(
                server.url,
                f"""
def test_rank(capacity):
    capacity.replay({trace.name!r}, slo={{"/rank": SLO(p50_ms=20000, error_rate=0.3)}}, duration_s=3)
""",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        (warning,) = record(project)["trace"]["warnings"]
        assert warning.endswith("500 from GET /odd: no (no bound judges it)")

    @pytest.mark.parametrize("seen", [{"status": 500}, {"error": "the connection broke"}])
    def test_a_row_that_went_well_is_tried_where_there_is_one(self, seen: dict[str, Any]) -> None:
        rows = mixed(2, **seen)
        rows[99].seen = {"status": 200}
        recorded = load_recorded(write_trace(Path("a.trace.jsonl"), rows), seed=0)

        assert sorted(first_rows(recorded).tolist()) == [0, 99]
        recorded.rows.close()


class TestLeniency:
    SHARES = {"a": 0.9, "b": 0.06, "c": 0.04}  # noqa: RUF012 - nothing changes it

    def test_what_may_fail_is_no_more_together_than_the_error_rate(self) -> None:
        lenient = leniency(SLO(p99_ms=50, error_rate=0.07), self.SHARES, [])

        assert lenient.excuses("a", 0.0) is None
        assert lenient.excuses("b", 0.0)
        assert lenient.excuses("c", 0.0)
        assert lenient.excuses("c", 0.06) is None

    def test_what_the_recording_saw_fail_may_fail_however_often(self) -> None:
        assert leniency(SLO(p99_ms=50), self.SHARES, ["a"]).excuses("a", 1.0) == (
            "the recording saw it fail, too"
        )

    def test_of_operations_with_an_slo_each_matters_however_rare(self) -> None:
        lenient = leniency(OperationSLOs({"c": SLO(error_rate=0.5)}), self.SHARES, [])

        assert lenient.excuses("c", 0.0) is None
        assert lenient.excuses("a", 0.0) == "no bound judges it"

    def test_a_target_s_own_requests_must_all_go_well(self) -> None:
        assert STRICT.excuses("a", 0.0) is None
