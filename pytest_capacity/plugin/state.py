"""What the plugin keeps on items and reports."""

from __future__ import annotations

import inspect
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_capacity.plugin.demand import Demand, ReplayDemand
    from pytest_capacity.plugin.options import Settings

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
DEMAND: pytest.StashKey[Demand | ReplayDemand] = pytest.StashKey()
"""The checked demand of a marked test; tests with a measuring fixture have none."""
ROWS = pytest.StashKey[list[dict[str, Any]]]()
"""Summary rows of what a test measured, plain JSON, one a measurement."""
NODEID = pytest.StashKey[str]()
"""A test's node id before pytest-xdist wrote its group into it."""
BESIDE = pytest.StashKey[list[Any]]()
"""Measurements of a test that run in threads of their own, where Ctrl-C does not reach them."""
INTERRUPTED: ContextVar[threading.Event | None] = ContextVar("capacity_interrupted", default=None)
"""In such a thread: set to end its measurement."""
PROBLEM = pytest.StashKey[str]()
"""Why a test may not run, where raising it for the whole session was not possible."""

NO_TARGET = (
    "no target: give --capacity-url=URL, or define a session fixture capacity_target that returns a URL "
    "or an HttpTarget"
)
"""Said at collection, or by the fixture itself where pytest does not tell beforehand which one it will be."""

MEASURING_FIXTURES = frozenset({"capacity", "capacity_search", "capacity_replay", "async_capacity"})
"""Fixtures through which a test's own code measures."""


def uses_measuring_fixture(item: pytest.Item) -> bool:
    """Whether the test asks for a fixture that measures."""
    return bool(measuring_fixtures(item))


def measuring_fixtures(item: pytest.Item) -> list[str]:
    """The fixtures that the test asks for and that measure."""
    return sorted(MEASURING_FIXTURES.intersection(getattr(item, "fixturenames", ())))


def is_marked(item: pytest.Item) -> bool:
    """Whether the test's own or closest marker demands something, which leaves it to the plugin to measure.

    A bare marker beside a measuring fixture only selects.
    """
    marker = item.get_closest_marker("capacity")
    if marker is None:
        return False
    return bool(marker.args or marker.kwargs) or not uses_measuring_fixture(item)


def is_capacity_item(item: pytest.Item) -> bool:
    """Whether the test measures at all."""
    return item.get_closest_marker("capacity") is not None or uses_measuring_fixture(item)


def is_coroutine_test(item: pytest.Item) -> bool:
    """Whether an event loop runs the test's body."""
    return inspect.iscoroutinefunction(getattr(item, "obj", None))


def nodeid_of(item: pytest.Item) -> str:
    """The test's node id, the same with and without pytest-xdist."""
    return item.stash.get(NODEID, item.nodeid)
