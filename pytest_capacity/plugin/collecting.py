"""Checking capacity tests once they are selected, all at once and before any load."""

from __future__ import annotations

import inspect
import sys
import unittest
from collections.abc import Iterable

import pytest

from pytest_capacity.plugin.demand import Demand, ReplayDemand, read_marker
from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import (
    DEMAND,
    NO_TARGET,
    PROBLEM,
    is_capacity_item,
    is_marked,
    uses_measuring_fixture,
)
from pytest_capacity.plugin.xdist import keep_together

PLATFORM = sys.platform


def prepare(item: pytest.Item) -> None:
    """Make a collected capacity test selectable by ``-m capacity``; see that a marked one gets its target."""
    if uses_measuring_fixture(item):
        if item.get_closest_marker("capacity") is None:
            item.add_marker("capacity")
    else:
        names = getattr(item, "fixturenames", None)
        if names is not None and "capacity_target" not in names:
            names.append("capacity_target")
    keep_together(item)


def find_problems(items: Iterable[pytest.Item], settings: Settings) -> dict[str, str]:
    """What is wrong with each bad test, by node id; good marked tests get their demand."""
    problems = {}
    for item in items:
        if not is_capacity_item(item):
            continue
        problem = _problem(item, settings)
        if problem:
            problems[item.nodeid] = problem
    return problems


def _problem(item: pytest.Item, settings: Settings) -> str | None:
    unfit = _unfit(item)
    if unfit:
        return unfit
    if is_marked(item):
        try:
            demand = _demand_of(item)
            _check_demand(item, demand, settings)
        except (TypeError, ValueError) as error:
            return str(error)
        item.stash[DEMAND] = demand
    return _bad_default_target(settings.url) if _target_is_default(item) else None


def _unfit(item: pytest.Item) -> str | None:
    """Why a test can be measured with no arguments whatever."""
    if PLATFORM == "win32":
        return (
            "pytest-capacity measures on Linux and macOS, not on Windows: leave it out with -m 'not capacity'"
        )
    cls = getattr(item, "cls", None)
    if isinstance(cls, type) and issubclass(cls, unittest.TestCase):
        return "unittest.TestCase methods cannot be measured: use a plain function or class"
    if not hasattr(item, "fixturenames"):
        return "only Python test functions can be measured"
    if is_marked(item) and _is_coroutine_under_hypothesis(item):
        return "a coroutine under Hypothesis runs on many loops: measure in a test of its own"
    if is_marked(item) and uses_measuring_fixture(item):
        return "the marker measures after the body and the fixture measures in it: use one of the two"
    return None


def hold_back(item: pytest.Item, problem: str) -> None:
    """Have a test fail with what is wrong, in place of its body and without its fixtures' servers."""
    item.stash[PROBLEM] = problem
    if hasattr(item, "fixturenames"):
        # A list of its own: parametrized tests share one.
        item.fixturenames = []


def _is_coroutine_under_hypothesis(item: pytest.Item) -> bool:
    handle = getattr(getattr(item, "obj", None), "hypothesis", None)
    return inspect.iscoroutinefunction(getattr(handle, "inner_test", None))


def _demand_of(item: pytest.Item) -> Demand | ReplayDemand:
    marker = item.get_closest_marker("capacity")
    if marker is None:
        raise TypeError("the test has no capacity marker")
    own = [mark for mark in item.own_markers if mark.name == "capacity"]
    if len(own) > 1:
        raise TypeError(
            f"the test has {len(own)} capacity markers, and one of them would go unnoticed: give it one, or "
            "each parameter one and the function none"
        )
    if marker.args:
        raise TypeError(f"capacity takes keyword arguments only, not {marker.args[0]!r}")
    return read_marker(marker.kwargs)


def _check_demand(item: pytest.Item, demand: Demand | ReplayDemand, settings: Settings) -> None:
    # Only here does a run with capacity tests begin to import what measures.
    from pytest_capacity.plugin.traces import check_demand  # noqa: PLC0415

    check_demand(item, demand, settings)


def _bad_default_target(url: str | None) -> str | None:
    if url is None:
        return NO_TARGET
    from pytest_capacity.results.redact import redact_text  # noqa: PLC0415 - runs with capacity tests only
    from pytest_capacity.targets.resolve import as_target  # noqa: PLC0415

    try:
        as_target(url)
    except (TypeError, ValueError) as error:
        return f"capacity_url: {redact_text(str(error))}"
    return None


def _target_is_default(item: pytest.Item) -> bool:
    """Whether nothing overrides the plugin's own ``capacity_target`` for this test.

    pytest has no public way to ask before the fixture runs; without the answer the fixture itself reports.
    """
    info = getattr(item, "_fixtureinfo", None)
    definitions = getattr(info, "name2fixturedefs", {}).get("capacity_target")
    if definitions is None:
        manager = getattr(item.session, "_fixturemanager", None)
        definitions = manager.getfixturedefs("capacity_target", item) if manager else None
    if not definitions:
        return False
    return getattr(definitions[-1].func, "__module__", "") == "pytest_capacity.plugin.fixtures"


def usage_text(problems: dict[str, str]) -> str:
    """One message for all bad tests."""
    count = len(problems)
    head = f"{count} capacity test{'s' * (count > 1)} cannot run, no load was sent:"
    return "\n".join([head, *(f"  {nodeid}: {problem}" for nodeid, problem in problems.items())])
