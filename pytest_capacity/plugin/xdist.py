"""Living with pytest-xdist: what may run beside other workers' tests, and what a crashed worker leaves."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import NODEID

BEGUN_ATTRIBUTE = "capacity_begun"
"""Of a setup's report: the test that follows measures."""

GROUP = "capacity"


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for a controller."""
    return hasattr(config, "workerinput")


def refusal(config: pytest.Config, settings: Settings) -> str | None:
    """Why capacity tests may not run in this process, or None."""
    if not is_worker(config) or settings.xdist == "lock" or settings.mode == "smoke":
        return None
    return (
        "pytest-xdist runs other tests meanwhile, which would disturb the measurement: run capacity tests "
        "with -n0, measure one at a time with --capacity-xdist=lock, or leave them out with -m 'not capacity'"
    )


def keep_together(item: pytest.Item) -> None:
    """Have ``--dist loadgroup`` send all capacity tests to one worker, unless their author grouped them."""
    # xdist writes the group into the node id, under which neither records nor histories should lie.
    item.stash[NODEID] = item.nodeid
    if is_worker(item.config) and item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(GROUP))


class Unfinished:
    """Notices capacity tests whose worker crashed; lives where the reports of all workers come together."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def tell(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """Take a report; returns the summary row of a test that will never get a result."""
        nodeid = report.nodeid
        if report.when == "setup" and getattr(report, BEGUN_ATTRIBUTE, False):
            self._begun[nodeid] = self._begun.get(nodeid, 0) + 1
        if report.when in ("setup", "call", "teardown") or nodeid not in self._begun:
            return None
        return _row(nodeid.removesuffix(f"@{GROUP}"), self._begun[nodeid], report.longreprtext)


def _row(nodeid: str, attempt: int, why: str) -> dict[str, Any]:
    plain, bracket, parameters = nodeid.partition("[")
    unknown = ("asked_qps", "found_qps", "found_low_qps", "found_high_qps", "p50_ms", "p99_ms", "error_rate")
    return {
        "nodeid": nodeid,
        "test": plain.rpartition("::")[2] + bracket + parameters,
        "verdict": None,
        **dict.fromkeys(unknown),
        "seconds": 0.0,
        "artifact": None,
        "attempt": attempt,
        "headline": f"no result: {why}",
        "remedy": "",
    }
