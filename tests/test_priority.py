"""The sending thread asks to be let in soon, and nothing else of the process changes."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from pytest_capacity.load.priority import ask_for_short_slices, run_first, wake_soon


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_only_the_calling_thread_is_preferred() -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[int] = []

    def work() -> None:
        wake_soon()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen[0] <= before
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_a_system_that_knows_no_slices_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    assert ask_for_short_slices() is False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_a_thread_runs_first_where_it_may_and_goes_on_where_it_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def allow(_: int, policy: int, __: os.sched_param) -> None:
        asked.append(policy)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", allow)
    assert run_first()
    assert asked == [os.SCHED_RR]
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert not run_first()
