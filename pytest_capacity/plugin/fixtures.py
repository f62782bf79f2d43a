"""The fixtures: a session-wide target, and function-wide ways to measure it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_capacity.plugin.hooks import engage
from pytest_capacity.plugin.state import NO_TARGET, SETTINGS

if TYPE_CHECKING:
    from pytest_capacity.plugin.asynchronous import AsyncCapacity
    from pytest_capacity.plugin.driver import Capacity
    from pytest_capacity.results.measured import Measured


@pytest.fixture(scope="session")
def capacity_target(pytestconfig: pytest.Config) -> object:
    """Where load goes: override it to return a URL or an HttpTarget; by default --capacity-url."""
    url = pytestconfig.stash[SETTINGS].url
    if url is None:
        raise pytest.UsageError(NO_TARGET)
    return url


@pytest.fixture
def capacity(request: pytest.FixtureRequest, capacity_target: object) -> Capacity:
    """Measure from the test's own code: ``capacity.sustain(qps=200, slo=SLO(p99_ms=50))``."""
    from pytest_capacity.plugin.driver import Capacity  # noqa: PLC0415 - runs with capacity tests only

    return Capacity(_test_of(request), capacity_target)


@pytest.fixture
def capacity_search(request: pytest.FixtureRequest, capacity_target: object) -> Callable[..., Measured]:
    """Find how much the target takes: ``capacity_search(p99_ms=50, require_qps=150)``."""
    from pytest_capacity.plugin.driver import Capacity  # noqa: PLC0415 - runs with capacity tests only

    return Capacity(_test_of(request), capacity_target).search


@pytest.fixture
def capacity_replay(request: pytest.FixtureRequest, capacity_target: object) -> Callable[..., Measured]:
    """Judge recorded traffic, as recorded: ``capacity_replay("peak.trace.jsonl.gz", p99_ms=50)``."""
    from pytest_capacity.plugin.driver import Capacity  # noqa: PLC0415 - runs with capacity tests only

    return Capacity(_test_of(request), capacity_target).replay


@pytest.fixture
def async_capacity(request: pytest.FixtureRequest, capacity_target: object) -> AsyncCapacity:
    """Measure from a coroutine test: ``await async_capacity.sustain(qps=50, p99_ms=80)``."""
    from pytest_capacity.plugin.asynchronous import AsyncCapacity  # noqa: PLC0415 - imports asyncio

    return AsyncCapacity(_test_of(request), capacity_target)


def _test_of(request: pytest.FixtureRequest) -> pytest.Item:
    item = request.node
    assert isinstance(item, pytest.Item)  # noqa: S101 - a function-scoped fixture's node is its test
    # Where a test asks only while it runs, nobody has seen it coming.
    engage(request.config)
    return item
