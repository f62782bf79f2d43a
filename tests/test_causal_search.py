"""A whole capacity search whose sessions are replayed causally, on a real server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_capacity.traffic.trace import TraceRow
from tests.conftest import Project
from tests.replays import write_trace
from tests.test_replay import valid_record

SLOTS, SERVICE_S = 4, 0.04
TAKES_QPS = SLOTS / SERVICE_S
SERVER = f"""
import asyncio
from aiohttp import web

async def main():
    slots = asyncio.Semaphore({SLOTS})
    async def rank(request):
        await request.read()
        async with slots:
            await asyncio.sleep({SERVICE_S})
        return web.json_response({{}})
    app = web.Application()
    app.router.add_post("/rank", rank)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that answers ``SLOTS`` requests at a time, each after ``SERVICE_S`` or more.

    Long enough for a busy machine's delays, of some milliseconds, to matter little.
    """
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.kill()


def conversations() -> list[TraceRow]:
    """Two minutes of sessions of four turns, a second apart on average, some 40 requests a second."""
    rng = np.random.default_rng(0)
    begun_s = np.repeat(rng.random(1200) * 120, 4)
    passed_s = np.cumsum(0.05 + rng.exponential(1.0, (1200, 4)), axis=1).ravel()
    times_s = begun_s + passed_s
    return [
        TraceRow(
            t=float(times_s[index] - times_s.min()),
            op="rank",
            path="/rank",
            body={"turn": index % 4},
            session=f"s{index // 4}",
            seen={"status": 200, "latency_s": 0.01},
        )
        for index in np.argsort(times_s).tolist()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", ", max_qps=70"])
def test_a_search_of_causal_sessions_finds_what_the_server_takes(
    project: Project, url: str, more: str
) -> None:
    write_trace(Path(project.pytester.path) / "a.trace.jsonl", conversations())
    project.write(
        url,
        f"""
def test_capacity(capacity_search):
    how = dict(p90_ms=250, error_rate=0.05, budget_s=30{more})
    capacity_search(trace="a.trace.jsonl", sessions="causal", require_qps=5, **how)
""",
    )

    result = project.run()

    result.assert_outcomes(passed=1)
    found = valid_record(project)
    assert found["verdict"] == "PASS"
    capacity = found["capacity"]
    assert 5 <= capacity["ci_low_qps"] < TAKES_QPS
    assert found["trace"]["sessions"] == "causal"
    assert found["trace"]["turns_after_failure"] == 0
    assert found["trace"]["requests"] > 200
    assert all(row["kind"] == "open" for row in found["probes"]) == ("max_qps" in more)
