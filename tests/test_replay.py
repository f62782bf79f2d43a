"""Recorded traffic in pytest: the marker, the fixtures, what is sent, what the record holds, wrong moves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_capacity.measurement import replaying
from pytest_capacity.results.schema import load_schema
from pytest_capacity.traffic.calibrate_command import calibrate_file
from tests import servers
from tests.conftest import Project
from tests.replays import made_rows, without_bodies, write_trace
from tests.servers import Connection, Received, Server
from tests.test_outcomes import record

LENIENT = "p50_ms=20000, error_rate=0.3"
"""Bounds that some dozen requests decide."""


@pytest.fixture
def trace(project: Project) -> Path:
    """Four seconds of traffic, beside the test module."""
    return write_trace(Path(project.pytester.path) / "a.trace.jsonl.gz", made_rows(4.0))


def valid_record(project: Project) -> dict[str, Any]:
    found = record(project)
    Draft202012Validator(load_schema()).validate(found)
    return found


def model_requests(server: Server) -> list[Received]:
    """What came in after the preflight of one request of each operation."""
    return server.requests[2:]


class TestWhatIsSent:
    def test_a_marked_test_sends_recorded_requests_at_its_own_rate(
        self, project: Project, trace: Path
    ) -> None:
        with servers.healthy() as server:
            project.write(
                server.url + "/ignored",
                f"\n@pytest.mark.capacity(QUICK, trace={trace.name!r})\ndef test_rate(): pass\n",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        bodies = {row.path: row.body for row in made_rows(4.0)}
        assert set(server.paths()) == {"/rank", "/embed"} == set(bodies)
        sent = [json.loads(request.body)["number"] for request in model_requests(server)]
        assert len(set(sent)) > 100
        assert server.requests[-1].headers["accept"] == "application/json"
        found = valid_record(project)
        assert found["requirement"]["arrivals"] == "recorded"
        assert found["trace"]["file"] == trace.name
        assert found["trace"]["scalings"][-1]["kind"] == "superposed"
        text = json.dumps(found)
        assert "session-" not in text
        assert '"key-' not in text
        assert '"number"' not in text

    def test_a_replay_sends_the_recording_once_in_its_order_at_its_rate(
        self, project: Project, trace: Path
    ) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                f"""
def test_peak(capacity_replay):
    result = capacity_replay({trace.name!r}, {LENIENT})
    assert result.kind == "replay"
    assert result.qps == pytest.approx(40, rel=0.1)
    assert result.evidence_s == pytest.approx(4, abs=0.6)
    assert 0 < result.p50_ms < 20000
""",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        found = valid_record(project)
        (measurement,) = found["measurements"]
        assert (measurement["kind"], found["trace"]["loops"]) == ("replay", 1)
        assert found["trace"]["scalings"][-1]["text"] == "the recorded rate"
        assert found["trace"]["distinct_rows"] >= 155
        numbers = [json.loads(request.body)["number"] for request in model_requests(server)]
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        # Connections overlap, so that neighbours may change places; the order of the whole stays.
        assert sum(step in (1, 2, -1) for step in steps) > 0.9 * len(steps)

    def test_a_marker_with_a_trace_and_no_rate_replays_it(self, project: Project, trace: Path) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\n@pytest.mark.capacity({LENIENT}, trace={trace.name!r}, rate=2, duration_s=2)\n"
                "def test_peak(): pass\n",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        found = valid_record(project)
        assert found["measurements"][0]["kind"] == "replay"
        assert found["requirement"]["qps"] == pytest.approx(80, rel=0.1)

    def test_time_is_compressed_on_request(self, project: Project, trace: Path) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\ndef test_peak(capacity):\n"
                f"    capacity.replay({trace.name!r}, rate=2, trace_mode='compress', {LENIENT})\n",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        found = valid_record(project)["trace"]
        assert (found["mode"], found["scalings"][-1]["kind"]) == ("compress", "compressed")

    def test_a_coroutine_replays_while_its_own_loop_serves(self, project: Project, trace: Path) -> None:
        project.write(
            "http://127.0.0.1:1",
            f"""
import asyncio

async def serve(reader, writer):
    while (await reader.readuntil(b"\\r\\n\\r\\n")):
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")

@pytest.mark.asyncio
async def test_peak(async_capacity):
    server = await asyncio.start_server(serve_bodies, "127.0.0.1", 0)
    url = "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    result = await async_capacity.replay({trace.name!r}, target=url, duration_s=2, {LENIENT})
    assert result.requests > 60
    server.close()

async def serve_bodies(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
""",
        )

        project.run().assert_outcomes(passed=1)

    def test_a_search_draws_its_windows_and_its_warm_up_from_the_trace(self, project: Project) -> None:
        write_trace(Path(project.pytester.path) / "long.trace.jsonl", made_rows(60.0))
        with servers.one_at_a_time(0.004) as server:
            project.write(
                server.url,
                """
def test_capacity(capacity_search):
    try:
        capacity_search(p90_ms=300, error_rate=0.1, trace="long.trace.jsonl", budget_s=10)
    except Inconclusive:
        "Ten seconds tell little of the capacity, and enough of what is sent."
""",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        found = valid_record(project)
        numbers = [json.loads(request.body)["number"] for request in model_requests(server)]
        assert {probe["kind"] for probe in found["probes"]} >= {"closed", "open"}
        assert found["trace"]["requests"] == pytest.approx(len(numbers), rel=0.05)
        assert found["trace"]["requests"] == sum(probe["sent"] for probe in found["probes"])
        assert found["trace"]["distinct_rows"] == pytest.approx(len(set(numbers)), rel=0.05)

    def test_bodies_that_were_not_recorded_come_from_the_target_s_factory(self, project: Project) -> None:
        folder = Path(project.pytester.path)
        log = write_trace(folder / "log.trace.jsonl", without_bodies(made_rows(60.0)))
        calibrate_file(log, folder / "model.yaml")
        with servers.healthy() as server:
            project.write(
                server.url,
                f"""
@pytest.fixture
def factory():
    paths = {{"rank": "/rank", "embed": "/embed"}}
    return HttpTarget(URL, body_for=lambda row: {{"n": int(row.size["items"])}}, paths=paths)

def test_log(capacity, factory):
    capacity.replay("log.trace.jsonl", target=factory, duration_s=1.5, {LENIENT})

def test_model(capacity, factory):
    capacity.replay("model.yaml", target=factory, duration_s=1.5, {LENIENT})
""",
            )
            result = project.run()

        passed, _, failed = result.reprec.listoutcomes()  # type: ignore[attr-defined]
        # A model of a minute may be outside some tolerance: then the second says so.
        assert len(passed) + len(failed) == 2
        assert set(server.paths()) == {"/rank", "/embed"}
        sizes = {json.loads(request.body)["n"] for request in server.requests}
        assert sizes == {1, 2, 3, 4, 5}

    def test_smoke_tries_the_trace_s_operations(self, project: Project, trace: Path) -> None:
        with servers.healthy() as server:
            project.write(
                server.url, f"\n@pytest.mark.capacity(QUICK, trace={trace.name!r})\ndef test_rate(): pass\n"
            )
            result = project.run("--capacity-mode=smoke")

        result.assert_outcomes(skipped=1)
        assert set(server.paths()) == {"/rank", "/embed"}
        assert server.count == 22


def slow_embedding() -> Server:
    """Takes a third of a second for /embed, nothing for the rest."""
    import asyncio

    async def behave(_: Server, connection: Connection, received: Received) -> bool:
        if received.path == "/embed":
            await asyncio.sleep(0.33)
        await connection.reply()
        return True

    return Server(behave)


class TestOperations:
    def test_a_breach_names_its_operation(self, project: Project, trace: Path) -> None:
        slos = "{'rank': SLO(p50_ms=300, error_rate=0.3), 'embed': SLO(p50_ms=300, error_rate=0.3)}"
        with slow_embedding() as server:
            project.write(
                server.url,
                f"\n@pytest.mark.capacity(slo={slos}, trace={trace.name!r}, qps=60, min_s=1, budget_s=8)\n"
                "def test_rate(): pass\n",
            )
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["FAIL  embed p50 > 300 ms at 60/s: *", "*rank p50 *ok*"])
        found = valid_record(project)
        assert [(breach["operation"], breach["label"]) for breach in found["breaches"]] == [
            ("embed", "embed p50")
        ]
        assert found["requirement"]["slo"]["operations"]["rank"] == {"p50_ms": 300.0, "error_rate": 0.3}
        by_label = {bound["label"]: bound for bound in found["measurements"][0]["bounds"]}
        assert by_label["rank p50"]["measured_ms"] < 300 < by_label["embed p50"]["measured_ms"]

    def test_an_operation_with_too_few_samples_is_named_as_inconclusive(self, project: Project) -> None:
        rows = made_rows(4.0)
        for row in rows[1:]:
            row.op, row.path = "rank", "/rank"
        write_trace(Path(project.pytester.path) / "a.trace.jsonl", rows)
        slos = "{'rank': SLO(p50_ms=20000, error_rate=0.3), 'embed': SLO(p50_ms=20000, error_rate=0.3)}"
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\ndef test_rare(capacity_replay):\n    capacity_replay('a.trace.jsonl', slo={slos})\n",
            )
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*INCONCLUSIVE  operation 'embed' has too few samples: 1 request in *"])


class TestDoubts:
    def test_a_sampled_trace_cannot_pass(self, project: Project) -> None:
        write_trace(Path(project.pytester.path) / "a.trace.jsonl", made_rows(4.0), sampling=0.1)
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\ndef test_peak(capacity_replay):\n"
                f"    capacity_replay('a.trace.jsonl', duration_s=1.5, {LENIENT})\n",
            )
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["*INCONCLUSIVE  10 % of the traffic was recorded: its bursts, *", "*try: a recording of all *"]
        )

    def test_a_row_that_cannot_be_sent_ends_the_load_with_its_line(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replaying, "AHEAD_REQUESTS", 20)
        rows = made_rows(30.0)
        rows[160].body = None
        write_trace(Path(project.pytester.path) / "a.trace.jsonl", rows)
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\ndef test_peak(capacity_replay):\n    capacity_replay('a.trace.jsonl', {LENIENT})\n",
            )
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["*INCONCLUSIVE  the load ended early: a.trace.jsonl, line 162: POST /embed has no body in*"]
        )
        assert 2 < server.count < 400
        valid_record(project)

    def test_a_row_that_cannot_be_sent_soon_is_found_before_the_load(self, project: Project) -> None:
        rows = made_rows(30.0)
        rows[160].body = None
        write_trace(Path(project.pytester.path) / "a.trace.jsonl", rows)
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\ndef test_peak(capacity_replay):\n    capacity_replay('a.trace.jsonl', {LENIENT})\n",
            )
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E *CapacityUsageError: trace: a.trace.jsonl, line 162: POST /embed *"])
        assert server.count == 2


MARKED = "\n@pytest.mark.capacity({})\ndef test_rate(): pass\n"
WRONG_MARKERS = {
    "qps=60, p99_ms=50, trace='nowhere.trace.jsonl'": "*trace='nowhere.trace.jsonl': no such file in */*",
    "p99_ms=50, trace='b.trace.jsonl'": "*b.trace.jsonl, line 1: no trace: its first line must be a header *",
    "p99_ms=50, trace=3": "*trace=3 must be a path of recorded traffic, such as *",
    "qps=60, p99_ms=50, trace='a.trace.jsonl.gz', arrivals='constant'": "*trace and arrivals are given: *",
    "qps=60, p99_ms=50, trace_mode='compress'": "*trace_mode is given and no trace*",
    "qps=60, p99_ms=50, trace='a.trace.jsonl.gz', trace_mode='fold'": "*trace_mode='fold' is neither *",
    "qps=60, p99_ms=50, trace='a.trace.jsonl.gz', trace_ticks='raw'": "*trace_ticks='raw' is neither *",
    "qps=60, p99_ms=50, trace_ticks='kept'": "*trace_ticks is given and no trace*",
    "p99_ms=50, trace='a.trace.jsonl.gz', budget_s=9": "*unknown argument 'budget_s'*",
    "qps=60, trace='a.trace.jsonl.gz'": "*an SLO needs at least one bound*",
    "qps=60, slo={}": "*slo={} names no operation*",
    "qps=60, slo={'rank': 50}": "*slo must hold an SLO by operation*",
    "qps=60, p99_ms=50, trace='a.yaml'": "*a.yaml: no workload model*",
    "qps=60, p99_ms=50, tracee='a'": "*unknown argument 'tracee'; did you mean 'trace'?*",
}
WRONG_CALLS = {
    "capacity.replay('nowhere', p99_ms=50)": "*trace='nowhere': no such file in *",
    "capacity.replay('a.trace.jsonl.gz', p99_ms=50)": "*160 requests, and p99 needs 299. Use duration_s=*",
    "capacity.replay('a.trace.jsonl.gz', qps=9, rate=2, p99_ms=50)": "*qps and rate are given: *",
    "capacity.replay('a.trace.jsonl.gz', rate=0, p99_ms=50)": "*rate=0 must be positive*",
    "capacity.replay('a.trace.jsonl.gz', duration_s=99999, p99_ms=50)": "*over the ceiling of *",
    "capacity.replay('b.trace.jsonl', p99_ms=50)": "*b.trace.jsonl, line 1: no trace: *",
    "capacity.replay('log.trace.jsonl', p50_ms=50, error_rate=0.3)": "*log.trace.jsonl, line 2: *",
    "capacity.replay('a.trace.jsonl.gz', slo={'rnak': SLO(p50_ms=50)})": "*'rnak', which is not sent; *",
    "capacity.search(trace='a.trace.jsonl.gz', slo={'rank': SLO(p50_ms=50)})": "*a search takes one SLO*",
    "capacity.sustain(qps=60, slo={'rnak': SLO(p50_ms=50)})": "*not sent; there are 'POST /'*",
    "capacity.sustain(qps=60, p50_ms=50, trace='a.trace.jsonl.gz', arrivals='poisson')": "*trace and arri*",
}


class TestWrongMoves:
    @pytest.fixture(autouse=True)
    def _files(self, trace: Path) -> None:
        (trace.parent / "b.trace.jsonl").write_text('{"t": 1}\n')
        (trace.parent / "a.yaml").write_text("name: what\n")
        write_trace(trace.parent / "log.trace.jsonl", without_bodies(made_rows(4.0)))

    def test_wrong_markers_are_one_usage_error_before_any_load(self, project: Project) -> None:
        with servers.healthy() as server:
            tests = "".join(
                MARKED.format(arguments).replace("test_rate", f"test_{number}")
                for number, arguments in enumerate(WRONG_MARKERS)
            )
            project.write(server.url, tests)
            result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(list(WRONG_MARKERS.values()))
        assert server.count == 0

    def test_wrong_calls_say_what_to_do_and_send_nothing(self, project: Project) -> None:
        with servers.healthy() as server:
            tests = "".join(
                f"\ndef test_{number}(capacity):\n    {call}\n" for number, call in enumerate(WRONG_CALLS)
            )
            project.write(server.url, tests)
            result = project.run("-rN")

        result.assert_outcomes(failed=len(WRONG_CALLS))
        result.stdout.fnmatch_lines([f"E {message}" for message in WRONG_CALLS.values()])
        assert server.count == 0

    def test_a_synchronous_replay_under_a_running_loop_names_the_remedy(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            "\n@pytest.mark.asyncio\nasync def test_peak(capacity_replay):\n"
            "    capacity_replay('a.trace.jsonl.gz', p50_ms=50)\n",
        )

        project.run().stdout.fnmatch_lines(["*await async_capacity.replay*"])

    def test_a_trace_in_the_root_directory_is_found_from_below(self, project: Project) -> None:
        folder = project.pytester.mkdir("below")
        project.write("http://127.0.0.1:1", MARKED.format(f"{LENIENT}, trace='a.trace.jsonl.gz'"))
        (Path(project.pytester.path) / "test_model.py").rename(folder / "test_model.py")

        result = project.run("--capacity-dry-run", "below")

        result.stdout.fnmatch_lines(["*test_rate: 4*replays a.trace.jsonl.gz*"])

    def test_a_dry_run_tells_requests_and_seconds_of_replays(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            MARKED.format("p50_ms=50, error_rate=0.1, trace='a.trace.jsonl.gz'")
            + MARKED.format("qps=200, p99_ms=50, trace='a.trace.jsonl.gz'").replace("rate", "qps")
            + MARKED.format("p99_ms=50, trace='a.trace.jsonl.gz'").replace("rate", "short")
            + MARKED.format("qps=60, slo={'rank': SLO(p99_ms=50)}, trace='a.trace.jsonl.gz'").replace(
                "rate", "operations"
            ),
        )

        result = project.run("--capacity-dry-run")

        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                "*::test_rate: 4.0-6.0 s, 160-240 requests, at most *; replays a.trace.jsonl.gz; p50 <= *",
                "*::test_qps: 12-60 s, 2,400-12,000 requests, at most 200/s; replays a.trace.jsonl.gz; *",
                "*::test_short: cannot run: *160 requests, and p99 needs 299. Use duration_s=9 or more *",
                "*::test_operations: 10-60 s, 600-3,600 requests, *; rank: p99 <= 50 ms, errors <= 1 %*",
            ]
        )
