"""The hooks through which pytest calls the plugin."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.plugin.collecting import find_problems, prepare, usage_text
from pytest_capacity.plugin.demand import MARKER_HELP
from pytest_capacity.plugin.options import add_options, read_settings
from pytest_capacity.plugin.outcome import (
    ROWS_ATTRIBUTE,
    describe_on_report,
    skip_unjudged,
    status_of,
)
from pytest_capacity.plugin.state import (
    DEMAND,
    PROBLEM,
    ROWS,
    SETTINGS,
    is_capacity_item,
    is_marked,
    uses_measuring_fixture,
)
from pytest_capacity.plugin.terminal import header, write_dry_run, write_inconclusive, write_summary
from pytest_capacity.slo import CapacityUsageError, Inconclusive


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and the plugin's session-wide half."""
    config.addinivalue_line("markers", MARKER_HELP)
    config.stash[SETTINGS] = read_settings(config)
    config.pluginmanager.register(CapacityPlugin(config), "capacity-session")


class CapacityPlugin:
    """What the plugin does in one run of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = config.stash[SETTINGS]
        self._rows: list[dict[str, Any]] = []
        self._is_worker = hasattr(config, "workerinput")

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """See that ``-m capacity`` selects every test that measures."""
        prepare(item)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Check the selected tests; one UsageError names all that cannot run."""
        if self._settings.mode == "off":
            return
        problems = find_problems(session.items, self._settings)
        if not problems:
            return
        if not self._is_worker:
            raise pytest.UsageError(usage_text(problems))
        # A worker that raises here is only reported as crashed: its tests must say themselves what is wrong.
        for item in session.items:
            if item.nodeid in problems:
                item.stash[PROBLEM] = problems[item.nodeid]

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Say how capacity tests will run, where there are any."""
        return header(items, self._settings)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In a dry run, print the plan in place of running tests."""
        if not self._settings.dry_run or session.config.option.collectonly:
            return None
        write_dry_run(session.config.pluginmanager.getplugin("terminalreporter"), session.items)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Keep a test that may not run from setting up its servers."""
        if not is_capacity_item(item):
            return
        if self._settings.mode == "off":
            pytest.skip("capacity tests are off (--capacity-mode=off)")
        if self._is_worker:
            item.stash.setdefault(
                PROBLEM, "tests of other pytest-xdist workers would disturb the measurement: run with -n0"
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body; then measure a marked test, and see that a test with a fixture did measure."""
        __tracebackhide__ = True
        if PROBLEM in item.stash:
            raise CapacityUsageError(item.stash[PROBLEM])
        item.stash[ROWS] = []
        try:
            result = yield
            if is_marked(item):
                from pytest_capacity.plugin.measuring import measure  # noqa: PLC0415 - imports what measures

                target = getattr(item, "funcargs", {}).get("capacity_target")
                measure(item, target, item.stash[DEMAND], source="marker")
        except KeyboardInterrupt:
            # An interrupted test gets no report: its row would be lost.
            rows = item.stash[ROWS]
            self._rows.extend(rows)
            raise
        if not is_marked(item) and uses_measuring_fixture(item) and not item.stash[ROWS]:
            raise Inconclusive("INCONCLUSIVE  the test asked for 'capacity' but measured nothing with it")
        skip_unjudged(item, self._settings)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was measured on the report."""
        report = yield
        describe_on_report(item, call, report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what tests measured, in whichever process they ran."""
        self._rows.extend(getattr(report, ROWS_ATTRIBUTE, []))

    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Show an inconclusive test as such."""
        return status_of(report)

    def pytest_sessionfinish(self) -> None:
        """Write the records of the whole run to one file where that is asked for."""
        if self._settings.json_path is not None and not self._is_worker:
            write_all(self._settings.json_path, self._rows, self._config.rootpath)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of verdicts."""
        write_inconclusive(terminalreporter)
        write_summary(terminalreporter, self._rows)


def write_all(path: Path, rows: list[dict[str, Any]], root: Path) -> None:
    """Join the records behind the rows into one file; a test with several measurements has one record."""
    from pytest_capacity.results.store import read_record, write_json_atomically  # noqa: PLC0415

    artifacts = dict.fromkeys(str(row["artifact"]) for row in rows)
    write_json_atomically(path, {"schema": 1, "records": [read_record(root / name) for name in artifacts]})
