"""The hooks through which pytest calls the plugin.

All runs of pytest import this module, so it imports next to nothing: ``benchmarks/startup.py`` measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_capacity.plugin.options import add_options, read_settings
from pytest_capacity.plugin.state import SETTINGS, is_capacity_item

if TYPE_CHECKING:
    from pytest_capacity.plugin.session import CapacityPlugin

SESSION = "capacity-session"

MARKER_HELP = (
    "capacity(*, qps, p50_ms, p90_ms, p95_ms, p99_ms, p99_9_ms, error_rate, slo, arrivals='poisson', "
    "trace, trace_mode='superpose', trace_ticks='spread', sessions='timed', budget_s=60, min_s=10, "
    "max_in_flight, model): after the test's body, load its capacity_target with qps requests a second, of "
    "recorded traffic where a trace is named, and require the SLO; any quantile can be bounded (p97_ms, "
    "p99_95_ms). With a trace and no qps it is replayed as recorded (rate=1, duration_s)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and read the options."""
    config.addinivalue_line("markers", MARKER_HELP)
    config.stash[SETTINGS] = settings = read_settings(config)
    # A controller of pytest-xdist collects nothing itself.
    distributes = config.getoption("dist", "no") != "no" and bool(config.getoption("tx", None))
    if settings.dry_run and distributes:
        raise pytest.UsageError("--capacity-dry-run looks at the tests in one process: add -n0")
    if settings.dry_run or settings.json_path or distributes:
        engage(config)


def pytest_itemcollected(item: pytest.Item) -> None:
    """See that ``-m capacity`` selects every test that measures."""
    if is_capacity_item(item):
        from pytest_capacity.plugin.collecting import prepare  # noqa: PLC0415 - runs with capacity tests only

        prepare(item)
        # Now, since the header is written before the last hook that sees the whole collection.
        engage(item.config)


@pytest.hookimpl(trylast=True)  # anyio replaces items here
def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the selected tests checked, where any of them measures."""
    if any(map(is_capacity_item, session.items)):
        engage(session.config).check(session)


def engage(config: pytest.Config) -> CapacityPlugin:
    """The part of the plugin that runs with capacity tests need, registered once."""
    from pytest_capacity.plugin.session import CapacityPlugin  # noqa: PLC0415 - runs with capacity tests only

    plugin = config.pluginmanager.getplugin(SESSION)
    if not isinstance(plugin, CapacityPlugin):
        plugin = CapacityPlugin(config)
        config.pluginmanager.register(plugin, SESSION)
    return plugin
