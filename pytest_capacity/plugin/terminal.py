"""What the plugin writes on the terminal: a header, live progress, the table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import DEMAND, is_capacity_item, is_marked

if TYPE_CHECKING:
    from pytest_capacity.measurement import Progress

PROGRESS_EVERY_S = 1.0

_AT_MOST = {
    "off": "every capacity test would be skipped",
    "smoke": "each measurement would send a preflight and 20 requests, one after the other",
}


def header(items: Iterable[pytest.Item], settings: Settings) -> list[str]:
    """A line above the tests, where any of them measures; overridden options are named."""
    if not any(is_capacity_item(item) for item in items):
        return []
    target = f", target={_without_credentials(settings.url)}" if settings.url else ""
    overridden = [name for name in settings.overrides if name not in ("capacity_url", "capacity_mode")]
    also = f", set: {', '.join(overridden)}" if overridden else ""
    shown = settings.directory.name or str(settings.directory)
    return [f"capacity: mode={settings.mode}{target}, artifacts in {shown}/, seed {settings.seed}{also}"]


def _without_credentials(url: str) -> str:
    from pytest_capacity.results.redact import redact_text  # noqa: PLC0415 - only runs with capacity tests

    return redact_text(url, ())


class ProgressLine:
    """Live progress on a terminal, at most once a second; silent anywhere else."""

    def __init__(self, config: pytest.Config, name: str) -> None:
        reporter = config.pluginmanager.getplugin("terminalreporter")
        alone = not hasattr(config, "workerinput")
        self._reporter = reporter if reporter is not None and alone and reporter.isatty else None
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._name = name
        self._next_s = 0.0
        self._shown = False

    def show(self, progress: Progress) -> None:
        """Rewrite the line, unless it was written less than a second ago."""
        if self._reporter is None or time.monotonic() < self._next_s:
            return
        from pytest_capacity.report.text import progress_line  # noqa: PLC0415 - only on a terminal

        self._next_s = time.monotonic() + PROGRESS_EVERY_S
        self._write(
            progress_line(**asdict(progress)),
            first=not self._shown,
        )
        self._shown = True

    def clear(self) -> None:
        """Take the line away, so that what pytest writes next stands on a line of its own."""
        if self._shown:
            self._write("", first=False)
            self._shown = False

    def _write(self, text: str, *, first: bool) -> None:
        reporter = self._reporter
        if reporter is None:
            return
        if self._capture is None:
            self._rewrite(text, first=first)
            return
        with self._capture.global_and_fixture_disabled():
            self._rewrite(text, first=first)

    def _rewrite(self, text: str, *, first: bool) -> None:
        if self._reporter is None:
            return
        if first:
            self._reporter.write_line("")
        self._reporter.rewrite(text, erase=True)


def write_inconclusive(reporter: pytest.TerminalReporter) -> None:
    """The evidence of inconclusive tests, which pytest's own FAILURES section leaves out."""
    reports = reporter.stats.get("inconclusive", [])
    style = reporter.config.getoption("tbstyle")
    if not reports or style == "no":
        return
    reporter.write_sep("=", "INCONCLUSIVE")
    for report in reports:
        if style == "line":
            reporter.write_line(str(getattr(report.longrepr, "reprcrash", report.longreprtext)))
            continue
        reporter.write_sep("_", report.head_line or report.nodeid)
        for line in report.longreprtext.splitlines():
            reporter.write_line(line)


def write_summary(reporter: pytest.TerminalReporter, rows: list[Any]) -> None:
    """The table of verdicts, where anything was measured."""
    if not rows:
        return
    from pytest_capacity.report.text import summary_table  # noqa: PLC0415 - only runs with capacity tests

    reporter.write_sep("-", "capacity")
    for line in summary_table(rows):
        reporter.write_line(line)


def write_dry_run(
    reporter: pytest.TerminalReporter | None, items: Iterable[pytest.Item], settings: Settings
) -> None:
    """What each selected test would send, in requests and seconds."""
    if reporter is None:
        return
    reporter.write_sep("-", "capacity dry run: nothing is sent")
    if settings.mode in _AT_MOST:
        reporter.write_line(f"--capacity-mode={settings.mode}: {_AT_MOST[settings.mode]}")
        return
    from pytest_capacity.plugin.traces import cost_of  # noqa: PLC0415 - only runs with capacity tests

    total_s, undecided = 0.0, 0
    for item in items:
        if not is_capacity_item(item):
            continue
        if not is_marked(item):
            reporter.write_line(f"{item.nodeid}: decided by its own code, when it runs")
            undecided += 1
            continue
        demand = item.stash[DEMAND]
        cost, most_s = cost_of(item, demand, settings)
        total_s += most_s
        traced = "" if demand.trace is None else f"; replays {demand.trace}"
        reporter.write_line(f"{item.nodeid}: {cost}{traced}; {demand.slo.describe()}")
    of = f"for the marked tests, and what the other {undecided} ask for" if undecided else "in all"
    reporter.write_line(f"at most {total_s:.0f} s {of}; a test left undecided may take as long once more")
