"""``pytest-capacity selftest``: what the load generator itself can do."""

from __future__ import annotations

import argparse
import json
from typing import Any, TextIO

from pytest_capacity.cli.options import add_engine_options, add_target_options
from pytest_capacity.cli.targets import make_target


def add_selftest_command(commands: Any) -> None:
    """The command that measures the load generator itself."""
    from pytest_capacity.load.selftest_options import add_options  # noqa: PLC0415 - as the commands' others

    command = commands.add_parser(
        "selftest",
        help="how fast, and how punctually, can this machine send?",
        description="Measure the load generator: its ceiling in a closed loop, what a request costs, and how "
        "late requests leave at several rates, at a server of its own or at a URL. Exit code: 0, 2 usage.",
    )
    add_options(command)
    add_target_options(command, url="--url")
    add_engine_options(command)
    command.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")


def selftest(options: argparse.Namespace, out: TextIO) -> int:
    """Measure the load generator, and print the answer.

    Raises CapacityUsageError, TypeError, ValueError or OSError for what cannot be loaded.
    """
    from pytest_capacity.load.selftest import check_extent, in_words, measure_target, rates_from  # noqa: PLC0415

    rates = rates_from(options.rates)
    check_extent(options.seconds, rates)
    answer = measure_target(options, rates, make_target)
    print(json.dumps(answer, indent=1) if options.json else "\n".join(in_words(answer)), file=out)
    return 0
