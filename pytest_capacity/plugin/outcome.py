"""How a measurement becomes a test's outcome, and how that outcome is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import PROBLEM, ROWS, is_marked
from pytest_capacity.slo import CapacityUsageError, Inconclusive, SLOViolation, Verdict

INCONCLUSIVE_ATTRIBUTE = "capacity_inconclusive"
ROWS_ATTRIBUTE = "capacity_rows"
PLACE_ATTRIBUTE = "capacity_place"
"""Attributes of a test report; pytest-xdist carries them to the controller."""

OUTCOMES = (SLOViolation, Inconclusive, CapacityUsageError)
"""How the plugin ends a test."""


def enforce(verdict: Verdict | None, text: str, headline: str, settings: Settings) -> None:
    """End the test as its verdict says, unless the mode only reports.

    Raises SLOViolation, Inconclusive, or skips.
    """
    __tracebackhide__ = True
    if settings.mode == "report":
        return
    if verdict is Verdict.FAIL:
        raise SLOViolation(text)
    if verdict is Verdict.INCONCLUSIVE:
        if settings.inconclusive == "warn":
            pytest.skip(f"inconclusive: {headline}")
        raise Inconclusive(text)


def skip_unjudged(item: pytest.Item, settings: Settings) -> None:
    """End a test as skipped where it was measured but may not be judged: report mode."""
    __tracebackhide__ = True
    rows = item.stash.get(ROWS, [])
    if settings.mode == "report" and rows:
        pytest.skip("; ".join(f"reported, not judged: {row['headline']}" for row in rows))


def describe_on_report(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Put what was measured on the report, and keep an inconclusive test red whatever else is said of it."""
    if report.when != "call":
        return
    setattr(report, ROWS_ATTRIBUTE, item.stash.get(ROWS, []))
    if call.excinfo is None:
        return
    if report.outcome == "skipped" and item.stash.get(ROWS, []):
        # Skipped from a hook: the test's own place says more than the hook's.
        path, line, _ = item.location
        report.longrepr = (path, (line or 0) + 1, str(call.excinfo.value))
    if hasattr(report, "wasxfail") and _shows_no_failure(item, call.excinfo):
        # An xfail expects the SLO to break, which an inconclusive measurement, or none, did not show.
        report.outcome = "failed"
        report.longrepr = item.repr_failure(call.excinfo)
        del report.wasxfail
    if report.outcome == "failed" and call.excinfo.errisinstance(Inconclusive):
        setattr(report, INCONCLUSIVE_ATTRIBUTE, True)
    if report.outcome == "failed" and _is_ours(item, call.excinfo):
        # No line of the test raised this: a traceback would only bury the verdict.
        _show_text_alone(report, call.excinfo, item)


def _is_ours(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether the plugin itself ended the test, not a call in its body."""
    if is_marked(item) or PROBLEM in item.stash:
        return excinfo.errisinstance(OUTCOMES)
    return excinfo.errisinstance(Inconclusive) and not item.stash.get(ROWS, [])


def _shows_no_failure(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether a test that was expected to fail ended without a verdict, and no xfail names just that."""
    if not excinfo.errisinstance((Inconclusive, CapacityUsageError)):
        return False
    for marker in item.iter_markers("xfail"):
        raises = marker.kwargs.get("raises")
        named = raises if isinstance(raises, tuple) else (raises,)
        if excinfo.type in named:
            return False
    return True


def _show_text_alone(
    report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException], item: pytest.Item
) -> None:
    path, line, _ = item.location
    place = Place(path, (line or 0) + 1, str(excinfo.value))
    setattr(report, PLACE_ATTRIBUTE, [place.path, place.lineno])
    report.longrepr = cast("Any", VerdictText(place))


def restore_failure(report: object) -> None:
    """Turn the text that pytest-xdist made of a verdict back into one."""
    place = getattr(report, PLACE_ATTRIBUTE, None)
    if isinstance(report, pytest.TestReport) and place and isinstance(report.longrepr, str):
        report.longrepr = cast("Any", VerdictText(Place(place[0], place[1], report.longrepr)))


@dataclass(frozen=True)
class Place:
    """Where a verdict belongs: the test, since no line of it raised that."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message.partition(chr(10))[0]}"


class VerdictText:
    """A failure shown as its message alone.

    pytest asks for ``toterminal``, JUnit and other readers for ``reprcrash``.
    """

    def __init__(self, place: Place) -> None:
        self.reprcrash = place

    def toterminal(self, writer: Any) -> None:
        """Write the message, a line at a time."""
        for line in self.reprcrash.message.splitlines():
            writer.line(line)

    def __str__(self) -> str:
        return self.reprcrash.message


def link_artifact(report: pytest.TestReport, config: pytest.Config) -> None:
    """Have pytest-html link the record from the test's row."""
    page = config.getoption("htmlpath", None)
    rows = getattr(report, ROWS_ATTRIBUTE, [])
    if page and rows:
        from pytest_html import extras  # noqa: PLC0415 - only there where its option is

        folder = Path(page).absolute().parent
        paths = (os.path.relpath(config.rootpath / row["artifact"], folder) for row in rows)
        links = [extras.url(Path(path).as_posix(), name="capacity record") for path in paths]
        report.extras = [*getattr(report, "extras", []), *links]  # type: ignore[attr-defined]


def status_of(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Category, letter and word of an inconclusive test; None for any other."""
    if getattr(report, INCONCLUSIVE_ATTRIBUTE, False) and report.outcome == "failed":
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    return None


def properties_of(row: dict[str, Any]) -> list[tuple[str, object]]:
    """What JUnit XML and other readers of ``user_properties`` get: scalars, in their units."""
    named = {
        "verdict": row["verdict"] or "none",
        "asked_qps": row["asked_qps"],
        "p50_ms": row["p50_ms"],
        "p99_ms": row["p99_ms"],
        "error_rate": row["error_rate"],
        "load_s": row["seconds"],
        "artifact": row["artifact"],
    }
    return [(f"capacity.{name}", value) for name, value in named.items() if value is not None]
