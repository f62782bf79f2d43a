"""The options of ``import`` and ``inspect``: a light module, since every command's --help loads it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from pytest_capacity.traffic.times import Unit


def add_recorded_commands(commands: Any) -> None:
    """Add the commands that bring in recorded traffic and look at it to a parser's others."""
    add_import_options(
        commands.add_parser(
            "import",
            help="make a trace of a log, a capture or a table",
            description="Make a trace of recorded traffic, in order of arrival and without credentials.",
        )
    )
    add_inspect_options(
        commands.add_parser(
            "inspect",
            help="what is in a trace?",
            description="Tell a trace's rates, bursts, sizes, operations, keys, and what to doubt.",
        )
    )


def add_import_options(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument(
        "file", metavar="FILE", type=Path, nargs="?", help="what was recorded; gzip is read, too"
    )
    command.add_argument("--out", metavar="TRACE", type=Path, required=True, help="a suffix .gz compresses")
    command.add_argument(
        "--format", metavar="NAME", help="guessed where it is plain; a wrong one lists them all"
    )
    command.add_argument("--name", help="the trace's name (the file's)")
    columns = command.add_argument_group("columns of a table (CSV, TSV, JSON Lines)")
    columns.add_argument("--time-col", metavar="C", help="when a request arrived")
    columns.add_argument("--time-unit", choices=get_args(Unit), help="what the times are in (guessed)")
    columns.add_argument("--size", action="append", default=[], metavar="NAME=COLUMN", help="repeatable")
    columns.add_argument("--op-col", metavar="C", help="the operation")
    columns.add_argument("--key-col", metavar="C", help="what caches go by; stored as a hash")
    columns.add_argument(
        "--session-col", metavar="C", help="requests of one client or talk; stored as a hash"
    )
    columns.add_argument("--duration-col", metavar="C", help="--time-col is the end: take this from it")
    columns.add_argument("--group-col", metavar="C", help="rows with one value are items of one request")
    composed = command.add_argument_group("arrivals of one file, requests of another")
    composed.add_argument(
        "--arrivals", metavar="FILE", type=Path, help="its times; --format and columns are for it"
    )
    composed.add_argument(
        "--payloads", metavar="FILE", type=Path, help="its requests, in order and over and over"
    )
    composed.add_argument("--payloads-format", metavar="NAME", help="as --format")
    other = command.add_argument_group("other")
    other.add_argument(
        "--sampling", type=float, metavar="SHARE", help="of the traffic that was recorded, 0 to 1"
    )
    other.add_argument("--mixed-zones", action="store_true", help="take each time by its own time zone")
    other.add_argument("--plain-keys", action="store_true", help="store keys and sessions as they are")
    other.add_argument("--allow-cut", action="store_true", help="read a truncated file up to where it ends")
    other.add_argument(
        "--to", choices=("mooncake", "perf-analyzer"), help="export the trace FILE for another tool"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")


def add_inspect_options(command: argparse.ArgumentParser) -> None:
    """The options of the command."""
    command.add_argument(
        "trace", metavar="TRACE", type=Path, help="a trace, *.trace.jsonl or *.trace.jsonl.gz"
    )
    command.add_argument(
        "--allow-cut", action="store_true", help="read a trace whose recorder was killed up to where it ends"
    )
    command.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")
