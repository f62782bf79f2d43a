"""What the plugin keeps on items and reports."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_capacity.plugin.demand import Demand
from pytest_capacity.plugin.options import Settings

SETTINGS = pytest.StashKey[Settings]()
DEMAND = pytest.StashKey[Demand]()
"""The checked demand of a marked test; tests with a measuring fixture have none."""
ROWS = pytest.StashKey[list[dict[str, Any]]]()
"""Summary rows of what a test measured, plain JSON, one a measurement."""
PROBLEM = pytest.StashKey[str]()
"""Why a test may not run, where raising it for the whole session was not possible."""

MEASURING_FIXTURES = frozenset({"capacity"})
"""Fixtures through which a test's own code measures."""


def uses_measuring_fixture(item: pytest.Item) -> bool:
    """Whether the test asks for a fixture that measures."""
    return not MEASURING_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


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
