"""Marked coroutine tests are measured while their own loop runs, whichever plugin runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import QUICK, Project
from tests.test_outcomes import record, records

IN_LOOP = """
import asyncio, threading
import pytest
from aiohttp import web
from pytest_capacity import HttpTarget

QUICK = dict(QUICK_DEMAND)

async def serve(delay_s=0.0, port=0):
    async def reply(request):
        assert threading.current_thread() is threading.main_thread()
        await asyncio.sleep(delay_s)
        return web.json_response({"ok": True})
    app = web.Application()
    app.router.add_post("/", reply)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner

def target_of(runner):
    return HttpTarget(f"http://127.0.0.1:{runner.addresses[0][1]}/", json={})
""".replace("QUICK_DEMAND", QUICK)

FIXTURE = """
async def capacity_target():
    runner = await serve()
    yield target_of(runner)
    await runner.cleanup()
"""

STYLES = {
    "asyncio strict": (
        "import pytest_asyncio\nrun_by = pytest.mark.asyncio\nasync_fixture = pytest_asyncio.fixture\n",
        (),
    ),
    "asyncio auto": (
        "run_by = lambda function: function\nasync_fixture = pytest.fixture\n",
        ("-o", "asyncio_mode=auto"),
    ),
    "anyio": (
        """
run_by = pytest.mark.anyio
async_fixture = pytest.fixture

@pytest.fixture
def anyio_backend():
    return "asyncio"

""",
        (),
    ),
}


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    """How a project runs its coroutine tests: the lines it needs, and options."""
    if request.param == "anyio":
        pytest.importorskip("anyio")
    return STYLES[request.param]


class TestOnTheLoop:
    def test_a_server_on_the_test_s_own_loop_is_served(
        self, project: Project, style: tuple[str, tuple[str, ...]]
    ) -> None:
        lines, options = style
        project.pytester.makepyfile(
            test_model=IN_LOOP
            + lines
            + "@async_fixture"
            + FIXTURE
            + """
seen = []

@run_by
@pytest.mark.capacity(**QUICK)
async def test_rate(capacity_target):
    await asyncio.sleep(0)
    seen.append("body")

def test_body_ran_once():
    assert seen == ["body"]
"""
        )

        result = project.run("-W", "error", *options)

        result.assert_outcomes(passed=2)
        kept = record(project)
        assert kept["verdict"] == "PASS"
        assert kept["requirement"]["source"] == "marker"

    def test_a_server_that_the_body_starts_is_served_too(self, project: Project) -> None:
        project.pytester.makepyfile(
            test_model=IN_LOOP
            + """
import socket
import pytest_asyncio

class TestModel:
    @pytest_asyncio.fixture
    async def capacity_target(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        yield HttpTarget(f"http://127.0.0.1:{self.socket.getsockname()[1]}/", json={})
        await self.runner.cleanup()
        self.socket.close()

    @pytest.mark.asyncio
    @pytest.mark.capacity(**QUICK)
    async def test_rate(self):
        async def reply(request):
            return web.json_response({"ok": True})
        app = web.Application()
        app.router.add_post("/", reply)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.SockSite(self.runner, self.socket).start()
"""
        )

        result = project.run("--capacity-mode=smoke", "-rs")

        result.stdout.fnmatch_lines(["SKIPPED *all replies were good*"])

    def test_a_modest_rate_is_never_failed_for_sharing_the_interpreter(self, project: Project) -> None:
        """The bound is a human's tenth of a second: a starved loop would be far above it."""
        project.pytester.makepyfile(
            test_model=IN_LOOP
            + "import pytest_asyncio\n@pytest_asyncio.fixture"
            + FIXTURE
            + """
@pytest.mark.asyncio
@pytest.mark.capacity(qps=60, p50_ms=100, error_rate=0.3, min_s=1, budget_s=8)
async def test_rate(): pass
"""
        )

        project.run()

        assert record(project)["verdict"] != "FAIL"


class TestVerdicts:
    def test_a_violation_is_a_failure_of_the_call_shown_as_its_text(self, project: Project) -> None:
        project.pytester.makepyfile(
            test_model=IN_LOOP
            + "import pytest_asyncio\n@pytest_asyncio.fixture"
            + FIXTURE.replace("serve()", "serve(delay_s=0.6)")
            + """
@pytest.mark.asyncio
@pytest.mark.capacity(qps=60, p50_ms=100, error_rate=0.3, min_s=1, budget_s=8)
async def test_rate(): pass
"""
        )

        result = project.run()

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["FAIL  p50 > 100 ms at 60/s: *", "FAILED *::test_rate* - *FAIL*"])
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*beside.py*")

    def test_a_violation_in_a_call_names_the_test_s_own_line(self, project: Project) -> None:
        project.write(servers.refusing(), f"\n@pytest.mark.asyncio\n{CALLED.replace(LONG, 'QUICK')}\n")

        result = project.run("--tb=short")

        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["test_model.py:*: in test_rate", "E *SLOViolation: FAIL  no reply *"])
        result.stdout.no_fnmatch_line("*pytest_capacity/*.py:*")

    @pytest.mark.parametrize(
        ("body", "outcome"),
        [("pytest.skip('not today')", "skipped"), ("assert False", "failed")],
    )
    def test_a_body_that_does_not_pass_sends_no_load(self, project: Project, body: str, outcome: str) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                f"\n@pytest.mark.asyncio\n@pytest.mark.capacity(QUICK)\nasync def test_rate():\n    {body}\n",
            )
            result = project.run()

        result.assert_outcomes(**{outcome: 1})
        assert server.count == 0
        assert records(project) == []

    def test_modes_hold_for_coroutines(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(
                server.url,
                "\n@pytest.mark.asyncio\n@pytest.mark.capacity(QUICK)\nasync def test_rate(): pass\n",
            )
            result = project.run("--capacity-mode=smoke", "-rs")

        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(["SKIPPED *SLO not judged*"])

    def test_a_coroutine_that_no_plugin_runs_fails_unmeasured(self, project: Project) -> None:
        with servers.healthy() as server:
            project.write(server.url, "\n@pytest.mark.capacity(QUICK)\nasync def test_rate(): pass\n")
            result = project.run("-p", "no:asyncio", "-o", "addopts=", "-p", "no:anyio")

        result.assert_outcomes(failed=1)
        assert server.count == 0

    def test_a_runner_that_takes_its_own_copy_of_the_function_never_passes_unmeasured(
        self, project: Project
    ) -> None:
        project.pytester.makeconftest(
            """
import asyncio, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    asyncio.run(pyfuncitem.module.test_rate())
    return True
"""
        )
        project.write("http://127.0.0.1:1", "\n@pytest.mark.capacity(QUICK)\nasync def test_rate(): pass\n")

        result = project.run()

        assert result.ret == 1
        result.stdout.fnmatch_lines(["INCONCLUSIVE *left out the measurement*", "*1 inconclusive*"])

    def test_a_coroutine_under_hypothesis_is_refused(self, project: Project) -> None:
        pytest.importorskip("hypothesis")
        project.write(
            "http://127.0.0.1:1",
            """
from hypothesis import given, strategies

@pytest.mark.asyncio
@pytest.mark.capacity(QUICK)
@given(strategies.integers())
async def test_rate(number): pass
""",
        )

        result = project.run()

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*::test_rate: a coroutine under Hypothesis *"])


LONG = "qps=50, p99_ms=20000, error_rate=0.02, budget_s=60"
MARKED = f"@pytest.mark.capacity({LONG})\nasync def test_rate(): pass"
CALLED = f"async def test_rate(async_capacity):\n    await async_capacity.sustain({LONG})"


@pytest.mark.parametrize(
    ("number", "name", "test"),
    [
        (signal.SIGINT, "asyncio", MARKED),
        (signal.SIGTERM, "asyncio", CALLED),
        (signal.SIGINT, "anyio", CALLED),
        (signal.SIGTERM, "anyio", MARKED),
    ],
    ids=["SIGINT asyncio", "SIGTERM asyncio call", "SIGINT anyio call", "SIGTERM anyio"],
)
def test_a_signal_ends_the_load_of_a_coroutine_test(
    project: Project, number: signal.Signals, name: str, test: str
) -> None:
    pytest.importorskip(name)
    with servers.healthy() as server:
        project.write(
            server.url,
            f"""
@pytest.fixture
def anyio_backend(): return "asyncio"

@pytest.mark.{name}
{test}

def test_after(): pass
""",
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
            cwd=project.pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        server.wait_for(100)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        count = server.count

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert count < 50 * 60 / 2
    assert "stopped  test_rate" in output
    assert "test_after" not in output
    (path,) = Path(project.pytester.path).glob(".capacity/**/*.json")
    kept = json.loads(path.read_text())
    assert kept["verdict"] is None
    assert kept["measurements"][0]["state"] == "interrupted"
    assert kept["measurements"][0]["requests"] > 50
    for noise in ("Task was destroyed", "never retrieved", "never awaited", "ResourceWarning"):
        assert noise not in output


@pytest.mark.parametrize(
    ("name", "test"), [("asyncio", CALLED), ("asyncio", MARKED), ("anyio", CALLED), ("anyio", MARKED)]
)
def test_ctrl_c_during_the_preflight_of_a_hung_server_waits_for_nothing(
    project: Project, name: str, test: str
) -> None:
    """A measurement that was still waited for at the end would have left no record."""
    pytest.importorskip(name)
    with servers.hanging() as server:
        project.write(
            server.url,
            f"""
@pytest.fixture
def anyio_backend(): return "asyncio"

@pytest.mark.{name}
{test}
""",
        )
        path = Path(project.pytester.path, "test_model.py")
        path.write_text(path.read_text().replace("timeout_s=5", "timeout_s=600"))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
            cwd=project.pytester.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        server.wait_for(1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "stopped  test_rate" in output
    kept = record(project)
    assert [one["state"] for one in kept["measurements"]] == ["interrupted"]
    for noise in ("Task was destroyed", "never retrieved", "never awaited", "ResourceWarning"):
        assert noise not in output
