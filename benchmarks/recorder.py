"""What recording costs: ``python -m benchmarks.recorder [--rate 200] [--rounds 10]``.

A server, the recording proxy before it, and the client are three processes. The same open-loop load, Poisson
arrivals over kept connections, goes to the server and through the proxy in turn; latency runs from the moment
a request was due. Printed are the median and the 99th percentile of both, the differences as the median over
rounds, and how many requests were lost or not recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pytest_capacity.traffic.trace import read_rows

BOUND_MS = 1.0
ROOT = Path(__file__).parent.parent


@dataclass
class Seen:
    """What one way of asking took, over all rounds."""

    medians_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    lost: int = 0
    sent: int = 0

    def add(self, latencies_ms: list[float | None]) -> None:
        good = sorted(latency for latency in latencies_ms if latency is not None)
        self.sent += len(latencies_ms)
        self.lost += len(latencies_ms) - len(good)
        self.medians_ms.append(statistics.median(good))
        self.p99s_ms.append(good[int(0.99 * (len(good) - 1))])


class Client:
    """Asks one port, over connections that it keeps."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def play(self, rate_qps: float, seconds: float, draw: random.Random) -> list[float | None]:
        """Milliseconds of each request, None for one that was not answered well."""
        start_s, due_s = time.perf_counter() + 0.05, 0.0
        asking = []
        while (due_s := due_s + draw.expovariate(rate_qps)) < seconds:
            await asyncio.sleep(max(0.0, start_s + due_s - time.perf_counter()))
            asking.append(asyncio.ensure_future(self._ask(start_s + due_s)))
        latencies_ms = await asyncio.gather(*asking)
        # While the other way is asked these would idle, and the server may close them.
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
        return latencies_ms

    async def _ask(self, due_s: float) -> float | None:
        try:
            pair = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = pair
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, EOFError):
            return None
        took_ms = (time.perf_counter() - due_s) * 1000
        self._idle.append(pair)
        return took_ms if head.startswith(b"HTTP/1.1 200") else None


@contextmanager
def process(*command: str, says: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that prints where it listens; it is stopped at the end."""
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(says, line)
        assert found, line
        yield int(found[1]), started
    finally:
        started.kill()
        started.communicate()


async def compare(
    server_port: int, proxy_port: int, options: argparse.Namespace
) -> tuple[dict[str, Seen], list[tuple[float, float]]]:
    """Load both ways in turn; what each took, and the differences of each round."""
    body = json.dumps({"items": list(range(options.body_bytes // 5))}).encode()
    head = (
        "POST /rank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    clients = {
        way: Client(port, head.encode() + body)
        for way, port in (("direct", server_port), ("recorded", proxy_port))
    }
    seen = {way: Seen() for way in clients}
    draw = random.Random(options.seed)
    for number in range(-1, options.rounds):
        for way in ("direct", "recorded") if number % 2 else ("recorded", "direct"):
            gc.collect()
            latencies_ms = await clients[way].play(options.rate, options.seconds, draw)
            # The first round warms up; what it loses is lost all the same.
            if number >= 0:
                seen[way].add(latencies_ms)
            else:
                seen[way].sent += len(latencies_ms)
                seen[way].lost += latencies_ms.count(None)
    added = [
        (through - direct, through_p99 - direct_p99)
        for direct, through, direct_p99, through_p99 in zip(
            seen["direct"].medians_ms,
            seen["recorded"].medians_ms,
            seen["direct"].p99s_ms,
            seen["recorded"].p99s_ms,
            strict=True,
        )
    ]
    return seen, added


def main() -> int:
    """Measure, print, and tell by the exit code whether the bound holds and nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (200)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each round and way (3)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--body-bytes", type=int, default=1000)
    parser.add_argument("--server-ms", type=float, default=2.0, help="what the server takes (2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "a.trace.jsonl.gz")
        server = [sys.executable, "-m", "tests.servers", str(options.server_ms / 1000)]
        with process(*server, says=r":(\d+)$") as (server_port, _):
            record = [str(Path(sys.executable).with_name("pytest-capacity")), "record", "--listen", "0"]
            where = ["--out", str(out), "--upstream", f"http://127.0.0.1:{server_port}"]
            with process(*record, *where, says=r"127\.0\.0\.1:(\d+) ->") as (proxy_port, proxy):
                seen, added = asyncio.run(compare(server_port, proxy_port, options))
                proxy.send_signal(signal.SIGINT)
                proxy.wait(30)
        rows = sum(1 for _ in read_rows(out)[1])
    return report(seen, added, rows)


def report(seen: dict[str, Seen], added: list[tuple[float, float]], rows: int) -> int:
    """Print the outcome, and give the exit code."""
    for way, one in seen.items():
        print(
            f"{way:<10} median {statistics.median(one.medians_ms):7.3f} ms   "
            f"p99 {statistics.median(one.p99s_ms):7.3f} ms   lost {one.lost} of {one.sent}"
        )
    median_ms = statistics.median(median for median, _ in added)
    p99_ms = statistics.median(p99 for _, p99 in added)
    worst_ms = max(median for median, _ in added)
    missing = seen["recorded"].sent - seen["recorded"].lost - rows
    print(
        f"added      median {median_ms:7.3f} ms   p99 {p99_ms:7.3f} ms   "
        f"(median of rounds; the worst round's median {worst_ms:.3f} ms; {BOUND_MS:g} ms allowed)"
    )
    print(f"recorded   {rows} rows, {missing} missing; {os.cpu_count()} processors")
    return 0 if median_ms < BOUND_MS and not seen["recorded"].lost and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
