"""Ctrl-C and SIGTERM stop the load at once, keep what was seen, and give no verdict."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import Project

TESTS = """
@pytest.mark.capacity(qps=50, p99_ms=20000, error_rate=0.02, budget_s=60)
def test_rate(): pass

def test_after(): pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_load_and_leaves_a_partial_record(project: Project, number: signal.Signals) -> None:
    with servers.healthy() as server:
        project.write(server.url, TESTS)
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
    assert "Task was destroyed" not in output
    assert "ResourceWarning" not in output


def test_an_exception_from_outside_the_test_leaves_a_partial_record(project: Project) -> None:
    """A timeout plugin raises in the middle of the measurement; so does this test's own alarm."""
    with servers.healthy() as server:
        project.write(
            server.url,
            """
import signal

@pytest.fixture
def alarm():
    def ring(number, frame):
        pytest.fail("took too long")
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 3)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)

@pytest.mark.capacity(qps=50, p99_ms=20000, error_rate=0.02, budget_s=60)
def test_rate(alarm): pass

@pytest.mark.capacity(QUICK)
def test_next(): pass
""",
        )
        result = project.run()

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*took too long*"])
    kept = [json.loads(path.read_text()) for path in Path(project.pytester.path).glob(".capacity/**/*.json")]
    assert sorted(str(one["verdict"]) for one in kept) == ["None", "PASS"]
