"""The sending thread asks to be let in soon, and nothing else of the process changes."""

from __future__ import annotations

import math
import os
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.load.precedence import LEAST_GAP_S, MOST_AWAKE, Overdraft, Precedence
from pytest_capacity.load.priority import ask_for_short_slices, run_first, wake_soon

KERNEL_SHARE, KERNEL_PERIOD_S = 0.95, 1.0
"""What Linux lets real-time threads have by default (sched(7))."""


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


@given(st.lists(st.floats(0.001, 0.05), min_size=1, max_size=50), st.floats(0, MOST_AWAKE))
def test_who_sleeps_a_tenth_of_the_time_may_come_first_for_good(pasts_s: list[float], awake: float) -> None:
    overdraft = Overdraft()
    assert not any(overdraft.add(past_s, awake * past_s) for past_s in pasts_s)


@pytest.mark.parametrize("awake", [0.95, 0.97, 1.0])
def test_who_is_always_awake_gives_way_before_the_kernel_steps_in(awake: float) -> None:
    overdraft, past_s, reviews = Overdraft(), 0.01, 1
    while not overdraft.add(past_s, awake * past_s):
        reviews += 1

    assert awake * reviews * past_s < KERNEL_SHARE * KERNEL_PERIOD_S


def test_what_was_left_makes_good_for_what_was_taken() -> None:
    overdraft = Overdraft()
    for _ in range(100):
        assert not overdraft.add(0.1, 0.1)
        assert not overdraft.add(0.1, 0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_a_thread_that_never_sleeps_takes_its_turn_at_once_where_that_can_be_foreseen() -> None:
    policies: list[int] = []

    def work() -> None:
        precedence = Precedence()
        policies.append(os.sched_getscheduler(0))
        until_s = time.monotonic() + 20
        while precedence.is_first and time.monotonic() < until_s:
            precedence.review()
        policies.append(os.sched_getscheduler(0))
        for gap_s in (0.001, LEAST_GAP_S / 2, math.inf):
            precedence.begin(gap_s=gap_s)
            policies.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    if policies[0] == os.SCHED_OTHER:
        pytest.skip("not permitted to run first")
    assert policies == [os.SCHED_RR, os.SCHED_OTHER, os.SCHED_RR, os.SCHED_OTHER, os.SCHED_RR]
