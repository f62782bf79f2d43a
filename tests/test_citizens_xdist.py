"""Beside pytest-xdist: nothing passes unmeasured, no two measure at once, results reach the controller."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_capacity.plugin.lock import lock_path, one_at_a_time
from pytest_capacity.plugin.options import Settings
from pytest_capacity.slo import Inconclusive
from tests import servers
from tests.conftest import Project
from tests.test_outcomes import records

xdist = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("xdist"), reason="pytest-xdist is not installed"
)


@pytest.fixture
def workers(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run the project in a process of its own with two workers; ``-n0`` among the arguments replaces that."""
    # The lock of these tests is their own: others on this machine may be measuring.
    monkeypatch.setenv("TMPDIR", str(project.pytester.path))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    def run(*arguments: str) -> pytest.RunResult:
        return project.pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n2", *arguments)

    return run


TESTS = """
from pathlib import Path

@pytest.fixture
def started():
    Path("started").touch()

@pytest.mark.capacity(QUICK)
def test_rate(started): pass

def test_call(capacity, started):
    capacity.sustain(QUICK)

def test_other(): pass
"""


@xdist
class TestError:
    def test_capacity_tests_fail_with_the_remedies_and_start_nothing(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        with servers.healthy() as server:
            project.write(server.url, TESTS)
            result = workers()

        result.assert_outcomes(failed=2, passed=1)
        assert result.ret == 1
        for remedy in ("-n0", "--capacity-xdist=lock", "-m 'not capacity'"):
            result.stdout.fnmatch_lines([f"*pytest-xdist runs other tests meanwhile*{remedy}*"])
        assert server.count == 0
        assert not Path(project.pytester.path, "started").exists()

    def test_an_xfail_does_not_turn_them_green(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        project.write(
            "http://127.0.0.1:1",
            "\n@pytest.mark.xfail\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pass\n",
        )

        workers().assert_outcomes(failed=1)

    def test_deselecting_them_is_a_remedy(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        project.write("http://127.0.0.1:1", TESTS)

        workers("-m", "not capacity").assert_outcomes(passed=1)

    def test_a_smoke_test_measures_nothing_and_needs_no_remedy(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        with servers.healthy() as server:
            project.write(server.url, TESTS)
            workers("--capacity-mode=smoke").assert_outcomes(passed=1, skipped=2)

    def test_bad_arguments_are_named_by_the_tests_themselves(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        project.write("http://127.0.0.1:1", "\n@pytest.mark.capacity(qsp=1)\ndef test_rate(): pass\n")

        result = workers("--capacity-xdist=lock")

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*unknown argument 'qsp'; did you mean 'qps'?*"])

    def test_a_dry_run_says_that_it_needs_one_process(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        project.write("http://127.0.0.1:1", TESTS)

        result = workers("--capacity-dry-run")

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*--capacity-dry-run*-n0*"])


@xdist
class TestLock:
    def test_measurements_never_overlap_and_their_results_reach_the_controller(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        slow = "qps=60, p50_ms=50, error_rate=0.3, min_s=1, budget_s=8"
        with servers.healthy(delay_s=0.2) as server:
            project.write(
                server.url,
                f"""
def test_pass(capacity):
    capacity.sustain(QUICK, target={server.url + "/pass"!r})

def test_doubt(capacity):
    capacity.sustain(QUICK, max_in_flight=1, target={server.url + "/doubt"!r})

@pytest.fixture
def capacity_target():
    return {server.url + "/fail"!r}

@pytest.mark.capacity({slow})
def test_fail(): pass

def test_other(): pass
""",
            )
            result = workers("--capacity-xdist=lock", "--capacity-json=all.json", "--junitxml=junit.xml")

        assert result.ret == 1
        result.assert_outcomes(passed=2, failed=1)
        turns = [path for path, _ in itertools.groupby(request.path for request in server.requests)]
        assert sorted(turns) == ["/doubt", "/fail", "/pass"]
        result.stdout.fnmatch_lines(["FAIL  p50 > 50 ms at 60/s: *", "  bound *", "  p50 *"])
        result.stdout.fnmatch_lines(["INCONCLUSIVE *were not sent: 1 were in flight already*"])
        result.stdout.fnmatch_lines(["FAILED *::test_fail* - *FAIL  p50*", "*1 inconclusive*"])
        for line in ("PASS *test_pass *", "FAIL *test_fail *", "? *test_doubt *"):
            result.stdout.fnmatch_lines([line])
        together = json.loads(Path(project.pytester.path, "all.json").read_text())
        assert {one["nodeid"]: one["verdict"] for one in together["records"]} == {
            "test_model.py::test_pass": "PASS",
            "test_model.py::test_doubt": "INCONCLUSIVE",
            "test_model.py::test_fail": "FAIL",
        }
        tree = ET.parse(Path(project.pytester.path, "junit.xml"))
        (case,) = tree.iterfind(".//testcase[@name='test_fail']")
        assert "FAIL  p50" in str(case.find("failure").get("message"))  # type: ignore[union-attr]
        properties = {node.get("name"): node.get("value") for node in case.iter("property")}
        assert properties["capacity.verdict"] == "FAIL"

    def test_loadgroup_and_groups_change_neither_node_ids_nor_results(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                TESTS
                + """
@pytest.mark.xdist_group("mine")
@pytest.mark.capacity(QUICK)
@pytest.mark.parametrize("at", ["a@b"])
def test_grouped(at): pass

@pytest.mark.xdist_group("mine")
def test_beside_it(): pass
""",
            )
            result = workers("--capacity-xdist=lock", "--dist", "loadgroup", "-v", "--capacity-json=all.json")

        result.assert_outcomes(passed=5)
        assert [kept["nodeid"] for kept in records(project)] == [
            "test_model.py::test_call",
            "test_model.py::test_grouped[a@b]",
            "test_model.py::test_rate",
        ]
        for line in ("PASS *test_call *", "PASS *test_grouped?a@b? *", "PASS *test_rate *"):
            result.stdout.fnmatch_lines([line])
        together = json.loads(Path(project.pytester.path, "all.json").read_text())
        assert [len(together["records"]), together["no_result"]] == [3, []]
        # pytest-xdist 3.8 cannot group tests under pytest 9.2 (its issue 1386): only there is no group shown.
        groups = [
            line for line in result.outlines if "PASSED" in line and line.rstrip().endswith("@capacity")
        ]
        assert len({line.partition("]")[0] for line in groups}) <= 1
        assert len(groups) in (0, 2)

    @pytest.mark.parametrize(
        ("options", "dies"),
        [((), "call"), ((), "setup"), (("--dist", "loadgroup"), "setup"), (("--reruns", "1"), "setup")],
        ids=["in its call", "in its setup", "in a group", "twice"],
    )
    def test_a_crashed_worker_is_no_result(
        self,
        project: Project,
        workers: Callable[..., pytest.RunResult],
        options: tuple[str, ...],
        dies: str,
    ) -> None:
        if options[:1] == ("--reruns",):
            pytest.importorskip("pytest_rerunfailures")
        project.write(
            "http://127.0.0.1:1",
            f"""
import os

@pytest.fixture
def model():
    if {dies == "setup"}: os._exit(3)

@pytest.mark.xdist_group("mine")
@pytest.mark.capacity(QUICK)
def test_dies(model): os._exit(3)

def test_other(): pass
""",
        )

        result = workers(
            "--capacity-xdist=lock", "--capacity-json=all.json", "--max-worker-restart=1", *options
        )

        assert result.ret == 1
        result.stdout.fnmatch_lines(["no result  test_dies *"])
        together = json.loads(Path(project.pytester.path, "all.json").read_text())
        assert together == {"schema": 1, "records": [], "no_result": ["test_model.py::test_dies"]}
        assert not list(Path(project.pytester.path).glob("pytest-capacity-*/"))

    def test_a_crash_of_any_other_test_is_none_of_its_business(
        self, project: Project, workers: Callable[..., pytest.RunResult]
    ) -> None:
        project.write(
            "http://127.0.0.1:1",
            "import os\n@pytest.mark.capacity(QUICK)\ndef test_rate(): pytest.skip()\n"
            "def test_dies(): os._exit(3)\n",
        )

        result = workers("--capacity-xdist=lock")

        result.assert_outcomes(failed=1, skipped=1)
        result.stdout.no_fnmatch_line("no result*")


HOLDER = """
import sys
from tests.test_citizens_xdist import locking
from pytest_capacity.plugin.lock import one_at_a_time

with one_at_a_time(locking(60.0)):
    print("held", flush=True)
    sys.stdin.read()
"""


def locking(patience_s: float) -> Settings:
    """Settings of a run that measures one at a time."""
    plain = dict.fromkeys(Settings._fields)
    return Settings(**{**plain, "xdist": "lock", "max_s": patience_s})  # type: ignore[arg-type]


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """Another process that measures, until it is killed."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


class TestWaiting:
    def test_a_holder_that_was_killed_frees_the_lock(self, holder: subprocess.Popen[str]) -> None:
        with pytest.raises(Inconclusive), one_at_a_time(locking(0.01)):
            pass
        holder.kill()

        with holder, one_at_a_time(locking(60.0)):
            pass

    def test_a_wait_is_bounded_and_says_so(self, holder: subprocess.Popen[str]) -> None:
        with holder:
            with pytest.raises(Inconclusive, match="no load was sent: other"), one_at_a_time(locking(0.01)):
                pass
            holder.kill()

    def test_a_wait_ends_with_ctrl_c_and_when_its_thread_is_told_to_stop(
        self, holder: subprocess.Popen[str]
    ) -> None:
        stopped = threading.Event()
        stopped.set()
        with pytest.raises(KeyboardInterrupt), one_at_a_time(locking(60.0), stopped):
            pass
        alarm = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        alarm.start()
        with pytest.raises(KeyboardInterrupt), one_at_a_time(locking(60.0)):
            pass
        alarm.join()
        with holder:
            holder.kill()

    def test_others_are_not_kept_waiting_where_nobody_asked(self, holder: subprocess.Popen[str]) -> None:
        with holder:
            with one_at_a_time(locking(60.0)._replace(xdist="error")):
                pass
            holder.kill()

    def test_the_lock_is_the_user_s_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        other = tmp_path / "other"
        lock_path().symlink_to(other)

        with pytest.raises(Exception, match="cannot take the lock"), one_at_a_time(locking(60.0)):
            pass

        assert not other.exists()
