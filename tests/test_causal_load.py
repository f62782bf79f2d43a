"""Every engine sends the turns of sessions after the replies they follow, against real sockets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from pytest_capacity.protocols import Outcome, Turns
from tests import servers
from tests.loading import (  # noqa: F401 - fixtures are used by being here
    Load,
    engine,
    loading,
    no_trouble_is_left,
)
from tests.servers import Connection, Received, Server

THINK_S = 0.03


class Clock:
    """When each request came and when its reply was about to leave, by its path."""

    def __init__(self, delay_s: float, bad: str = "") -> None:
        self._delay_s, self._bad = delay_s, bad
        self.came_s: dict[str, float] = {}
        self.left_s: dict[str, float] = {}

    def server(self) -> Server:
        return Server(self._behave)

    async def _behave(self, _: Server, connection: Connection, received: Received) -> bool:
        self.came_s[received.path] = time.monotonic()
        await asyncio.sleep(self._delay_s)
        self.left_s[received.path] = time.monotonic()
        await connection.reply(500 if received.path == self._bad else 200)
        return True


def sessions_of(count: int, turns: int, apart_s: float) -> tuple[np.ndarray, Turns]:
    """Rows in order of their earliest times: turn ``t`` of session ``s`` at ``s * apart_s + t * THINK_S``."""
    session = np.tile(np.arange(count), turns)
    turn = np.repeat(np.arange(turns), count)
    earliest_s = session * apart_s + turn * THINK_S
    order = np.argsort(earliest_s, kind="stable")
    think_s = np.where(turn > 0, THINK_S, 0.0)
    return earliest_s[order], Turns(session[order].astype(np.int64), think_s[order])


def start(load: Load, offsets_s: np.ndarray, turns: Turns, first_row: int = 0) -> np.ndarray:
    """Play rows, each with a path of its own, from now on; returns when they are intended."""
    template = load.encoded.requests[0]
    rows = range(first_row, first_row + len(offsets_s))
    first = load.session.add([replace(template, path=f"/{row}") for row in rows])
    intended_s = load.session.now_s() + 0.05 + offsets_s
    load.session.play(first_row, intended_s, first + np.arange(len(offsets_s)), turns)
    return intended_s


def followed(turns: Turns) -> list[tuple[int, int]]:
    """Pairs of rows that follow each other in a session."""
    last: dict[int, int] = {}
    pairs = []
    for row, session in enumerate(turns.session.tolist()):
        if session >= 0:
            if session in last:
                pairs.append((last[session], row))
            last[session] = row
    return pairs


def test_no_turn_arrives_before_the_reply_it_follows_and_its_time_to_think_is_kept() -> None:
    offsets_s, turns = sessions_of(count=8, turns=4, apart_s=0.011)
    clock = Clock(delay_s=0.08)
    with clock.server() as server, loading(server.url) as load:
        intended_s = start(load, offsets_s, turns)
        load.until_final(len(offsets_s))

        assert set(load.final.values()) == {Outcome.GOOD}
        told = load.told
        final = told.outcome != Outcome.PENDING
        due_s = dict(zip(told.row[final].tolist(), told.intended_s[final].tolist(), strict=True))
        done_s = dict(zip(told.row[final].tolist(), told.done_s[final].tolist(), strict=True))
        pairs = followed(turns)
        assert len(pairs) == 8 * 3
        for before, row in pairs:
            assert clock.came_s[f"/{row}"] >= clock.left_s[f"/{before}"] + THINK_S
            assert due_s[row] == done_s[before] + THINK_S
        firsts = set(due_s) - {row for _, row in pairs}
        assert {row: due_s[row] for row in firsts} == {row: intended_s[row] for row in firsts}
        assert np.all(told.sent_s[final] >= told.intended_s[final])


def test_a_session_goes_on_with_what_is_played_later() -> None:
    """The second part is played while replies of the first are in the air, the third when all have come."""
    offsets_s, turns = sessions_of(count=6, turns=3, apart_s=0.005)
    parts = [np.flatnonzero(np.isin(np.arange(18), part)) for part in (range(6), range(6, 12), range(12, 18))]
    clock = Clock(delay_s=0.1)
    with clock.server() as server, loading(server.url) as load:
        for number, part in enumerate(parts):
            if number == 2:
                load.until_final(12)
            start(load, offsets_s[part], Turns(turns.session[part], turns.think_s[part]), 6 * number)
        load.until_final(18)

    for before, row in followed(turns):
        assert clock.came_s[f"/{row}"] >= clock.left_s[f"/{before}"] + THINK_S


def test_a_session_ends_with_a_failed_reply_and_the_others_go_on() -> None:
    offsets_s, turns = sessions_of(count=3, turns=3, apart_s=0.005)
    failed = int(np.flatnonzero(turns.session == 1)[1])
    clock = Clock(delay_s=0.02, bad=f"/{failed}")
    with clock.server() as server, loading(server.url) as load:
        start(load, offsets_s, turns)
        load.until_final(8)
        load.until(lambda: load.last.in_flight == 0)
        never = int(np.flatnonzero(turns.session == 1)[2])

        assert set(range(9)) - set(load.final) == {never}
        assert [row for row, outcome in load.final.items() if outcome != Outcome.GOOD] == [failed]
    assert server.count == 8


def test_a_turn_whose_predecessor_times_out_is_never_sent() -> None:
    offsets_s, turns = sessions_of(count=2, turns=2, apart_s=0.01)
    with servers.hanging() as server, loading(server.url, timeout_s=0.2) as load:
        start(load, offsets_s, turns)
        load.until_final(2)

        assert set(load.final.values()) == {Outcome.TIMEOUT}
    assert server.count == 2


def test_a_pause_withdraws_the_turns_that_are_not_yet_due() -> None:
    offsets_s, turns = sessions_of(count=4, turns=3, apart_s=0.001)
    clock = Clock(delay_s=0.15)
    with clock.server() as server, loading(server.url) as load:
        start(load, offsets_s, turns)
        load.until(lambda: len(load.sent) == 4)
        load.session.pause(load.session.now_s())
        load.until_final(4)
        # Sessions of the next probe have numbers of their own, and begin anew.
        start(load, offsets_s[:4], Turns(turns.session[:4] + 10, np.zeros(4)), 12)
        load.until_final(8)

    assert sorted(load.final) == [0, 1, 2, 3, 12, 13, 14, 15]
    assert server.count == 8


def test_a_few_rows_leave_the_sessions_of_other_workers_alone() -> None:
    """One row goes to one worker; the turns that wait in the other one stay."""
    clock = Clock(delay_s=0.1)
    with clock.server() as server, loading(server.url) as load:
        for row, (session, think_s) in enumerate([(0, 0.0), (1, 0.0), (0, 0.01), (1, 0.01), (-1, 0.0)]):
            load.until(lambda: load.collect().now_s > 0)
            start(load, np.zeros(1), Turns(np.array([session]), np.array([think_s])), row)
        load.until_final(5)

    assert set(load.final.values()) == {Outcome.GOOD}


@pytest.mark.parametrize("think_s", [-0.1, float("nan")])
def test_a_time_to_think_that_is_none_is_refused(think_s: float) -> None:
    with servers.healthy() as server, loading(server.url) as load:
        turns = Turns(np.zeros(1, dtype=np.int64), np.array([think_s]))
        with pytest.raises(ValueError, match="a time to think must be 0 or more"):
            start(load, np.zeros(1), turns)
