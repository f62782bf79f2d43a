"""Sessions of every engine under test, and what they told."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from pytest_capacity.load.engines import engine_named
from pytest_capacity.load.guard import resolve
from pytest_capacity.load.opening import check_openable
from pytest_capacity.load.refresh import first_headers
from pytest_capacity.load.senders import maker_of
from pytest_capacity.load.thread import ThreadSession
from pytest_capacity.protocols import (
    Encoded,
    Engine,
    LoadReport,
    LoadSession,
    Outcome,
    Samples,
    join_samples,
)
from pytest_capacity.targets.http import HttpTarget

LIMIT_S = 20.0
"""Nothing here takes a second; a machine that is busy with other things may stretch it."""

NEVER_S = 1e6
"""So far in the session's future that no test sees it."""


class HereEngine:
    """A sender in a thread of this process, as for targets that cannot be sent elsewhere."""

    name = "here"

    def __init__(self, sender: str) -> None:
        self._sender = sender

    def open(self, encoded: Encoded, *, max_in_flight: int, most_qps: float | None = None) -> ThreadSession:
        del most_qps
        check_openable(encoded, max_in_flight)
        judge = encoded.judge.load()
        return ThreadSession(encoded, judge, first_headers(encoded), max_in_flight, maker_of(self._sender))


ENGINES: dict[str, Callable[[], Engine]] = {
    "aiohttp": lambda: engine_named("aiohttp"),
    "fast": lambda: engine_named("fast"),
    "two-workers": lambda: engine_named("fast", workers=2),
    "here": lambda: HereEngine("fast"),
    "aiohttp-here": lambda: HereEngine("aiohttp"),
}
CHOSEN = ["aiohttp"]
"""The engine under test; a list, so that a fixture can change it."""


def sends_with_aiohttp() -> bool:
    return CHOSEN[0].startswith("aiohttp")


def open_engine(encoded: Encoded, max_in_flight: int = 9) -> LoadSession:
    return ENGINES[CHOSEN[0]]().open(encoded, max_in_flight=max_in_flight)


def encoded_for(target: HttpTarget) -> Encoded:
    encoded = target.encode(np.random.default_rng(0))
    return replace(encoded, endpoint=resolve(encoded.endpoint))


@dataclass
class Load:
    """A session under test, and everything it has told."""

    session: LoadSession
    encoded: Encoded
    reports: list[LoadReport] = field(default_factory=list)

    def play(self, offsets_s: list[float] | np.ndarray, first_row: int = 0) -> float:
        """Play rows at these offsets from now; gives the now."""
        start_s = self.session.now_s()
        index = np.arange(len(offsets_s)) % len(self.encoded.requests)
        self.session.play(first_row, start_s + np.asarray(offsets_s, dtype=float), index)
        return start_s

    def until(self, done: Callable[[], bool]) -> Load:
        """Collect until ``done``; fails where that takes too long."""
        deadline_s = self.session.now_s() + LIMIT_S
        while not done():
            assert self.session.now_s() < deadline_s, "the load did not come to this"
            self.collect()
        return self

    def until_final(self, count: int) -> Load:
        return self.until(lambda: len(self.final) >= count)

    def collect(self) -> LoadReport:
        self.reports.append(self.session.collect(self.session.now_s() + 0.02))
        return self.reports[-1]

    def close(self) -> LoadReport:
        self.reports.append(self.session.close())
        return self.reports[-1]

    @property
    def told(self) -> Samples:
        return join_samples([report.samples for report in self.reports])

    @property
    def sent(self) -> list[int]:
        told = self.told
        return [int(row) for row in told.row[told.outcome == Outcome.PENDING]]

    @property
    def final(self) -> dict[int, Outcome]:
        """What became of each row; a row that is told final twice is an error."""
        told = self.told
        final: dict[int, Outcome] = {}
        for row, outcome in zip(told.row.tolist(), told.outcome.tolist(), strict=True):
            if outcome != Outcome.PENDING:
                assert row not in final
                final[row] = Outcome(outcome)
        return final

    @property
    def last(self) -> LoadReport:
        return self.reports[-1]


@contextmanager
def loading(url: str, *, max_in_flight: int = 1000, **arguments: Any) -> Iterator[Load]:
    """A session for a target; it is closed at the end, what it tells then included."""
    encoded = encoded_for(HttpTarget(url, **arguments))
    load = Load(open_engine(encoded, max_in_flight), encoded)
    try:
        yield load
    finally:
        load.close()


in_this_process = pytest.mark.parametrize("engine", ["aiohttp-here", "here"], indirect=True)
"""For what a test can only change in its own process."""


@pytest.fixture(autouse=True, params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    CHOSEN[:] = [request.param]
    return CHOSEN[0]


@pytest.fixture(autouse=True)
def no_trouble_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No thread survives a test, and asyncio has nothing to complain of, such as a destroyed task."""
    yield
    gc.collect()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("capacity")] == []
    records = [r for r in caplog.get_records("call") if r.threadName != "test-server"]
    assert [r.getMessage() for r in records if r.levelno >= logging.ERROR] == []
    assert gc.get_freeze_count() == 0
