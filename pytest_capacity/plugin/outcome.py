"""How a measurement becomes a test's outcome, and how that outcome is shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import ROWS, is_marked
from pytest_capacity.slo import CapacityUsageError, Inconclusive, SLOViolation, Verdict

INCONCLUSIVE_ATTRIBUTE = "capacity_inconclusive"
ROWS_ATTRIBUTE = "capacity_rows"
"""Attributes of a test report; pytest-xdist carries them to the controller."""

_OURS = (SLOViolation, Inconclusive, CapacityUsageError)


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
    if report.outcome == "failed" and is_marked(item) and call.excinfo.errisinstance(_OURS):
        # No line of the test raised this: a traceback would only bury the verdict.
        report.longrepr = cast("Any", VerdictText(str(call.excinfo.value), item))
    if not call.excinfo.errisinstance(Inconclusive):
        return
    if hasattr(report, "wasxfail") and not _xfail_names_inconclusive(item):
        # A bare xfail expects the SLO to break, which an inconclusive measurement did not show.
        report.outcome = "failed"
        report.longrepr = item.repr_failure(call.excinfo)
        del report.wasxfail
    if report.outcome == "failed":
        setattr(report, INCONCLUSIVE_ATTRIBUTE, True)


class VerdictText:
    """A failure shown as its message alone.

    pytest asks for ``toterminal``, JUnit and other readers for ``reprcrash``.
    """

    def __init__(self, text: str, item: pytest.Item) -> None:
        path, line, _ = item.location
        self._text = text
        self.reprcrash = SimpleNamespace(message=text, path=path, lineno=(line or 0) + 1)

    def toterminal(self, writer: Any) -> None:
        """Write the message, a line at a time."""
        for line in self._text.splitlines():
            writer.line(line)

    def __str__(self) -> str:
        return self._text


def _xfail_names_inconclusive(item: pytest.Item) -> bool:
    for marker in item.iter_markers("xfail"):
        raises = marker.kwargs.get("raises")
        named = raises if isinstance(raises, tuple) else (raises,)
        if Inconclusive in named:
            return True
    return False


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
