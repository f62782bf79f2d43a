"""The pool of connections: how many are made, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from pytest_capacity.load.fast_sender import OPENED_AT_ONCE, FastSender
from pytest_capacity.load.guard import resolve
from pytest_capacity.load.nullserver import Answering
from pytest_capacity.load.rows import samples_of
from pytest_capacity.load.sending import Desk, new_event_loop
from pytest_capacity.protocols import Outcome
from pytest_capacity.targets.http import HttpTarget

LIMIT_S = 20.0


class _Server:
    """Answers on the sender's own loop, so that turns of the loop count in place of time."""

    def __init__(self) -> None:
        self.accepted = 0

    def make(self) -> Answering:
        self.accepted += 1
        return Answering()


@asynccontextmanager
async def sender_and_server() -> AsyncIterator[tuple[FastSender, _Server, Desk]]:
    server = _Server()
    listening = await asyncio.get_running_loop().create_server(server.make, "127.0.0.1", 0, backlog=4096)
    port = listening.sockets[0].getsockname()[1]
    encoded = HttpTarget(f"http://127.0.0.1:{port}/", timeout_s=20.0).encode(np.random.default_rng(0))
    encoded = replace(encoded, endpoint=resolve(encoded.endpoint))
    desk = Desk(encoded, encoded.judge.load(), {}, 0.0, max_in_flight=2_000)
    sender = FastSender(desk)
    try:
        yield sender, server, desk
    finally:
        await sender.close()
        listening.close()


async def all_ended(desk: Desk, sender: FastSender) -> None:
    """Wait until nothing is in flight."""
    idle = asyncio.Event()
    desk.ended = lambda: None if sender.in_flight else idle.set()
    await idle.wait()


def run(scenario: Coroutine[None, None, None]) -> None:
    loop = new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario, LIMIT_S))
    finally:
        loop.close()


def test_a_burst_shares_the_connections_that_come_free_meanwhile() -> None:
    async def scenario() -> None:
        async with sender_and_server() as (sender, server, desk):
            for row in range(300):
                sender.send(row, desk.origin_s, 0)
            await all_ended(desk, sender)
            samples = samples_of(desk.rows.take())
            assert int((samples.outcome == Outcome.GOOD).sum()) == 300
            assert server.accepted < 150

    run(scenario())


def test_connections_are_made_a_few_at_a_time_so_that_sends_come_between() -> None:
    async def scenario() -> None:
        async with sender_and_server() as (sender, _, desk):
            for row in range(50):
                sender.send(row, 0.0, 0)
            opening = [len(sender._opening)]
            for _ in range(3):
                await asyncio.sleep(0)
                opening.append(len(sender._opening))
            await all_ended(desk, sender)
            assert opening[0] == OPENED_AT_ONCE
            assert max(np.diff(opening)) <= OPENED_AT_ONCE

    run(scenario())
