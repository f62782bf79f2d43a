"""The shell's door: ``pytest-capacity search URL --p99-ms 50``, ``sustain`` and the other commands.

Exit codes: 0 pass or measured, 1 fail or unattainable, 2 usage, 3 inconclusive or not converged,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pytest_capacity import __version__
from pytest_capacity.slo import SLO, CapacityUsageError, Verdict, slo_from_arguments

if TYPE_CHECKING:
    from pytest_capacity.measurement import Conditions, Progress, Run

EXIT_CODES = {Verdict.PASS: 0, Verdict.MEASURED: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
USAGE, INTERRUPTED = 2, 130
BOUNDS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "error_rate")
CODES_HELP = "Exit code: 0 pass, 1 fail, 2 usage, 3 inconclusive, 130 interrupted."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = make_parser().parse_args(arguments)
    if sys.platform == "win32" and options.command != "simulate":
        print("pytest-capacity: measuring works on Linux and macOS only", file=sys.stderr)
        return USAGE
    try:
        return run(options, sys.stdout, sys.stderr)
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
    return measure(options, out, err)


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="pytest-capacity",
        description="Ask a model server how much load it takes, and get an answer with its uncertainty.",
    )
    parser.add_argument("--version", action="version", version=f"pytest-capacity {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sustain = commands.add_parser(
        "sustain",
        help="does URL sustain a rate under an SLO?",
        description=f"Load URL open loop at a rate and judge it against an SLO. {CODES_HELP}",
    )
    sustain.add_argument("--qps", type=float, required=True, help="requests a second that must be sustained")
    sustain.add_argument("--min-s", type=float, default=10.0, help="least seconds of evidence (10)")
    search = commands.add_parser(
        "search",
        help="how much does URL take under an SLO?",
        description=f"Find the highest rate up to which an SLO holds, with its 90 %% interval. {CODES_HELP}",
    )
    search.add_argument("--require-qps", type=float, help="pass or fail by whether the capacity reaches this")
    search.add_argument("--min-qps", type=float, help="lowest rate to try")
    search.add_argument("--max-qps", type=float, help="highest rate to try (10,000)")
    search.add_argument(
        "--tolerance", type=float, default=0.08, help="width of the interval to stop at (0.08)"
    )
    search.add_argument(
        "--allow", action="append", default=[], metavar="STATUS", help="accept a status, such as budget"
    )
    for command in (sustain, search):
        add_target_options(command)
        add_slo_options(command)
        add_run_options(command)
    add_selftest_command(commands)
    add_simulate_command(commands)
    return parser


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


def add_run_options(command: argparse.ArgumentParser) -> None:
    """How to measure, and where the answer goes."""
    group = command.add_argument_group("measurement")
    group.add_argument(
        "--budget-s", type=float, default=60.0, help="most seconds of load, warm-up included (60)"
    )
    group.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
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


def simulate(options: argparse.Namespace, out: TextIO) -> int:
    """Simulate, and print the answer.

    Raises TypeError, ValueError or OSError for what cannot be simulated.
    """
    from pytest_capacity.simulate.command import answer  # noqa: PLC0415 - --help needs none of it

    document, lines = answer(options, slo_from_arguments({name: getattr(options, name) for name in BOUNDS}))
    print(json.dumps(document, indent=1, allow_nan=False) if options.json else "\n".join(lines), file=out)
    return 0


def measure(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Tell the plan, measure, tell the verdict in words, store the record.

    Raises CapacityUsageError, TypeError, ValueError or OSError for what cannot be measured or stored.
    """
    from pytest_capacity.report.text import failure_text, verdict_in_words  # noqa: PLC0415
    from pytest_capacity.results.entries import TestRecord  # noqa: PLC0415

    slo = slo_from_arguments({name: getattr(options, name) for name in BOUNDS})
    progress = ProgressPrinter(err)
    run, plan = prepare(options, slo, make_conditions(options, progress))
    print(f"plan: {plan}; {slo.describe()}", file=err)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    name = f"{options.command}-{stamp}"
    record = TestRecord(name, 1, "enforce", {})
    try:
        measured = run.run()
    except KeyboardInterrupt:
        record.add(run.measured(), "command line", None, options.dir, name=f"{name}.json")
        raise
    finally:
        progress.clear()
    document, path = record.add(measured, "command line", None, options.dir, name=f"{name}.json")
    good = measured.verdict in (Verdict.PASS, Verdict.MEASURED)
    said = f"{verdict_in_words(document)}\n  {path}" if good else failure_text(document, artifact=str(path))
    print(said, file=err if options.json else out)
    if options.json:
        json.dump(document, out, indent=1)
        print(file=out)
    return EXIT_CODES[measured.verdict] if measured.verdict else INTERRUPTED


def make_conditions(options: argparse.Namespace, progress: ProgressPrinter) -> Conditions:
    """How to measure, from the options."""
    from pytest_capacity.load.engines import engine_named  # noqa: PLC0415 - --help needs none of it
    from pytest_capacity.measurement import Conditions  # noqa: PLC0415

    if options.max_in_flight is not None and options.max_in_flight < 1:
        raise ValueError(f"max_in_flight={options.max_in_flight} must be at least 1")
    return Conditions(
        engine=engine_named(options.engine, options.workers),
        seed=secrets.randbits(31) if options.seed is None else options.seed,
        allow_hosts=tuple(options.allow_host),
        arrivals=options.arrivals,
        max_in_flight=options.max_in_flight,
        on_progress=progress.show,
    )


def prepare(options: argparse.Namespace, slo: SLO, conditions: Conditions) -> tuple[Run, str]:
    """The measurement that a command asks for, and what it may cost, in words."""
    from pytest_capacity.measurement import Question, Requirement, SearchRun, SustainRun  # noqa: PLC0415
    from pytest_capacity.report.text import plan_line  # noqa: PLC0415

    target = make_target(options)
    if options.command == "sustain":
        requirement = Requirement(slo, options.qps, options.budget_s, options.min_s)
        run = SustainRun(target, requirement, conditions)
        plan = run.plan
        cost = plan_line(plan.min_s, plan.max_s, plan.min_requests, plan.max_requests, options.qps)
        return run, cost + ("; once more as long where undecided" if plan.extension else "")
    question = Question(
        slo,
        require_qps=options.require_qps,
        min_qps=options.min_qps,
        max_qps=options.max_qps,
        budget_s=options.budget_s,
        tolerance=options.tolerance,
        allow=tuple(options.allow),
    )
    most_qps = question.most_qps(conditions)
    text = f"at most {options.budget_s:g} s of load and {most_qps * options.budget_s:,.0f} requests, "
    return SearchRun(target, question, conditions), text + "starting with one at a time; warm-up included"


def make_target(options: argparse.Namespace) -> Any:
    """The HTTP target that the options describe; raises ValueError or OSError where they are wrong."""
    from pytest_capacity.targets.http import HttpTarget  # noqa: PLC0415 - --help needs none of it

    arguments: dict[str, Any] = {"method": options.method, "headers": read_headers(options)}
    if options.json_body is not None:
        try:
            arguments["json"] = json.loads(options.json_body.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--json-body {options.json_body}: not JSON ({error})") from error
    if options.body is not None:
        arguments["body"] = options.body.read_bytes()
    return HttpTarget(options.url, timeout_s=options.timeout_s, **arguments)


def read_headers(options: argparse.Namespace) -> dict[str, str]:
    """The headers given, the bearer token among them; raises ValueError for a bad one."""
    headers = {}
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The value is not shown: it may be a credential.
            raise ValueError("--header must be 'Name: value'")
        headers[name.strip()] = value.strip()
    if options.bearer_env:
        token = os.environ.get(options.bearer_env)
        if not token:
            raise ValueError(f"--bearer-env: environment variable {options.bearer_env} is not set")
        headers["Authorization"] = f"Bearer {token}"
    return headers


class ProgressPrinter:
    """Live progress on standard error: one line rewritten on a terminal, one every ten seconds elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self._next_s = 0.0

    def show(self, progress: Progress) -> None:
        """Write how the measurement stands, unless it was written a moment ago."""
        if time.monotonic() < self._next_s:
            return
        from pytest_capacity.report.text import progress_line  # noqa: PLC0415 - --help needs none of it

        self._next_s = time.monotonic() + (1.0 if self._terminal else 10.0)
        line = progress_line(**asdict(progress))
        end = "\r" if self._terminal else "\n"
        print(f"{line:<79}" if self._terminal else line, end=end, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the line away from a terminal."""
        if self._terminal and self._next_s:
            print(f"{'':<79}", end="\r", file=self._stream, flush=True)
