"""Doing many independent jobs in a few processes, with progress on standard error."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

REPORT_EVERY_S = 5.0
MOST_BYTES = 6 * 2**30
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def results_of(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int, what: str
) -> Iterator[Result]:
    """What ``work`` makes of every job, as it comes; Ctrl-C ends the processes and is raised on.

    ``work`` is a function of a module and jobs are plain data: the processes are spawned, not forked. No
    process means this one.
    """
    progress = _Progress(len(jobs), what)
    if processes < 1 or not jobs:
        for job in jobs:
            yield work(job)
            progress.step()
        return
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs)), _begin) as pool:
        for result in pool.imap_unordered(work, jobs):
            yield result
            progress.step()


def _begin() -> None:
    """Leave Ctrl-C to the parent, and let no job eat the host."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGALRM, _too_long)


def _too_long(_number: int, _frame: object) -> None:
    raise TimeoutError("the run took too long")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; only where a process of ``results_of`` does it."""
    if signal.getsignal(signal.SIGALRM) is not _too_long:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _Progress:
    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done = total, what, 0
        self._start_s = self._told_s = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now_s = time.monotonic()
        if now_s - self._told_s < REPORT_EVERY_S and self._done < self._total:
            return
        self._told_s = now_s
        spent_s = now_s - self._start_s
        left_s = spent_s / self._done * (self._total - self._done)
        print(
            f"{self._what}: {self._done} of {self._total}, {spent_s:.0f} s, about {left_s:.0f} s to go",
            file=sys.stderr,
        )
