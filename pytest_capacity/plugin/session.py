"""The plugin's half that lives in runs with capacity tests only; for all others it is never imported."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.plugin.collecting import find_problems, hold_back, usage_text
from pytest_capacity.plugin.outcome import (
    ROWS_ATTRIBUTE,
    describe_on_report,
    link_artifact,
    restore_failure,
    skip_unjudged,
    status_of,
)
from pytest_capacity.plugin.state import (
    BESIDE,
    DEMAND,
    PROBLEM,
    ROWS,
    SETTINGS,
    is_capacity_item,
    is_coroutine_test,
    is_marked,
    measuring_fixtures,
    uses_measuring_fixture,
)
from pytest_capacity.plugin.terminal import header, write_dry_run, write_inconclusive, write_summary
from pytest_capacity.plugin.xdist import Unfinished, is_worker, list_for_controller, refusal
from pytest_capacity.slo import CapacityUsageError, Inconclusive


class CapacityPlugin:
    """Checks, runs and reports the capacity tests of one run of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = config.stash[SETTINGS]
        self._rows: list[dict[str, Any]] = []
        self._unfinished = Unfinished()
        self._is_worker = is_worker(config)

    def check(self, session: pytest.Session) -> None:
        """Check the selected tests; one UsageError names all that cannot run."""
        if self._settings.mode == "off":
            return
        problems = find_problems(session.items, self._settings)
        if problems and not self._is_worker:
            raise pytest.UsageError(usage_text(problems))
        list_for_controller(self._config, session.items)
        # A worker that raises here is only reported as crashed: its tests must say themselves what is wrong.
        refused = refusal(self._config, self._settings)
        for item in filter(is_capacity_item, session.items):
            problem = problems.get(item.nodeid, refused)
            if problem:
                hold_back(item, problem)

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Say how capacity tests will run, where there are any."""
        return header(items, self._settings)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """In a dry run, print the plan in place of running tests."""
        if not self._settings.dry_run or session.config.option.collectonly:
            return None
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        write_dry_run(reporter, session.items, self._settings)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Keep a test that is switched off from setting up its servers."""
        if self._settings.mode == "off" and is_capacity_item(item):
            pytest.skip("capacity tests are off (--capacity-mode=off)")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the body; then measure a marked test, and see that a test with a fixture did measure."""
        __tracebackhide__ = True
        if PROBLEM in item.stash:
            raise CapacityUsageError(item.stash[PROBLEM])
        item.stash[ROWS] = []
        item.stash[BESIDE] = []
        try:
            try:
                result = yield from run_and_measure(item)
            finally:
                for beside in item.stash[BESIDE]:
                    beside.stop()
        except (KeyboardInterrupt, pytest.exit.Exception):
            # An interrupted test gets no report: its row would be lost.
            rows = item.stash[ROWS]
            self._rows.extend(rows)
            raise
        if not is_marked(item) and uses_measuring_fixture(item) and not item.stash[ROWS]:
            asked = " and ".join(map(repr, measuring_fixtures(item)))
            awaits = "; is an await missing?" if "async_capacity" in asked else ""
            raise Inconclusive(
                f"INCONCLUSIVE  the test asked for {asked} but measured nothing with it{awaits}"
            )
        skip_unjudged(item, self._settings)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what was measured on the report."""
        report = yield
        describe_on_report(item, call, report)
        link_artifact(report, self._config)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_report_from_serializable(self) -> Generator[None, Any, Any]:
        """Give a verdict that came from another process its form back."""
        report = yield
        restore_failure(report)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what tests measured, in whichever process they ran."""
        self._rows.extend(getattr(report, ROWS_ATTRIBUTE, []))
        unfinished = self._unfinished.tell(report)
        if unfinished is not None:
            self._rows.append(unfinished)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Prepare for a crash of a worker that pytest-xdist is about to start."""
        self._unfinished.invite(node.workerinput)

    def pytest_unconfigure(self) -> None:
        """Leave no file of the workers' behind."""
        self._unfinished.close()

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


def run_and_measure(item: pytest.Item) -> Generator[None, object, object]:
    """Let the body run, then load the target of a marked test while its fixtures are alive."""
    __tracebackhide__ = True
    if not is_marked(item):
        return (yield)
    from pytest_capacity.plugin.measuring import measure_demand  # noqa: PLC0415 - imports what measures

    def measure_marked() -> None:
        __tracebackhide__ = True
        target = getattr(item, "funcargs", {}).get("capacity_target")
        measure_demand(item, target, item.stash[DEMAND], source="marker")

    if not is_coroutine_test(item):
        result = yield
        measure_marked()
        return result
    # Importing asyncio would cost every suite.
    from pytest_capacity.plugin.beside import measuring_after  # noqa: PLC0415

    with measuring_after(item, measure_marked) as finish:
        result = yield
    finish()
    return result


def write_all(path: Path, rows: list[dict[str, Any]], root: Path) -> None:
    """Join the records behind the rows into one file; a test with several measurements has one record."""
    from pytest_capacity.results.store import read_record, write_json_atomically  # noqa: PLC0415

    artifacts = dict.fromkeys(str(row["artifact"]) for row in rows if row["artifact"] is not None)
    records = [read_record(root / name) for name in artifacts]
    lost = dict.fromkeys(row["nodeid"] for row in rows if row["artifact"] is None)
    write_json_atomically(path, {"schema": 1, "records": records, "no_result": list(lost)})
