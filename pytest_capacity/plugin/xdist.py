"""Living with pytest-xdist: what may run beside other workers' tests, and what a crashed worker leaves."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.plugin.options import Settings
from pytest_capacity.plugin.state import NODEID, is_capacity_item, nodeid_of

LISTINGS = "capacity_listings"
"""Of a worker's input: the folder in which it tells which tests measure."""

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


def list_for_controller(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Tell the controller, which collects nothing itself, which tests measure."""
    folder = getattr(config, "workerinput", {}).get(LISTINGS)
    if folder is None:
        return
    listed = {item.nodeid: nodeid_of(item) for item in items if is_capacity_item(item)}
    # A worker on another machine has no such folder: its crashes are told by pytest-xdist alone.
    with suppress(OSError):
        Path(folder, f"{os.getpid()}.json").write_text(json.dumps(listed), encoding="utf-8")


class Unfinished:
    """Notices capacity tests whose worker crashed; lives where the reports of all workers come together."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._attempts: dict[str, int] = {}

    def invite(self, workerinput: dict[str, Any]) -> None:
        """Ask a worker that is about to start which of its tests measure."""
        # A run without any capacity test must not end for want of a temporary folder.
        with suppress(OSError):
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="pytest-capacity-"))
            workerinput[LISTINGS] = str(self._folder)

    def close(self) -> None:
        """Remove what the workers told."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def tell(self, report: pytest.TestReport) -> dict[str, Any] | None:
        """Take a report; returns the summary row of a test that will never get a result."""
        # pytest-xdist reports a crash under a phase that no test has.
        crashed = report.when not in ("setup", "call", "teardown")
        attempt = self._attempts.get(report.nodeid, 1)
        if crashed or report.outcome == "rerun":  # type: ignore[comparison-overlap]  # of pytest-rerunfailures
            self._attempts[report.nodeid] = attempt + 1
        if not crashed:
            return None
        nodeid = self._listed().get(report.nodeid)
        return _row(nodeid, attempt, report.longreprtext) if nodeid else None

    def _listed(self) -> dict[str, str]:
        """The tests that measure: their node ids as pytest-xdist knows them, and as everybody else does."""
        listed: dict[str, str] = {}
        for path in self._folder.glob("*.json") if self._folder else ():
            # A worker that crashed while it wrote has run no test.
            with suppress(OSError, ValueError):
                listed.update(json.loads(path.read_text(encoding="utf-8")))
        return listed


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
