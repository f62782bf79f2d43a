"""A capacity search from pytest and from the shell, against real sockets.

Searches take ten seconds and more: the rates allowed are low and the bounds generous, so that the answers do
not depend on the machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pytest_capacity.cli import main
from pytest_capacity.results.schema import load_schema
from tests import servers
from tests.conftest import Project
from tests.test_outcomes import record

EASY = "p50_ms=200, error_rate=0.3, min_qps=30, max_qps=60, budget_s=60"


@pytest.mark.slow
class TestFixture:
    def test_a_requirement_that_is_reached_passes(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                f"""
def test_capacity(capacity_search):
    result = capacity_search({EASY}, require_qps=50)
    assert result.status == "no_limit_found"
    assert result.capacity_qps is None
    assert result.ci_low_qps == 60
""",
            )
            result = project.run("-m", "capacity")

        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["PASS *test_capacity*50/s*"])
        kept = record(project)
        Draft202012Validator(load_schema()).validate(kept)
        assert kept["verdict"] == "PASS"
        assert kept["capacity"]["status"] == "no_limit_found"
        (measurement,) = kept["measurements"]
        assert 0.8 * 60 < measurement["achieved_qps"] <= measurement["offered_qps"] < 1.2 * 60
        assert sum(measurement["outcomes"].values()) == sum(row["planned"] for row in kept["probes"])
        assert all(row["rate_qps"] <= 60 for row in kept["probes"])
        assert sum(row["sent"] for row in kept["probes"]) == server.count - 1

    def test_without_a_requirement_it_is_shown_as_measured_and_passes_nothing_else(
        self, project: Project
    ) -> None:
        with servers.healthy() as server:
            project.write(server.url, f"\ndef test_capacity(capacity):\n    capacity.search({EASY})\n")
            result = project.run()

        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines(["measured *test_capacity*"])
        assert record(project)["verdict"] == "MEASURED"

    def test_a_lowest_rate_that_fails_is_a_violation(self, project: Project) -> None:
        with servers.healthy(delay_s=0.4) as server:
            project.write(
                server.url,
                "\ndef test_capacity(capacity_search):\n"
                "    capacity_search(p50_ms=100, error_rate=0.3, min_qps=20, max_qps=40, budget_s=20)\n",
            )
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E *SLOViolation: FAIL *unattainable*"])

    def test_a_coroutine_test_searches_while_a_server_on_its_own_loop_answers(self, project: Project) -> None:
        project.pytester.makepyfile(
            f"""
import pytest
from aiohttp import web

@pytest.fixture(scope="session")
def capacity_target():
    return "http://127.0.0.1:1"

@pytest.mark.asyncio
async def test_capacity(async_capacity):
    async def answer(request):
        return web.json_response({{}})
    application = web.Application()
    application.router.add_get("/", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = "http://127.0.0.1:%d/" % runner.addresses[0][1]
    found = await async_capacity.search({EASY}, target=url)
    assert found.ci_low_qps == 60
    await runner.cleanup()
"""
        )

        project.run().assert_outcomes(passed=1)


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("p99_ms=50, require=100", "*unknown argument 'require'; did you mean 'require_qps'*"),
            ("p99_ms=50, min_qps=20, max_qps=10", "*min_qps=20 is above max_qps=10*"),
            ("p99_ms=50, allow='anything'", "*allow='anything' is none of not_steady*"),
            ("p99_ms=50, budget_s=2", "*budget_s=2 is too short for a search*"),
            ("p99_ms=50, require_qps=200, max_qps=100", "*require_qps=200 is above the highest rate*"),
            (
                "p99_ms=50, require_qps=10, min_qps=20",
                "*require_qps=10 is below the lowest rate*",
            ),
            ("p99_ms=50, max_qps=50000", "*over the ceiling of 10,000*"),
            ("require_qps=10", "*an SLO needs at least one bound*"),
        ],
    )
    def test_a_search_that_cannot_be_made_sends_nothing(
        self, project: Project, arguments: str, message: str
    ) -> None:
        with servers.healthy() as server:
            project.write(
                server.url, f"\ndef test_capacity(capacity_search):\n    capacity_search({arguments})\n"
            )
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([message])
        assert server.count == 0


@pytest.mark.slow
def test_the_shell_searches_and_prints_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    slo = ["--p50-ms", "200", "--error-rate", "0.3"]
    rates = ["--min-qps", "30", "--max-qps", "60"]
    with servers.healthy() as server:
        code = main(["search", server.url, *slo, *rates, "--budget-s", "30", "--json"])

    out, err = capsys.readouterr()
    found = json.loads(out)
    assert code == 0
    assert found["verdict"] == "MEASURED"
    assert found["capacity"]["ci_low_qps"] == 60
    assert found["capacity"]["load_s"] <= 30
    assert "plan: at most 30 s of load and 1,800 requests, starting with one at a time" in err


def test_the_shell_refuses_a_search_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "http://127.0.0.1:1", "--p99-ms", "50", "--min-qps", "9", "--max-qps", "5"]) == 2
    assert "min_qps=9 is above max_qps=5" in capsys.readouterr().err
