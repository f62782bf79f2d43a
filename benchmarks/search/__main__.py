"""Compare searches on random servers: ``python -m benchmarks.search``; stop it and start it as you like.

What is done stays in the folder and is not done again. A change to an algorithm needs a new ``--label`` (its
results stand beside the old ones as ``NAME@LABEL``) or a new folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.search.algorithms import ALGORITHMS
from benchmarks.search.oracle import oracle_runs
from benchmarks.search.population import RANGES
from benchmarks.search.runs import do_missing, false_pass_jobs, search_jobs, sustain_jobs
from benchmarks.search.tables import all_tables
from benchmarks.search.truths import find_truths

PARTS = ("search", "sustain", "false-pass", "oracle")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is missing and print the tables."""
    options = _parser().parse_args(arguments)
    try:
        errors = 0 if options.part == "tables" else _do(options)
    except KeyboardInterrupt:
        print("stopped; what is done stays, and the next start goes on from here", file=sys.stderr)
        return 130
    print(all_tables(options.out, options.range))
    if errors:
        print(f"{errors} runs ended in an error; see the rows with 'error' in {options.out}", file=sys.stderr)
    return int(errors > 0)


def _do(options: argparse.Namespace) -> int:
    folder, processes = options.out, options.processes
    servers = find_truths(
        folder, options.range, range(options.servers), processes=processes, effort=options.truth_effort
    ).values()
    parts = [options.part] if options.part else PARTS
    errors = 0
    if "search" in parts:
        jobs = search_jobs(servers, options.seeds, options.budgets, options.algorithms, options.label)
        errors += do_missing(folder, options.range, jobs, processes)
    if "sustain" in parts:
        jobs = sustain_jobs(servers, options.seeds, options.label)
        errors += do_missing(folder, options.range, jobs, processes)
    if "false-pass" in parts:
        jobs = false_pass_jobs(servers, options.label)
        errors += do_missing(folder, options.range, jobs, processes)
    if "oracle" in parts:
        oracle_runs(folder, options.range, servers, options.budgets, processes)
    return errors


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, "tables"], help="one part only; 'tables' does nothing new")
    parser.add_argument("--servers", type=int, default=40, help="the first so many of the range (40)")
    parser.add_argument("--seeds", type=int, default=50, help="runs on each server (50)")
    parser.add_argument("--budgets", type=_numbers, default=[60.0, 120.0], help="seconds of load (60,120)")
    parser.add_argument(
        "--algorithms", type=_names, default=list(ALGORITHMS), help=f"{', '.join(ALGORITHMS)}"
    )
    parser.add_argument("--label", default="", help="results stand under NAME@LABEL")
    parser.add_argument(
        "--range", choices=list(RANGES), default="report", help="tuning never looks at 'report'"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".benchmarks/search"))
    parser.add_argument("--truth-effort", type=float, default=1.0, help="requests for the truth, as a factor")
    return parser


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ALGORITHMS]:
        raise argparse.ArgumentTypeError(
            f"no algorithm {', '.join(unknown)}; known are {', '.join(ALGORITHMS)}"
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
