"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

BOUNDS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "error_rate")
CODES_HELP = "Exit code: 0 pass, 1 fail, 2 usage, 3 inconclusive, 130 interrupted."


def add_target_options(command: argparse.ArgumentParser, url: str = "url") -> None:
    """What to send, and where; ``url`` is the argument's name."""
    group = command.add_argument_group("target")
    group.add_argument(url, metavar="URL")
    group.add_argument("--method", help="GET, or POST where there is a body")
    body = group.add_mutually_exclusive_group()
    body.add_argument("--json-body", metavar="FILE", type=Path, help="a JSON document to send")
    body.add_argument("--body", metavar="FILE", type=Path, help="bytes to send as they are")
    group.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="repeatable")
    group.add_argument(
        "--bearer-env", metavar="VARIABLE", help="environment variable that holds a bearer token"
    )
    group.add_argument("--timeout-s", type=float, default=10.0, help="seconds for each request (10)")
    group.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="GLOB",
        help="allow a host other than this machine",
    )


def add_slo_options(command: argparse.ArgumentParser) -> None:
    """The promise to be judged."""
    group = command.add_argument_group("SLO (at least one bound)")
    for name in BOUNDS:
        unit = "SHARE" if name == "error_rate" else "MS"
        group.add_argument(f"--{name.replace('_', '-')}", type=float, metavar=unit)


def add_trace_options(command: argparse.ArgumentParser) -> None:
    """Recorded traffic to send in place of one request."""
    group = command.add_argument_group("recorded traffic")
    group.add_argument(
        "--trace",
        metavar="FILE",
        type=Path,
        help="a trace, or a workload model (.yaml), to send to URL's host, each request by its own path",
    )
    group.add_argument(
        "--trace-mode",
        choices=("superpose", "compress"),
        help="above its own rate: shifted copies over each other (superpose), or its time compressed",
    )
    group.add_argument(
        "--trace-ticks",
        choices=("spread", "kept"),
        help="what a coarse clock put together is spread within its tick (spread), or left as it is (kept)",
    )
    group.add_argument(
        "--trace-sessions",
        choices=("timed", "causal"),
        help="turns of a session leave when recorded (timed), or after the reply to the one before (causal)",
    )


def add_run_options(command: argparse.ArgumentParser) -> None:
    """How to measure, and where the answer goes."""
    group = command.add_argument_group("measurement")
    group.add_argument(
        "--budget-s", type=float, default=60.0, help="most seconds of load, warm-up included (60)"
    )
    group.add_argument("--arrivals", choices=("poisson", "constant"), help="poisson, unless told otherwise")
    group.add_argument("--max-in-flight", type=int, metavar="N", help="bound on requests in flight")
    add_engine_options(group)
    group.add_argument("--seed", type=int, help="seed of arrivals (a fresh one)")
    group.add_argument(
        "--dir", type=Path, default=Path(".capacity"), help="where the record goes (.capacity)"
    )
    group.add_argument(
        "--json", action="store_true", help="print the record, and nothing else, on standard output"
    )


def add_engine_options(group: Any) -> None:
    """What sends the load."""
    group.add_argument("--engine", choices=("fast", "aiohttp"), default="fast", help="what sends (fast)")
    group.add_argument("--workers", type=int, metavar="N", help="sending processes (as the rate asks for)")
