"""The shell's door: ``pytest-capacity search URL --p99-ms 50``, ``sustain`` and the other commands.

Exit codes: 0 pass or measured, 1 fail or unattainable, 2 usage, 3 inconclusive or not converged,
130 interrupted, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from pytest_capacity import __version__
from pytest_capacity.cli.codes import INTERRUPTED, NOBODY_READS, USAGE
from pytest_capacity.cli.generator import add_selftest_command, selftest
from pytest_capacity.cli.measuring import add_measuring_commands, measure
from pytest_capacity.cli.recorded import add_calibrate_command, add_record_command, calibrate, recorded
from pytest_capacity.cli.simulating import add_simulate_command, simulate
from pytest_capacity.slo import CapacityUsageError

__all__ = ["main", "make_parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; output that nobody reads any more ends it quietly."""
    try:
        try:
            return _told(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still to be written, at the interpreter's end at the latest, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return NOBODY_READS


def _told(arguments: Sequence[str] | None) -> int:
    """Run a command; what can go wrong is told in words."""
    options = make_parser().parse_args(arguments)
    if sys.platform == "win32" and options.command not in ("simulate", "import", "inspect", "calibrate"):
        print("pytest-capacity: measuring works on Linux and macOS only", file=sys.stderr)
        return USAGE
    try:
        return run(options, sys.stdout, sys.stderr)
    except BrokenPipeError:
        raise
    except (CapacityUsageError, TypeError, ValueError, OSError) as error:
        from pytest_capacity.results.redact import redact_text  # noqa: PLC0415 - --help needs none of it

        print(f"pytest-capacity: {redact_text(str(error))}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("pytest-capacity: interrupted; the load has stopped", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Run the command that the options name; raises what ``main`` turns into words."""
    if options.command == "simulate":
        return simulate(options, out)
    if options.command == "selftest":
        return selftest(options, out)
    if options.command in ("import", "inspect"):
        return recorded(options, out, err)
    if options.command == "calibrate":
        return calibrate(options, out)
    if options.command == "record":
        from pytest_capacity.recording.command import record  # noqa: PLC0415 - for this command only

        return record(options, out, err)
    return measure(options, out, err)


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    from pytest_capacity.traffic.command_options import add_recorded_commands  # noqa: PLC0415 - as others

    parser = argparse.ArgumentParser(
        prog="pytest-capacity",
        description="Ask a model server how much load it takes, and get an answer with its uncertainty.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-capacity {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_measuring_commands(commands)
    add_selftest_command(commands)
    add_simulate_command(commands)
    add_record_command(commands)
    add_recorded_commands(commands)
    add_calibrate_command(commands)
    return parser
