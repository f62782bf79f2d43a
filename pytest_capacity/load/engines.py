"""Which engine loads a target: by name, each in processes of its own wherever the target allows it."""

from __future__ import annotations

import math
import os

from pytest_capacity.load.opening import check_openable
from pytest_capacity.load.refresh import first_headers
from pytest_capacity.load.senders import maker_of
from pytest_capacity.load.thread import ThreadSession
from pytest_capacity.load.tls import tls_context
from pytest_capacity.load.worker_session import CannotLeaveHome, WorkerSession
from pytest_capacity.load.workers import WorkerLost
from pytest_capacity.protocols import Encoded, LoadSession

QPS_PER_WORKER = {"fast": 30_000.0, "aiohttp": 3_000.0}
"""What one worker of each engine sends on time with a core to itself; above that it falls behind."""


class HttpEngine:
    """Plays encoded requests from ``workers`` processes, None for as many as the rate and the cores ask for.

    A target whose check has no importable name is loaded from a thread of this process. Raises ValueError
    for a name that no engine has, and fewer than one worker.
    """

    def __init__(self, name: str, workers: int | None = None) -> None:
        if name not in QPS_PER_WORKER:
            raise ValueError(f"no engine is called {name!r}; there are {' and '.join(QPS_PER_WORKER)}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        self.name = name
        self._workers = workers

    def open(self, encoded: Encoded, *, max_in_flight: int, most_qps: float | None = None) -> LoadSession:
        """Get the first headers and have the workers ready; ``most_qps`` is the highest rate to come.

        Raises ImportError or AttributeError for a judge that cannot be imported, TargetUnavailable where the
        target's headers or certificates cannot be had, ValueError for an endpoint without addresses, no
        request, or one that cannot be written.
        """
        check_openable(encoded, max_in_flight)
        judge = encoded.judge.load()
        tls_context(encoded.endpoint)
        headers = first_headers(encoded)
        why = "its check has no importable name"
        if encoded.judge.check is None or isinstance(encoded.judge.check, str):
            try:
                count = self._workers or workers_for(most_qps, usable_cores(), QPS_PER_WORKER[self.name])
                workers = min(count, max_in_flight)
                return WorkerSession(encoded, headers, max_in_flight, workers, sender=self.name)
            except (CannotLeaveHome, WorkerLost, OSError) as error:
                why = str(error)
        note = f"the load left from the process of the tests: {why}"
        return ThreadSession(encoded, judge, headers, max_in_flight, maker_of(self.name), note=note)


def engine_named(name: str, workers: int | None = None) -> HttpEngine:
    """The engine of that name, with so many workers where that is set.

    Raises ValueError for a name that no engine has, and fewer than one worker.
    """
    return HttpEngine(name, workers)


def workers_for(most_qps: float | None, cores: int, qps_per_worker: float) -> int:
    """How many workers a rate needs, of which the server is left half the cores."""
    needed = 1 if most_qps is None else math.ceil(most_qps / qps_per_worker)
    return max(1, min(needed, cores // 2))


def usable_cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
