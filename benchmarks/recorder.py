"""What recording costs: ``python -m benchmarks.recorder [--server ranking] [--replay] [--rate 100] ...``.

A server, the recording proxy before it, and the client are processes of their own. The server is one of this
repository's examples (``make demo`` sets them up) or, by default, one that does nothing but wait. The same
open-loop load, Poisson arrivals over kept connections, goes to the server and through the proxy in turn;
latency runs from the moment a request was due. Printed are the median and the 99th percentile of both, the
differences (the median request by request, the percentile as a whole) as the median over rounds, and how many
requests were lost or not recorded.

With ``--replay`` awkward traffic (``benchmarks.awkward``) is then recorded for ``--replay-s`` seconds, and
replayed against the same server. Printed are the share of replies in time and how the requests, at the times
they really left, compare with the recording: the fidelity vector, each statistic with its tolerance.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.awkward import Awkward, awkward, bodies_of, post, requests_of
from benchmarks.examples import EXAMPLES, LIMITS_MS, PATHS, example, serving
from benchmarks.openloop import Client, process, recording
from benchmarks.replayed import compared, replay
from pytest_capacity.traffic.arrivals import poisson
from pytest_capacity.traffic.fidelity import as_lines, within_tolerance
from pytest_capacity.traffic.trace import read_rows

BOUND_MS = 1.0
RATES_QPS = {"waiting": 200.0, "ranking": 100.0, "embedding": 15.0}


@dataclass
class Seen:
    """What one way of asking took, over all rounds."""

    medians_ms: list[float] = field(default_factory=list)
    p99s_ms: list[float] = field(default_factory=list)
    lost: int = 0
    sent: int = 0

    def add(self, latencies_ms: list[float | None]) -> None:
        good = sorted(latency for latency in latencies_ms if latency is not None)
        self.count(latencies_ms)
        self.medians_ms.append(statistics.median(good))
        self.p99s_ms.append(good[int(0.99 * (len(good) - 1))])

    def count(self, latencies_ms: list[float | None]) -> None:
        self.sent += len(latencies_ms)
        self.lost += latencies_ms.count(None)


@dataclass(frozen=True)
class Asked:
    """The server under test: where it listens, what it is sent, and how soon it should answer."""

    port: int
    path: str
    limit_ms: float
    requests: Callable[[Awkward, int], list[bytes]]
    record_options: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def asked(options: argparse.Namespace) -> Iterator[Asked]:
    """The server that the options name, started and stopped."""
    if options.server == "waiting":
        request = post("/rank", {"items": list(range(options.body_bytes // 5))})
        command = [sys.executable, "-m", "tests.servers", str(options.server_ms / 1000)]
        with process(*command, says=r":(\d+)$") as (port, _):
            yield Asked(port, "/rank", options.limit_ms or 50.0, lambda one, _: [request] * len(one.t_s))
        return
    name: str = options.server
    bodies = bodies_of(name, example(name, options.examples))
    with serving(name, options.examples) as url:
        yield Asked(
            int(url.rpartition(":")[2]),
            PATHS[name],
            options.limit_ms or LIMITS_MS[name],
            lambda one, seed: requests_of(name, one, bodies.draw, seed),
            bodies.record_options,
        )


async def compare(
    server: Asked, proxy_port: int, options: argparse.Namespace
) -> tuple[dict[str, Seen], list[tuple[float, float]]]:
    """Load both ways in turn with the same requests; what each took, and the differences of each round."""
    clients = {"direct": Client(server.port), "recorded": Client(proxy_port)}
    seen = {way: Seen() for way in clients}
    added = []
    for number in range(-1, options.rounds):
        seed = options.seed + 1 + number
        rng = np.random.default_rng([seed, 1])
        due_s = poisson(options.rate, options.seconds, rng)
        load = Awkward(due_s, rng.standard_normal(len(due_s)), rng.integers(0, 5_000, len(due_s)))
        requests = server.requests(load, seed)
        took = {}
        for way in ("direct", "recorded") if number % 2 else ("recorded", "direct"):
            gc.collect()
            took[way] = await clients[way].play(due_s.tolist(), requests)
            # The first round warms up; what it loses is lost all the same.
            if number >= 0:
                seen[way].add(took[way])
            else:
                seen[way].count(took[way])
        if number >= 0:
            p99_ms = seen["recorded"].p99s_ms[-1] - seen["direct"].p99s_ms[-1]
            added.append((added_ms(took["direct"], took["recorded"]), p99_ms))
    return seen, added


def added_ms(direct_ms: Sequence[float | None], recorded_ms: Sequence[float | None]) -> float:
    """The median of what each request took more: how requests differ among themselves is no part of it."""
    return statistics.median(
        through - straight
        for straight, through in zip(direct_ms, recorded_ms, strict=True)
        if straight is not None and through is not None
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and tell by the exit code whether all bounds hold and nothing was lost."""
    options = _parser().parse_args(arguments)
    options.rate = options.rate or RATES_QPS[options.server]
    with tempfile.TemporaryDirectory() as folder, asked(options) as server:
        trace = Path(folder, "compared.trace.jsonl.gz")
        with recording(server.url, trace, *server.record_options) as proxy_port:
            seen, added = asyncio.run(compare(server, proxy_port, options))
        good = report(seen, added, sum(1 for _ in read_rows(trace)[1]))
        if options.replay:
            good &= replay_recorded(server, Path(folder, "replayed.trace.jsonl.gz"), options)
    return 0 if good else 1


def report(seen: dict[str, Seen], added: list[tuple[float, float]], rows: int) -> bool:
    """Print the outcome; whether the bound holds and nothing was lost."""
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
    return median_ms < BOUND_MS and not seen["recorded"].lost and not missing


def replay_recorded(server: Asked, trace: Path, options: argparse.Namespace) -> bool:
    """Record awkward traffic, replay it, and print how it went; whether nothing was lost and all is alike."""
    traffic = awkward(options.rate, options.replay_s, options.seed)
    requests = server.requests(traffic, options.seed)
    with recording(server.url, trace, *server.record_options) as proxy_port:
        latencies_ms = asyncio.run(Client(proxy_port).play(traffic.t_s.tolist(), requests))
    rows, lost = sum(1 for _ in read_rows(trace)[1]), latencies_ms.count(None)
    print(f"\nrecorded   {rows} of {len(requests)} awkward requests in {options.replay_s:g} s, {lost} lost")
    replayed = replay(trace, server.url + server.path, server.limit_ms, options.seed)
    vector = compared(replayed)
    outside = sum(one.ok is False for one in vector)
    print(
        f"replayed   {len(replayed.samples)} requests, {replayed.in_time:.2%} answered in time "
        f"({server.limit_ms:g} ms; {replayed.verdict}), {replayed.unanswered} not at all\n\n"
        + "\n".join(as_lines(vector))
        + f"\n{outside} of {len(vector)} outside their tolerance"
    )
    return not lost and rows == len(requests) and not replayed.unanswered and within_tolerance(vector)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", choices=tuple(RATES_QPS), default="waiting")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="where make demo has set them up")
    parser.add_argument("--rate", type=float, help=f"requests a second ({RATES_QPS})")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each round and way (3)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--body-bytes", type=int, default=1000, help="of the waiting server's requests (1000)"
    )
    parser.add_argument("--server-ms", type=float, default=2.0, help="how long the waiting server waits (2)")
    parser.add_argument("--replay", action="store_true", help="record awkward traffic, too, and replay it")
    parser.add_argument("--replay-s", type=float, default=60.0, help="for so long (60)")
    parser.add_argument("--limit-ms", type=float, help="what in time is (that of benchmarks.examples)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
