"""The table of outcomes (design.md section 5), row by row, against real sockets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import Project

MARKED = """
@pytest.mark.capacity(QUICK)
def test_rate(capacity_target):
    pass

def test_after():
    pass
"""


BUSY = """
import threading

@pytest.fixture
def busy():
    stop = threading.Event()
    def spin():
        while not stop.is_set():
            sum(range(1000))
    threads = [threading.Thread(target=spin) for _ in range(4)]
    for thread in threads: thread.start()
    yield
    stop.set()
    for thread in threads: thread.join()

@pytest.mark.capacity(qps=60, p50_ms=100, error_rate=0.3, min_s=1, budget_s=6)
def test_rate(busy): pass
"""

BUSY_HERE = (
    BUSY
    + """
@pytest.fixture(scope="session")
def capacity_target():
    return HttpTarget(URL, json={"items": [1]}, timeout_s=5, check=lambda reply: None)
"""
)
"""A check that is a lambda keeps the load in the process of the tests."""


def records(project: Project) -> list[dict[str, Any]]:
    """The records that the run left, by file name."""
    paths = sorted(Path(project.pytester.path).glob(".capacity/**/*.json"))
    return [json.loads(path.read_text()) for path in paths]


def record(project: Project) -> dict[str, Any]:
    """The one record that the run left."""
    (only,) = records(project)
    return only


class TestPass:
    def test_a_healthy_server_passes_with_its_record_and_a_line_in_the_table(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(server.url + "/rank", MARKED)
            result = project.run()

        result.assert_outcomes(passed=2)
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                "capacity: mode=enforce, artifacts in .capacity/, seed *",
                "*-- capacity --*",
                "PASS *test_rate *60/s*",
            ]
        )
        kept = record(project)
        assert kept["verdict"] == "PASS"
        assert kept["nodeid"] == "test_model.py::test_rate"
        # The preflight is the first request; every other one was sent under load.
        assert kept["measurements"][0]["requests"] == server.count - 1


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("qsp=60, p99_ms=50", "unknown argument 'qsp'; did you mean 'qps'?"),
            ("qps=60, p99ms=50", "unknown argument 'p99ms'; did you mean 'p99_ms'?"),
            ("qps=60, p999_ms=50", "did you mean 'p99_9_ms'?"),
            ("qps=60, p99_ms=-5", "p99_ms=-5.0 must be a positive number of milliseconds"),
            ("qps=0, p99_ms=50", "qps=0 must be positive"),
            ("qps='60', p99_ms=50", "qps must be a number, not '60'"),
            ("p99_ms=50", "qps is required"),
            ("qps=60", "an SLO needs at least one bound"),
            ("60, p99_ms=50", "capacity takes keyword arguments only, not 60"),
            ("qps=60, p99_ms=50, slo=SLO(p99_ms=50)", "slo and p99_ms are given"),
            ("qps=60, p99_ms=50, arrivals='gamma'", "arrivals='gamma' is neither"),
            ("qps=60, p99_ms=50, max_in_flight=0", "max_in_flight=0 must be a whole number"),
            ("qps=60, p99_ms=50, model='big'", "model='big' must be a dict"),
            ("qps=60, p99_ms=50, budget_s=5", "budget_s is 5. Use budget_s=17 or more"),
            ("qps=5, p99_ms=50, budget_s=60", "p99 at 5/s needs 299 requests = 60 s"),
            ("qps=20000, p99_ms=50", "over the ceiling of 10,000; if they are meant, raise the ini option"),
        ],
    )
    def test_bad_arguments_end_the_run_before_any_load(
        self, project: Project, arguments: str, message: str
    ) -> None:
        with servers.healthy() as server:
            project.write(server.url, MARKED.replace("QUICK", arguments))
            result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*test_model.py::test_rate: *{re.sub(r'[][]', '?', message)}*"])
        assert server.count == 0
        assert records(project) == []

    def test_every_bad_test_is_named_at_once(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
@pytest.mark.capacity(qps=0, p99_ms=50)
def test_one(): pass

@pytest.mark.capacity(qps=10, p99_ms=50, bogus=1)
def test_two(): pass
""",
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["*2 capacity tests cannot run*", "*::test_one: *", "*::test_two: *bogus*"]
        )

    def test_no_marker_of_several_goes_unnoticed(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
@pytest.mark.capacity(qps=20, p99_ms=50)
@pytest.mark.capacity(qps=10, p99_ms=50)
def test_stacked(): pass

@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.capacity(qps=9, p99_ms=50))])
@pytest.mark.capacity(qps=10, p99_ms=50)
def test_parameter(size): pass

@pytest.mark.capacity(qps=10, p99_ms=50)
class TestModel:
    @pytest.mark.capacity(qps=20, p99_ms=50)
    def test_own(self): pass
""",
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            [
                "*2 capacity tests cannot run*",
                "*::test_stacked: the test has 2 capacity markers*",
                "*::test_parameter?2?: the test has 2 capacity markers*",
            ]
        )

    def test_a_deselected_bad_test_is_not_checked(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1", "\n@pytest.mark.capacity(qps=0)\ndef test_bad(): pass\ndef test_ok(): pass"
        )

        assert project.run("-k", "test_ok").ret == 0

    def test_no_target_is_a_usage_error(self, project: Project) -> None:
        project.pytester.makepyfile(
            "import pytest\n@pytest.mark.capacity(qps=10, p50_ms=100)\ndef test_rate(): pass\n"
            "def test_call(capacity): capacity.sustain(qps=10, p50_ms=100)"
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["*::test_rate: no target: give --capacity-url=URL, or*", "*::test_call: no target*"]
        )

    def test_the_url_may_come_from_the_command_line(self, project: Project) -> None:
        project.pytester.makepyfile(
            "import pytest\n@pytest.mark.capacity(qps=60, p50_ms=9000, error_rate=0.3, min_s=1, budget_s=6)\n"
            "def test_rate(): pass"
        )
        with servers.healthy() as server:
            result = project.run(f"--capacity-url={server.url}")

        result.assert_outcomes(passed=1)
        assert server.count > 60

    def test_a_marker_beside_a_measuring_fixture_is_refused(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1", "\n@pytest.mark.capacity(qps=10, p99_ms=50)\ndef test_both(capacity): pass"
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*::test_both: *use one of the two*"])

    def test_a_method_of_a_unittest_case_is_refused(self, project: Project) -> None:
        project.write(
            "http://127.0.0.1:1",
            """
import unittest

class TestOld(unittest.TestCase):
    @pytest.mark.capacity(qps=10, p50_ms=50)
    def test_rate(self): pass
""",
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*::test_rate: unittest.TestCase methods cannot be measured*"])

    def test_a_call_with_bad_arguments_fails_its_test(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(server.url, "\ndef test_call(capacity):\n    capacity.sustain(qps=5, p99_ms=50)\n")
            result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*CapacityUsageError: no verdict can be reached: p99 at 5/s needs 299 *"]
        )
        assert server.count == 0

    def test_a_host_that_is_not_this_machine_needs_permission(self, project: Project) -> None:
        """The address is from a block that is reserved for documentation: nothing answers there."""
        project.write("http://192.0.2.1/rank", MARKED)

        result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["*host 192.0.2.1 is not this machine*--capacity-allow-host*"])

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("'ftp://127.0.0.1/x'", "*http*"),
            ("42", "*a capacity target is a URL*not 42*"),
            ("lambda: 1", "*a capacity target is a URL*"),
        ],
    )
    def test_a_target_that_is_none_is_refused(self, project: Project, target: str, message: str) -> None:
        project.pytester.makepyfile(
            "import pytest\n@pytest.fixture(scope='session')\ndef capacity_target():\n"
            f"    return {target}\n@pytest.mark.capacity(qps=60, p50_ms=50)\ndef test_rate(): pass\n"
        )

        result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([message])


class TestPreflight:
    def test_a_refused_request_is_explained_and_no_load_is_sent(self, project: Project) -> None:
        body = json.dumps(
            {"detail": [{"type": "missing", "loc": ["body", "items"], "msg": "Field required", "input": {}}]}
        ).encode()
        with servers.answering(422, body) as server:
            project.write(server.url + "/rank", MARKED)
            result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["FAIL  422 from POST /rank: field 'items' required. No load was sent."])
        assert server.count == 1
        kept = record(project)
        assert kept["verdict"] == "FAIL"
        assert kept["measurements"][0]["state"] == "preflight"

    def test_nothing_listens(self, project: Project) -> None:
        project.write(servers.refusing(), MARKED)

        result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["FAIL *refused*No load was sent.*"])

    def test_a_name_that_does_not_resolve(self, project: Project) -> None:
        """The top-level name is reserved for names that never resolve."""
        project.write("http://model.invalid/rank", MARKED)

        result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["FAIL *'model.invalid' does not resolve*No load was sent.*"])

    @pytest.mark.parametrize(
        ("server", "message"),
        [
            (servers.answering(500, b"boom"), "FAIL  500 from POST /rank: boom. No load was sent."),
            (servers.answering(401), "FAIL  401 from POST /rank*No load was sent."),
            (
                servers.answering(302, b"", "Location: /elsewhere"),
                "FAIL  302 from POST /rank*No load was sent.",
            ),
            (servers.raw(b"garbage\r\n\r\n"), "FAIL  no reply from POST /rank: no valid HTTP reply*"),
            (servers.raw(b""), "FAIL  no reply from POST /rank: *"),
            (servers.resetting(), "FAIL  no reply from POST /rank: *"),
        ],
        ids=["500", "401", "redirect", "garbage", "empty", "reset"],
    )
    def test_a_bad_first_reply_fails_before_any_load(
        self, project: Project, server: servers.Server, message: str
    ) -> None:
        with server:
            project.write(server.url + "/rank", MARKED)
            result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines([message])
        assert server.count == 1

    def test_a_server_that_accepts_and_never_answers_is_given_up_at_the_timeout(
        self, project: Project
    ) -> None:
        with servers.hanging() as server:
            project.write(server.url, MARKED)
            project.pytester.path.joinpath("test_model.py").write_text(
                project.pytester.path.joinpath("test_model.py")
                .read_text()
                .replace("timeout_s=5", "timeout_s=0.5")
            )
            result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["FAIL *No load was sent.*"])


class TestUnderLoad:
    """Each server is good for the preflight and the first requests, then misbehaves."""

    @pytest.mark.parametrize(
        "server",
        [servers.dying(after=90), servers.answering(500, b"boom", after=90)],
        ids=["dies", "answers 500"],
    )
    def test_a_server_that_breaks_down_fails_the_error_bound(
        self, project: Project, server: servers.Server
    ) -> None:
        with server:
            project.write(server.url, MARKED)
            result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        result.stdout.fnmatch_lines(["FAIL *", "*error_rate *30.00 % *failed * > 30 %"])
        assert any(breach["bound"] == "error_rate" for breach in record(project)["breaches"])

    def test_a_server_that_hangs_fails_by_age_and_nothing_waits_for_the_timeout(
        self, project: Project
    ) -> None:
        tests = MARKED.replace("QUICK", "qps=60, p50_ms=300, error_rate=0.3, min_s=1, budget_s=20")
        with servers.hanging(after=90) as server:
            project.write(server.url, tests)
            result = project.run()

        result.assert_outcomes(failed=1, passed=1)
        kept = record(project)
        assert [breach["bound"] for breach in kept["breaches"]] == ["p50_ms"]
        assert kept["measurements"][0]["load_s"] < 20

    def test_refused_credentials_stop_the_load_at_once(self, project: Project) -> None:
        with servers.answering(401, after=60) as server:
            project.write(server.url, MARKED)
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(["*the server answered 401: credentials were refused*"])
        assert record(project)["measurements"][0]["state"] == "stopped"

    def test_requests_kept_back_by_the_in_flight_bound_are_inconclusive(self, project: Project) -> None:
        tests = MARKED.replace("QUICK", "QUICK, max_in_flight=1")
        with servers.healthy(delay_s=0.1) as server:
            project.write(server.url, tests)
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(
            [
                "INCONCLUSIVE *were not sent: 1 were in flight already*",
                "*try: max_in_flight above that*",
                "*1 inconclusive*",
            ]
        )

    def test_a_late_generator_is_inconclusive_with_the_remedy(self, project: Project) -> None:
        """Threads that never let go of the interpreter keep every send from it waiting for milliseconds."""
        with servers.elsewhere() as url:
            project.write(url, BUSY_HERE)
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["INCONCLUSIVE  the load generator was late: *", "*try: a quieter machine*"]
        )

    def test_what_the_tests_compute_meanwhile_does_not_reach_load_from_its_own_process(
        self, project: Project
    ) -> None:
        with servers.elsewhere() as url:
            project.write(url, BUSY)
            project.run()
        kept = record(project)
        late_ms = kept["generator"]["late_p50_ms"]
        assert kept["generator"]["workers"] == 1
        with servers.elsewhere() as url:
            project.write(url, BUSY_HERE)
            project.run()
        kept = record(project)
        assert kept["generator"]["workers"] == 0
        # The interpreter is handed over every half a millisecond, to one of four.
        assert late_ms < kept["generator"]["late_p50_ms"]

    def test_what_the_budget_cannot_decide_is_inconclusive_after_one_extension(
        self, project: Project
    ) -> None:
        """Every second reply fails, and half of them may."""
        tests = MARKED.replace("QUICK", "qps=30, error_rate=0.5, min_s=1, budget_s=4")
        with servers.alternating(500) as server:
            project.write(server.url, tests)
            result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(
            ["INCONCLUSIVE  error_rate: * % of requests failed, and the interval *", "*try: budget_s=*"]
        )
        kept = record(project)
        assert kept["verdict"] == "INCONCLUSIVE"
        assert 4 < kept["measurements"][0]["load_s"] < 9
        assert kept["doubts"][0]["kind"] == "undecided"
