"""How the plugin behaves inside pytest: selection, modes, markers, fixtures, records."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from pytest_capacity.results.schema import load_schema
from tests import servers
from tests.conftest import Project
from tests.test_outcomes import record, records

TESTS = """
@pytest.mark.capacity(QUICK)
def test_rate(capacity_target):
    pass

def test_call(capacity):
    result = capacity.sustain(QUICK)
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.error_rate == 0
    assert result.achieved_qps == pytest.approx(60, rel=0.5)

def test_other():
    pass
"""


class TestSelection:
    def test_tests_with_a_measuring_fixture_are_selected_by_the_marker_too(self, project: Project) -> None:
        project.write("http://127.0.0.1:1", TESTS)

        result = project.run("--collect-only", "-q", "-m", "capacity")

        result.stdout.fnmatch_lines(
            ["test_model.py::test_rate", "test_model.py::test_call", "*2/3 tests collected*"]
        )

    def test_the_marker_is_registered_with_its_signature(self, project: Project) -> None:
        project.run("--markers").stdout.fnmatch_lines(["@pytest.mark.capacity(?, qps, p50_ms, *"])

    @pytest.mark.parametrize("option", ["--collect-only", "--capacity-dry-run", "--setup-plan"])
    def test_looking_at_tests_sends_nothing(self, project: Project, option: str) -> None:
        with servers.healthy() as server:
            project.write(server.url, "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")
            result = project.run(option)

        assert result.ret == 0
        assert server.count == 0
        assert records(project) == []

    def test_a_dry_run_prints_requests_and_seconds_and_runs_no_body(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
@pytest.mark.capacity(qps=200, p99_ms=50)
def test_rate(): raise RuntimeError("a body ran")

def test_call(capacity): raise RuntimeError("a body ran")
""",
        )

        result = project.run("--capacity-dry-run")

        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                "*::test_rate: 12-60 s, 2,400-12,000 requests, at most 200/s; p99 <= 50 ms, errors <= 1 %*",
                "*::test_call: decided by its own code, when it runs",
                "at most 60 s for the marked tests, and what the other 1 ask for;*",
            ]
        )

    @pytest.mark.parametrize(
        ("mode", "line"),
        [("off", "*every capacity test would be skipped"), ("smoke", "*a preflight and 20 requests*")],
    )
    def test_a_dry_run_tells_what_the_mode_leaves_of_it(self, project: Project, mode: str, line: str) -> None:
        project.write("http://127.0.0.1:1", TESTS)

        result = project.run("--capacity-dry-run", f"--capacity-mode={mode}")

        assert result.ret == 0
        result.stdout.fnmatch_lines([line])
        result.stdout.no_fnmatch_line("*requests, at most 60/s*")

    def test_parametrized_tests_are_measured_one_by_one(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                """
@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.capacity(QUICK)
def test_rate(size): pass
""",
            )
            result = project.run()

        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["PASS *test_rate?small?*", "PASS *test_rate?large?*"])
        assert [kept["nodeid"][-7:] for kept in records(project)] == ["[large]", "[small]"]

    def test_the_closest_marker_wins_and_none_are_merged(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                """
@pytest.mark.capacity(qps=60, p50_ms=0.0001, error_rate=0.3, min_s=1, budget_s=6)
class TestModel:
    @pytest.mark.capacity(qps=30, p50_ms=20000, error_rate=0.3, min_s=1, budget_s=6)
    def test_own(self): pass
""",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        assert record(project)["requirement"]["qps"] == 30


class TestBodies:
    def test_the_load_runs_after_the_body_while_fixtures_are_alive(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                """
seen = []

@pytest.fixture
def alive():
    seen.append("up")
    yield
    seen.append("down")

@pytest.mark.capacity(QUICK)
def test_rate(alive):
    seen.append("body")

def test_order():
    assert seen == ["up", "body", "down"]
""",
            )
            result = project.run()

        result.assert_outcomes(passed=2)
        assert server.count > 60

    @pytest.mark.parametrize(
        ("body", "outcome"),
        [("pytest.skip('not today')", "skipped"), ("assert False", "failed"), ("raise OSError", "failed")],
    )
    def test_a_body_that_does_not_pass_sends_no_load(self, project: Project, body: str, outcome: str) -> None:
        with servers.healthy() as server:
            project.write(server.url, f"\n@pytest.mark.capacity(QUICK)\ndef test_rate():\n    {body}\n")
            result = project.run()

        result.assert_outcomes(**{outcome: 1})
        assert server.count == 0

    def test_a_fixture_that_measured_nothing_is_inconclusive(self, project: Project) -> None:
        project.write("http://127.0.0.1:1", "\ndef test_forgets(capacity): pass\n")

        result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*the test asked for 'capacity' but measured nothing with it*"])

    def test_calls_measure_and_their_results_can_be_used(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(server.url, TESTS)
            result = project.run("-k", "call")

        result.assert_outcomes(passed=1)

    def test_a_test_may_measure_twice_and_keeps_both_in_one_record(self, project: Project) -> None:
        with servers.healthy() as server, servers.healthy() as other:
            project.write(
                server.url,
                f"""
def test_two(capacity):
    capacity.sustain(QUICK)
    capacity.sustain(QUICK, target={other.url!r})
""",
            )
            result = project.run()

        result.assert_outcomes(passed=1)
        assert len(record(project)["measurements"]) == 2
        assert other.count > 60

    def test_a_violation_names_the_test_s_own_line(self, project: Project) -> None:
        with servers.healthy(delay_s=0.6) as server:
            tests = "\ndef test_call(capacity):\n    capacity.sustain(QUICK)\n".replace(
                "QUICK", "qps=30, p50_ms=150, error_rate=0.3, min_s=1, budget_s=12"
            )
            project.write(server.url, tests)
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [">*capacity.sustain(*", "E *SLOViolation: FAIL  p50 > 150 ms at 30/s: *"]
        )
        result.stdout.no_fnmatch_line("*measuring.py*")

    def test_a_synchronous_call_under_a_running_loop_is_refused_with_the_remedy(
        self, project: Project
    ) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
@pytest.mark.asyncio
async def test_async(capacity):
    capacity.sustain(qps=60, p50_ms=50)
""",
        )

        result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*would block the running event loop*await async_capacity.sustain*"])


WRONG_CALLS = {
    "capacity_search(p99_ms=50, allow='budgt')": "allow='budgt' is none of *budget, *",
    "capacity_search(p99_ms=50, allow=3)": "allow=3 must name statuses, such as 'budget'",
    "capacity_search(p99_ms=50, requires_qps=9)": "*'requires_qps'; did you mean 'require_qps'?",
    "capacity_search(p99_ms=50, tolerance=2)": "tolerance=2 must be a share of the capacity *",
    "capacity_search(p99_ms=50, require_qps=90, max_qps=50)": "require_qps=90 is above the highest rate *",
    "capacity_search(p99_ms=50, min_qps=90, max_qps=50)": "min_qps=90 is above max_qps=50",
    "capacity_search(p99_ms=50, budget_s=2)": "budget_s=2 is too short for a search: use 10 or more",
    "capacity_search(p99_ms=50, budget_s=99999)": "99,999 seconds of load are over the ceiling of 3,600*",
    "capacity_search(p100_ms=50)": "unknown argument 'p100_ms'; bounds are named like p99_ms, *",
    "capacity_search()": "an SLO needs at least one bound, *",
    "capacity_search(p99_ms=50, target='localhost:80')": "*did you mean 'http://localhost:80'?",
    "capacity_search(p99_ms=50, target='http://192.0.2.1/')": "*192.0.2.1 is not this machine*",
}


class TestWrongCalls:
    @pytest.mark.parametrize("colour", ["def", "async def"])
    def test_each_says_what_is_wrong_in_the_test_s_own_line_and_sends_nothing(
        self, project: Project, colour: str
    ) -> None:
        calls = list(WRONG_CALLS)
        fixture, prefix = "capacity_search", ""
        if colour == "async def":
            calls = [call.replace("capacity_search(", "await async_capacity.search(") for call in calls]
            fixture, prefix = "async_capacity", "@pytest.mark.asyncio\n"
        tests = [f"{prefix}{colour} test_{n}({fixture}):\n    {call}\n" for n, call in enumerate(calls)]
        with servers.healthy() as server:
            project.write(server.url, "\n" + "\n".join(tests))
            shown = project.run("--tb=short")

        shown.assert_outcomes(failed=len(calls))
        for call, message in zip(calls, WRONG_CALLS.values(), strict=True):
            shown.stdout.fnmatch_lines(
                [f"    {call}".replace("[", "[[]"), f"E   *CapacityUsageError: {message}"]
            )
        shown.stdout.no_fnmatch_line("*direct cause*")
        shown.stdout.no_fnmatch_line("*pytest_capacity/*.py:*")
        assert server.count == 0

    def test_a_forgotten_await_is_no_pass(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:coroutine")
async def test_rate(async_capacity): async_capacity.sustain(QUICK)
""",
        )

        result = project.run("-p", "no:unraisableexception")

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*'async_capacity' but measured nothing with it; is an await missing?"])

    @pytest.mark.parametrize(
        "test", ["@pytest.mark.capacity(QUICK)\ndef test_rate(): pass", "def test_call(capacity): pass"]
    )
    def test_a_url_option_that_is_none_is_a_usage_error_without_its_password(
        self, project: Project, test: str
    ) -> None:
        project.pytester.makepyfile(test_model="import pytest\n" + test.replace("QUICK", "qps=60, p50_ms=50"))

        result = project.run("--capacity-url=user:pa55word@host/rank")

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*capacity_url: URL *needs a scheme*"])
        assert "pa55word" not in str(result.stderr) + str(result.stdout)


class TestModes:
    def test_report_measures_and_labels_but_ends_as_skipped(self, project: Project) -> None:
        with servers.healthy(delay_s=0.6) as server:
            project.write(
                server.url,
                "\n@pytest.mark.capacity(qps=30, p50_ms=150, error_rate=0.3, min_s=1, budget_s=12)\n"
                "def test_rate(): pass\n",
            )
            result = project.run("--capacity-mode=report", "-rs")

        result.assert_outcomes(skipped=1)
        assert result.ret == 0
        result.stdout.fnmatch_lines(["FAIL *test_rate*", "SKIPPED *reported, not judged: *p50*"])
        assert record(project)["verdict"] == "FAIL"

    def test_smoke_sends_twenty_requests_and_judges_only_replies(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(server.url, TESTS)
            result = project.run("--capacity-mode=smoke", "-rs")

        result.assert_outcomes(skipped=2, passed=1)
        result.stdout.fnmatch_lines(["SKIPPED *SLO not judged*"])
        assert server.count == 2 * 21
        assert records(project) == []

    def test_smoke_fails_on_a_bad_reply(self, project: Project) -> None:
        with servers.answering(500, b"boom", after=10) as server:
            project.write(server.url, "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")
            result = project.run("--capacity-mode=smoke")

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*500 from POST /: boom*"])

    def test_off_skips_before_any_fixture(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1", TESTS + "\n@pytest.fixture(autouse=True)\ndef never(): raise RuntimeError\n"
        )

        result = project.run("--capacity-mode=off", "-rs", "-m", "capacity")

        result.assert_outcomes(skipped=2)
        result.stdout.fnmatch_lines(["SKIPPED *capacity tests are off*"])

    def test_inconclusive_may_warn_but_never_passes(self, project: Project) -> None:
        with servers.healthy(delay_s=0.1) as server:
            project.write(
                server.url, "\n@pytest.mark.capacity(QUICK, max_in_flight=1)\ndef test_rate(): pass\n"
            )
            result = project.run("--capacity-inconclusive=warn", "-rs")

        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["*test_rate*", "SKIPPED *inconclusive: *in flight already*"])

    def test_options_come_from_the_command_line_then_the_environment_then_the_ini_file(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.write("http://127.0.0.1:1", "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")
        ini = Path(project.pytester.path) / "tox.ini"
        ini.write_text(ini.read_text() + "\ncapacity_mode = report\ncapacity_dir = kept\n")

        from_ini = project.run("--collect-only")
        monkeypatch.setenv("PYTEST_CAPACITY_MODE", "smoke")
        from_environment = project.run("--collect-only")
        from_command_line = project.run("--collect-only", "--capacity-mode=off")

        from_ini.stdout.fnmatch_lines(["capacity: mode=report, artifacts in kept/*set: capacity_dir"])
        from_environment.stdout.fnmatch_lines(["capacity: mode=smoke*"])
        from_command_line.stdout.fnmatch_lines(["capacity: mode=off*"])

    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            ("PYTEST_CAPACITY_MODE", "loud", "*capacity_mode='loud' is none of enforce, report, smoke, off*"),
            ("PYTEST_CAPACITY_SEED", "x", "*capacity_seed='x' is no whole number*"),
        ],
    )
    def test_a_bad_option_is_a_usage_error(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
    ) -> None:
        monkeypatch.setenv(variable, value)

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])


class TestRecords:
    def test_records_follow_the_schema_and_hold_no_secret(self, project: Project) -> None:
        with servers.answering(200, b'{"echo": "Bearer s3cr3t-t0ken"}') as server:
            url = server.url.replace("http://", "http://user:pa55word@") + "/rank?api_key=k3y-value&top=5"
            project.pytester.makepyfile(
                test_model=f"""
import pytest
from pytest_capacity import HttpTarget

@pytest.fixture(scope="session")
def capacity_target():
    return HttpTarget({url!r}, json={{}}, headers={{"X-Custom": "cust0m-secret"}})

@pytest.mark.capacity(qps=60, p50_ms=20000, error_rate=0.3, min_s=1, budget_s=6, model={{"name": "ranker"}})
def test_rate(): pass
"""
            )
            result = project.run("--capacity-json=all.json", "--junitxml=junit.xml")

        result.assert_outcomes(passed=1)
        kept = record(project)
        Draft202012Validator(load_schema()).validate(kept)
        assert kept["model"]["name"] == "ranker"
        assert kept["measurements"][0]["digest"]["count"] > 20
        assert sum(kept["measurements"][0]["series"]["columns"]["sent"]) == server.count - 1
        for path in Path(project.pytester.path).rglob("*"):
            if path.suffix in (".json", ".xml"):
                text = path.read_text()
                assert not [s for s in ("pa55word", "k3y-value", "cust0m-secret", "s3cr3t") if s in text], (
                    path
                )
        together = json.loads(Path(project.pytester.path, "all.json").read_text())
        assert together["records"] == [kept]
        properties = {
            node.get("name"): node.get("value")
            for node in ET.parse(project.pytester.path / "junit.xml").iter("property")
        }
        assert properties["capacity.verdict"] == "PASS"
        assert properties["capacity.asked_qps"] == "60.0"

    def test_an_artifact_directory_that_cannot_be_written_is_an_error_not_a_pass(
        self, project: Project
    ) -> None:
        Path(project.pytester.path, "taken").write_text("a file")
        with servers.healthy() as server:
            project.write(server.url, "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")
            result = project.run("--capacity-dir=taken")

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*cannot write the artifact*--capacity-dir*"])

    def test_a_seed_is_recorded_and_repeats_the_schedule(self, project: Project) -> None:
        planned = []
        for _ in range(2):
            with servers.healthy() as server:
                project.write(server.url, "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")
                project.run("--capacity-seed=7").assert_outcomes(passed=1)
            kept = record(project)
            assert kept["generator"]["seed"] == 7
            planned.append(kept["measurements"][0]["series"]["columns"]["planned"][0])

        assert planned[0] == planned[1]

    def test_no_line_of_the_table_is_wider_than_a_hundred_columns(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url, f"\n@pytest.mark.capacity(QUICK)\ndef test_{'long_' * 30}name(): pass\n"
            )
            result = project.run()

        start = next(i for i, line in enumerate(result.outlines) if "- capacity -" in line)
        lines = result.outlines[start + 1 :]
        assert any("PASS" in line for line in lines)
        assert all(len(line) <= 100 for line in lines)


class TestXfail:
    def test_an_expected_violation_is_an_expected_failure(self, project: Project) -> None:
        with servers.healthy(delay_s=0.6) as server:
            project.write(
                server.url,
                """
@pytest.mark.xfail(raises=SLOViolation, strict=True)
@pytest.mark.capacity(qps=30, p50_ms=150, error_rate=0.3, min_s=1, budget_s=12)
def test_slow(): pass
""",
            )
            result = project.run()

        result.assert_outcomes(xfailed=1)

    def test_a_bare_xfail_does_not_turn_an_inconclusive_test_green(self, project: Project) -> None:
        with servers.healthy(delay_s=0.1) as server:
            project.write(
                server.url,
                "\n@pytest.mark.xfail\n@pytest.mark.capacity(QUICK, max_in_flight=1)\n"
                "def test_rate(): pass\n",
            )
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*1 inconclusive*"])
