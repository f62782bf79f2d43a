"""Beside pytest's other plugins and options: each gets what it expects, and none turns a test green."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import Project
from tests.test_outcomes import record, records

UNSURE = """
@pytest.mark.capacity(QUICK)
def test_unsure():
    raise Inconclusive("INCONCLUSIVE  the machine was busy\\n  try: later")
"""
"""Ends as a measurement that could not tell would, at no cost."""

BROKEN = """
@pytest.mark.capacity(QUICK)
def test_broken():
    raise SLOViolation("FAIL  too slow\\n  much too slow")
"""

FINE = "\ndef test_fine(): pass\n"


def needs(module: str) -> pytest.MarkDecorator:
    """Skips where another plugin is not installed."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


@needs("pytest_rerunfailures")
class TestRerunfailures:
    def test_a_rerun_is_a_second_attempt_with_its_own_artifact_and_the_last_one_counts(
        self, project: Project
    ) -> None:
        """The first attempt may have one request in flight only, which no rate can do with."""
        with servers.healthy(delay_s=0.1) as server:
            project.write(
                server.url,
                """
seen = []

def test_call(capacity):
    seen.append(1)
    capacity.sustain(QUICK, max_in_flight=1 if len(seen) == 1 else None)
""",
            )
            result = project.run("--reruns", "2", "--only-rerun", "Inconclusive")

        assert result.ret == 0
        result.stdout.fnmatch_lines(["? *test_call (attempt 1 of 2) *", "PASS *test_call (attempt 2 of 2) *"])
        result.stdout.fnmatch_lines(["*1 passed, 1 rerun*"])
        result.stdout.no_fnmatch_line("*inconclusive*")
        kept = {one["attempt"]: one["verdict"] for one in records(project)}
        assert kept == {1: "INCONCLUSIVE", 2: "PASS"}
        names = sorted(path.name for path in Path(project.pytester.path).glob(".capacity/*/*.json"))
        assert [".attempt2" in name for name in names] == [True, False]

    def test_only_what_is_named_is_run_again_and_what_stays_inconclusive_is_red(
        self, project: Project
    ) -> None:
        project.write("http://127.0.0.1:1", UNSURE + BROKEN)

        result = project.run("--reruns", "2", "--only-rerun", "Inconclusive")

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*1 failed, 2 rerun, 1 inconclusive*"])


class TestXfail:
    @pytest.mark.parametrize(
        ("test", "arguments", "shown"),
        [
            (BROKEN, "", "1 xfailed"),
            (BROKEN, "strict=True, raises=SLOViolation", "1 xfailed"),
            (BROKEN, "raises=Inconclusive", "1 failed"),
            (UNSURE, "", "1 inconclusive"),
            (UNSURE, "strict=True", "1 inconclusive"),
            (UNSURE, "raises=SLOViolation", "1 inconclusive"),
            (UNSURE, "raises=Inconclusive", "1 xfailed"),
            (UNSURE, "raises=(SLOViolation, Inconclusive)", "1 xfailed"),
            (UNSURE, "run=False", "1 xfailed"),
            (UNSURE.replace("Inconclusive(", "OSError("), "", "1 xfailed"),
        ],
    )
    def test_only_one_that_names_it_turns_an_inconclusive_test_green(
        self, project: Project, test: str, arguments: str, shown: str
    ) -> None:
        project.write("http://127.0.0.1:1", f"\n@pytest.mark.xfail({arguments})" + test)

        result = project.run()

        result.stdout.fnmatch_lines([f"*= {shown} in *"])
        assert result.ret == (0 if "xfailed" in shown else 1)

    def test_a_demand_that_cannot_be_measured_is_no_expected_failure(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            "\n@pytest.mark.xfail\ndef test_call(capacity): capacity.sustain(qps=5, p99_ms=50)\n",
        )

        project.run().assert_outcomes(failed=1)

    def test_a_strict_one_fails_where_the_slo_holds_after_all(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                "\n@pytest.mark.xfail(strict=True)\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n",
            )
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*XPASS(strict)*"])
        assert record(project)["verdict"] == "PASS"


LONG = "\n@pytest.mark.capacity(qps=50, p99_ms=20000, error_rate=0.02, budget_s=60)\n"


@needs("pytest_timeout")
class TestTimeout:
    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_one_by_signal_stops_the_load_keeps_what_was_seen_and_lets_the_next_test_run(
        self, project: Project, kind: str
    ) -> None:
        mark = "\n@pytest.mark.asyncio" if kind == "async def" else ""
        with servers.healthy() as server:
            project.write(
                server.url,
                f"{mark}\n@pytest.mark.timeout(3, method='signal'){LONG}{kind} test_rate(): pass\n{FINE}",
            )
            result = project.run()
            count = server.count

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["*Timeout*", "stopped *test_rate *"])
        assert count < 50 * 60 / 2
        kept = record(project)
        assert kept["verdict"] is None
        assert kept["measurements"][0]["state"] == "interrupted"

    def test_one_by_thread_ends_the_process_and_leaves_the_artifacts_of_finished_tests(
        self, project: Project
    ) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                "\n@pytest.mark.capacity(QUICK)\ndef test_done(): pass\n"
                f"\n@pytest.mark.timeout(2, method='thread'){LONG}def test_rate(): pass\n",
            )
            result = project.pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)

        assert result.ret == 1
        assert [(kept["nodeid"][-4:], kept["verdict"]) for kept in records(project)] == [("done", "PASS")]


@needs("pytest_cov")
class TestCov:
    @pytest.mark.parametrize("engine", ["fast", "aiohttp"])
    @pytest.mark.parametrize("core", ["ctrace", "pytrace"])
    def test_what_sends_is_not_traced(
        self, project: Project, core: str, engine: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check runs where the requests leave; what it sees is what the whole of the engine gets."""
        monkeypatch.setenv("COVERAGE_CORE", core)
        with servers.healthy() as server:
            project.pytester.makepyfile(
                model="""
import sys

def check(reply):
    return None if sys.gettrace() is None else f"traced by {sys.gettrace()}"
""",
                test_model=f"""
import sys
import pytest
from model import check
from pytest_capacity import HttpTarget

@pytest.fixture(scope="session")
def capacity_target():
    return HttpTarget({server.url!r}, json={{}}, check=check)

@pytest.mark.capacity(qps=60, p50_ms=20000, error_rate=0.3, min_s=1, budget_s=6)
def test_rate():
    assert sys.gettrace() is not None
""",
            )
            result = project.pytester.runpytest_subprocess(
                "--capacity-mode=smoke",
                f"--capacity-engine={engine}",
                "--cov=model",
                "--cov-report=term",
                "-W",
                "error",
            )

        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["model.py *%"])


class TestReports:
    @pytest.mark.parametrize("family", ["xunit1", "xunit2"])
    def test_junit_gets_verdict_and_figures_as_properties_without_a_warning(
        self, project: Project, family: str
    ) -> None:
        project.write(servers.refusing(), "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n" + UNSURE)

        result = project.run("--junitxml=junit.xml", "-o", f"junit_family={family}", "-W", "error")

        result.assert_outcomes(failed=1)
        result.stdout.no_fnmatch_line("*[0-9] warning*")
        cases = {
            case.get("name"): case
            for case in ET.parse(Path(project.pytester.path, "junit.xml")).iter("testcase")
        }
        properties = {node.get("name"): node.get("value") for node in cases["test_rate"].iter("property")}
        assert properties["capacity.verdict"] == "FAIL"
        assert properties["capacity.artifact"] is not None
        messages = {name: case.find("failure").get("message") for name, case in cases.items()}  # type: ignore[union-attr]
        assert str(messages["test_rate"]).startswith("FAIL  no reply from POST /")
        assert str(messages["test_unsure"]).startswith("INCONCLUSIVE  the machine was busy")

    @needs("pytest_html")
    def test_html_links_the_artifact(self, project: Project) -> None:
        project.write(servers.refusing(), "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")

        result = project.run("--html=out/report.html", "-W", "error")

        result.assert_outcomes(failed=1)
        (artifact,) = Path(project.pytester.path).glob(".capacity/*/*.json")
        page = Path(project.pytester.path, "out/report.html").read_text()
        assert f"../.capacity/test_model/{artifact.name}" in page
        assert "capacity record" in page


class TestOptionsOfPytest:
    def test_without_a_terminal_outcomes_and_records_are_the_same(self, project: Project) -> None:
        project.write(servers.refusing(), "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n" + FINE)

        result = project.run("-p", "no:terminal", "--capacity-json=all.json")

        assert result.ret == 1
        assert record(project)["verdict"] == "FAIL"
        assert Path(project.pytester.path, "all.json").exists()

    def test_lf_runs_again_exactly_what_failed_or_was_inconclusive(self, project: Project) -> None:
        project.write("http://127.0.0.1:1", UNSURE + BROKEN + FINE)
        project.pytester.runpytest_inprocess()

        result = project.pytester.runpytest_inprocess("--lf", "--collect-only", "-q")

        assert [line for line in result.outlines if "::" in line] == [
            "test_model.py::test_unsure",
            "test_model.py::test_broken",
        ]

    def test_x_stops_after_an_inconclusive(self, project: Project) -> None:
        project.write("http://127.0.0.1:1", UNSURE + FINE)

        result = project.run("-x")

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*1 inconclusive in *"])

    @pytest.mark.parametrize("name", ["pytest_capacity.plugin", "capacity"])
    def test_it_can_be_named_where_no_plugin_loads_by_itself(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        project.pytester.makeini("[pytest]\n")
        project.write(servers.refusing(), "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n")

        result = project.pytester.runpytest_subprocess(
            "-p", name, "--strict-markers", "--strict-config", "-W", "error"
        )

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["FAIL  no reply from POST /*"])

    def test_importmode_importlib(self, project: Project) -> None:
        project.write(servers.refusing(), "\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n" + UNSURE)

        result = project.run("--import-mode=importlib", "-W", "error")

        result.stdout.fnmatch_lines(["*1 failed, 1 inconclusive in *"])

    @pytest.mark.parametrize(
        ("option", "lines"),
        [
            ("-q", ["?F.*", "1 failed, 1 passed, 1 inconclusive in *"]),
            ("-v", ["*::test_unsure INCONCLUSIVE *", "*::test_broken FAILED *", "*::test_fine PASSED *"]),
            ("-rA", ["FAILED *::test_broken* - FAIL  too slow*"]),
            ("--tb=short", ["FAIL  too slow", "  much too slow", "INCONCLUSIVE  the machine was busy"]),
            ("--tb=line", ["test_model.py:*: FAIL  too slow", "test_model.py:*: INCONCLUSIVE  the machine*"]),
        ],
    )
    def test_every_verbosity_shows_what_it_should(
        self, project: Project, option: str, lines: list[str]
    ) -> None:
        project.write("http://127.0.0.1:1", UNSURE + BROKEN + FINE)

        result = project.run(option)

        result.stdout.fnmatch_lines(lines)

    def test_no_traceback_no_text(self, project: Project) -> None:
        project.write("http://127.0.0.1:1", UNSURE + BROKEN)

        result = project.run("--tb=no")

        result.stdout.no_fnmatch_line("*much too slow*")
        result.stdout.no_fnmatch_line("*the machine was busy*")
        result.stdout.fnmatch_lines(["*1 failed, 1 inconclusive in *"])


EVERY_OPTION = {
    "capacity_url": '"http://127.0.0.1:1"',
    "capacity_dir": '"kept"',
    "capacity_json": '"all.json"',
    "capacity_mode": '"report"',
    "capacity_inconclusive": '"warn"',
    "capacity_xdist": '"lock"',
    "capacity_engine": '"aiohttp"',
    "capacity_workers": '"1"',
    "capacity_allow_host": '["10.*", "model"]',
    "capacity_max_qps": "500.0",
    "capacity_max_requests": "1000",
    "capacity_max_s": "60.0",
}


class TestConfiguration:
    @pytest.mark.parametrize(
        "table",
        [
            pytest.param(
                "tool.pytest",
                marks=pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 reads tool.pytest"),
            ),
            "tool.pytest.ini_options",
        ],
    )
    def test_every_ini_option_can_be_written_in_either_table(
        self, pytester: pytest.Pytester, table: str
    ) -> None:
        lines = [f"{name} = {value}" for name, value in EVERY_OPTION.items()]
        pytester.makepyprojecttoml("\n".join([f"[{table}]", "addopts = ['--strict-config']", *lines]))
        pytester.makepyfile(
            """
from pytest_capacity.plugin.state import SETTINGS

def test_read(pytestconfig):
    read = pytestconfig.stash[SETTINGS]
    assert read.url == "http://127.0.0.1:1"
    assert (read.directory.name, read.json_path.name) == ("kept", "all.json")
    assert (read.mode, read.inconclusive, read.xdist) == ("report", "warn", "lock")
    assert (read.engine, read.workers) == ("aiohttp", 1)
    assert read.allow_hosts == ("10.*", "model")
    assert (read.max_qps, read.max_requests, read.max_s) == (500, 1000, 60)
"""
        )

        result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:anyio")

        result.assert_outcomes(passed=1)

    def test_the_list_above_is_complete(self, pytester: pytest.Pytester) -> None:
        lines = pytester.runpytest_subprocess("--help").outlines
        names = {line.split()[0] for line in lines if line.startswith("  capacity_")}

        assert names == set(EVERY_OPTION)

    def test_windows_is_refused_by_name(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytest_capacity.plugin.collecting.PLATFORM", "win32")
        project.write("http://127.0.0.1:1", UNSURE + FINE)

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*::test_unsure: *Linux and macOS, not on Windows*"])
        project.run("-m", "not capacity").assert_outcomes(passed=1)
        project.run("--capacity-mode=off").assert_outcomes(passed=1, skipped=1)
