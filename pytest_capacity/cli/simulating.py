"""``pytest-capacity simulate``: servers in virtual time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TextIO

from pytest_capacity.cli.options import BOUNDS, add_slo_options
from pytest_capacity.slo import slo_from_arguments


def add_simulate_command(commands: Any) -> None:
    """The command that tries servers which exist on paper only."""
    command = commands.add_parser(
        "simulate",
        help="what would be found at a server that a file describes?",
        description="Search a simulated server in virtual time, judge a rate there, or tell its capacity.",
    )
    command.add_argument("server", metavar="SERVER.yaml", type=Path, help="what the server is like")
    add_slo_options(command)
    what = command.add_argument_group("what to find (a search, without any of these)")
    kind = what.add_mutually_exclusive_group()
    kind.add_argument("--sustain-qps", type=float, help="whether this rate is sustained")
    kind.add_argument("--at-qps", type=float, help="the share of bad requests in the long run at this rate")
    kind.add_argument("--truth", action="store_true", help="the capacity itself, from very many requests")
    group = command.add_argument_group("simulation")
    group.add_argument("--seeds", help="one answer for each, such as 3, 0-11 or 1,4,7-9 (0)")
    traffic = group.add_mutually_exclusive_group()
    traffic.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    traffic.add_argument("--trace", type=Path, metavar="FILE", help="arrivals as in a recording")
    group.add_argument("--budget-s", type=float, help="most seconds of load, warm-up included (60)")
    group.add_argument("--seconds", type=float, help="for how long --at-qps counts (5000)")
    for name in ("min-qps", "max-qps", "tolerance", "require-qps"):
        group.add_argument(f"--{name}", type=float, help="of a search, as for a real server")
    group.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")


def simulate(options: argparse.Namespace, out: TextIO) -> int:
    """Simulate, and print the answer.

    Raises TypeError, ValueError or OSError for what cannot be simulated.
    """
    from pytest_capacity.simulate.command import answer  # noqa: PLC0415 - --help needs none of it

    document, lines = answer(options, slo_from_arguments({name: getattr(options, name) for name in BOUNDS}))
    print(json.dumps(document, indent=1, allow_nan=False) if options.json else "\n".join(lines), file=out)
    return 0
