"""Recorded traffic: ``pytest-capacity record``, ``import``, ``inspect`` and ``calibrate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TextIO

from pytest_capacity.cli.codes import EXIT_CODES
from pytest_capacity.slo import Verdict


def add_record_command(commands: Any) -> None:
    """The command that stands before a server and writes down what it is asked."""
    from pytest_capacity.recording.command import add_options  # noqa: PLC0415 - as the commands' others

    add_options(
        commands.add_parser(
            "record",
            help="record a server's traffic through a reverse proxy",
            description="Pass requests on to a server, and record them as a trace. "
            "Exit code: 0 recorded, 1 the recording could not be written to its end, 2 usage.",
        )
    )


def add_calibrate_command(commands: Any) -> None:
    """The command that makes a model of a trace."""
    command = commands.add_parser(
        "calibrate",
        help="make a small, shareable model of a trace's traffic",
        description="Fit a workload model to a trace, and tell how close what it generates comes. "
        "Exit code: 0 no statistic is outside its tolerance, and the gaps between arrivals and half of all "
        "statistics could be judged; 2 usage; 3 some are outside, or there were too few values to judge by.",
    )
    command.add_argument("trace", metavar="TRACE", type=Path, help="recorded traffic")
    command.add_argument("--out", required=True, metavar="WORKLOAD.yaml", type=Path, help="the model")
    command.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    command.add_argument(
        "--trace-ticks",
        choices=("spread", "kept"),
        default="spread",
        help="what a coarse clock put together is spread within its tick (spread), or left as it is (kept)",
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")


def recorded(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Import or inspect recorded traffic, and print the answer.

    Raises ValueError or OSError for what cannot be read or written.
    """
    if options.command == "import":
        from pytest_capacity.traffic.import_command import answer  # noqa: PLC0415 - --help needs none of it
    else:
        from pytest_capacity.traffic.inspect_command import answer  # noqa: PLC0415

    document, lines, notes = answer(options)
    print(json.dumps(document, indent=1, allow_nan=False) if options.json else "\n".join(lines), file=out)
    for note in notes:
        print(note, file=err)
    return 0


def calibrate(options: argparse.Namespace, out: TextIO) -> int:
    """Fit a workload model to a trace, store it, and print how close it comes.

    Raises ValueError or OSError for what cannot be read, fitted or written.
    """
    from pytest_capacity.traffic.calibrate_command import calibrate_file  # noqa: PLC0415

    spread = options.trace_ticks == "spread"
    found = calibrate_file(options.trace, options.out, options.seed, spread=spread)
    text = json.dumps(found.document, indent=1, allow_nan=False) if options.json else "\n".join(found.lines)
    print(text, file=out)
    return 0 if found.within_tolerance else EXIT_CODES[Verdict.INCONCLUSIVE]
