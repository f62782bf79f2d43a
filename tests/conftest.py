"""What several test modules share."""

from __future__ import annotations

import signal

import pytest

# pytester forgets modules that a run inside this process imported first, which numpy does not survive.
import pytest_capacity.plugin.asynchronous
import pytest_capacity.plugin.measuring
import pytest_capacity.plugin.session  # noqa: F401

# A shell gives what it starts in the background an ignored SIGINT, which children inherit: Ctrl-C could then
# be tested neither here nor in them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

INI = """
[pytest]
asyncio_default_fixture_loop_scope = function
"""

TARGET = """
import pytest
from pytest_capacity import SLO, HttpTarget, Inconclusive, SLOViolation

URL = {url!r}

@pytest.fixture(scope="session")
def capacity_target():
    return HttpTarget(URL, json={{"items": [1]}}, timeout_s=5)
"""

QUICK = "qps=60, p50_ms=20000, error_rate=0.3, min_s=1, budget_s=6"
"""A demand that some dozen requests decide, with a bound that no noise of the machine reaches."""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A made-up model repository in which pytest runs with the plugin, as at a desk.

    Under CI pytest prints more, which is not what these tests are about.
    """
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(INI)
    return Project(pytester)


class Project:
    """Writes tests against a URL and runs them."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def write(self, url: str, tests: str) -> None:
        """Make a test module whose capacity_target is ``url``; QUICK stands for a quick demand."""
        source = TARGET.format(url=url) + tests.replace("QUICK", QUICK)
        self.pytester.makepyfile(test_model=source)

    def run(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
