"""``pytest-capacity sustain`` and ``search``: a verdict, or a capacity, for a URL."""

from __future__ import annotations

import argparse
import json
import secrets
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from pytest_capacity.cli.codes import EXIT_CODES, INTERRUPTED
from pytest_capacity.cli.options import (
    BOUNDS,
    CODES_HELP,
    add_run_options,
    add_slo_options,
    add_target_options,
    add_trace_options,
)
from pytest_capacity.cli.progress import ProgressPrinter
from pytest_capacity.cli.targets import make_target
from pytest_capacity.slo import SLO, Verdict, slo_from_arguments

if TYPE_CHECKING:
    from pytest_capacity.measurement import Conditions, Run
    from pytest_capacity.measurement.recorded import Recorded


def add_measuring_commands(commands: Any) -> None:
    """The commands that load a URL."""
    sustain = commands.add_parser(
        "sustain",
        help="does URL sustain a rate under an SLO?",
        description=f"Load URL open loop at a rate and judge it against an SLO. {CODES_HELP}",
    )
    sustain.add_argument(
        "--qps", type=float, help="requests a second that must be sustained (as recorded, with --trace)"
    )
    sustain.add_argument("--min-s", type=float, default=10.0, help="least seconds of evidence (10)")
    sustain.add_argument(
        "--duration-s", type=float, help="of a replay as recorded: seconds of load (the whole recording)"
    )
    search = commands.add_parser(
        "search",
        help="how much does URL take under an SLO?",
        description=f"Find the highest rate up to which an SLO holds, with its 90 % interval. {CODES_HELP}",
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
        add_trace_options(command)
        add_run_options(command)


def measure(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Tell the plan, measure, tell the verdict in words, store the record.

    Raises CapacityUsageError, TypeError, ValueError or OSError for what cannot be measured or stored.
    """
    from pytest_capacity.report.text import failed_before, failure_text, verdict_in_words  # noqa: PLC0415
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
    passed = [verdict_in_words(document), *failed_before(document), f"  {path}"]
    said = "\n".join(passed) if good else failure_text(document, artifact=str(path))
    print(said, file=err if options.json else out)
    if options.json:
        json.dump(document, out, indent=1)
        print(file=out)
    return EXIT_CODES[measured.verdict] if measured.verdict else INTERRUPTED


def make_conditions(options: argparse.Namespace, progress: ProgressPrinter) -> Conditions:
    """How to measure, from the options."""
    from pytest_capacity.load.engines import engine_named  # noqa: PLC0415 - --help needs none of it
    from pytest_capacity.measurement import Conditions  # noqa: PLC0415

    if options.trace is not None and options.arrivals is not None:
        raise ValueError("--trace and --arrivals exclude each other: requests arrive as they were recorded")
    if options.trace is not None and (options.json_body or options.body or options.method):
        raise ValueError("--trace sends requests as recorded: leave out --json-body, --body and --method")
    for name in ("trace_mode", "trace_ticks", "trace_sessions"):
        if options.trace is None and getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is given and no --trace")
    seed = secrets.randbits(31) if options.seed is None else options.seed
    if options.max_in_flight is not None and options.max_in_flight < 1:
        raise ValueError(f"max_in_flight={options.max_in_flight} must be at least 1")
    return Conditions(
        engine=engine_named(options.engine, options.workers),
        seed=seed,
        allow_hosts=tuple(options.allow_host),
        arrivals=options.arrivals or "poisson",
        trace=_recorded(options, seed),
        trace_mode=options.trace_mode or "superpose",
        sessions=options.trace_sessions or "timed",
        max_in_flight=options.max_in_flight,
        on_progress=progress.show,
    )


def _recorded(options: argparse.Namespace, seed: int) -> Recorded | None:
    from pytest_capacity.measurement import load_recorded  # noqa: PLC0415

    if options.trace is None:
        return None
    return load_recorded(options.trace, seed, spread=options.trace_ticks != "kept")


def prepare(options: argparse.Namespace, slo: SLO, conditions: Conditions) -> tuple[Run, str]:
    """The measurement that a command asks for, and what it may cost, in words."""
    from pytest_capacity.measurement import Question, Requirement, SearchRun, SustainRun  # noqa: PLC0415
    from pytest_capacity.report.text import plan_line  # noqa: PLC0415

    target = make_target(options)
    if options.command == "sustain" and options.qps is None:
        return prepare_replay(target, options, slo, conditions)
    if options.command == "sustain":
        if options.duration_s is not None:
            raise ValueError("--duration-s is for a replay as recorded, without --qps; see --budget-s")
        requirement = Requirement(slo, options.qps, options.budget_s, options.min_s)
        run = SustainRun(target, requirement, conditions)
        plan = run.plan
        cost = plan_line(plan.min_s, plan.max_s, plan.min_requests, plan.max_requests, options.qps)
        extended = "; once more as long where undecided" if plan.extension else ""
        return run, f"{cost}{traced_by(conditions)}{extended}"
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
    text += f"starting with one at a time; warm-up included{traced_by(conditions)}"
    return SearchRun(target, question, conditions), text


def traced_by(conditions: Conditions) -> str:
    """What of a plan is told where recorded traffic is sent."""
    return "" if conditions.trace is None else f"; replays {conditions.trace.path.name}"


def prepare_replay(
    target: Any, options: argparse.Namespace, slo: SLO, conditions: Conditions
) -> tuple[Run, str]:
    """A replay at the recorded rate, and what it will cost, in words."""
    from pytest_capacity.measurement import ReplayRequest, ReplayRun  # noqa: PLC0415
    from pytest_capacity.report.text import plan_line  # noqa: PLC0415

    if conditions.trace is None:
        raise ValueError("--qps is required: the rate that must be sustained (or --trace, to replay one)")
    run = ReplayRun(target, ReplayRequest(slo, duration_s=options.duration_s), conditions)
    plan = run.plan
    least = round(plan.qps * plan.duration_s)
    text = plan_line(plan.duration_s, plan.most_s, least, plan.most_requests, plan.qps)
    return run, f"{text}{traced_by(conditions)} as recorded"
