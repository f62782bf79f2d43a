"""Measure the load generator beside its peers: ``python -m benchmarks.loadgen``; Linux, with a C compiler.

Each part's results replace its file in the folder; ``--part tables`` shows again what lies there. All load
goes to servers on 127.0.0.1 that the benchmark starts and ends. Times are worth something only on a machine
that does nothing else: the witness says of each run whether others disturbed it.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from benchmarks.loadgen import peers
from benchmarks.loadgen.building import CannotBuild, built
from benchmarks.loadgen.engines import ENGINES
from benchmarks.loadgen.files import Row, read_part, write_part
from benchmarks.loadgen.lab import Lab, RunFailed, usable_cores
from benchmarks.loadgen.parts import (
    closed,
    contaminated,
    memory,
    one_core,
    punctual,
    switching,
    truth,
    workers,
)
from benchmarks.loadgen.servers import ServerFailed
from benchmarks.loadgen.tables import Report, part_text
from benchmarks.loadgen.witness import burners


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its title, how it is measured, and what is made of its rows for an engine."""

    title: str
    measure: Callable[[Lab], list[Row]]
    report: Callable[[Sequence[Row], str], Report]


PARTS: Mapping[str, Part] = {
    "closed": Part("CPU a request, closed loop, one core", closed.measure, closed.report),
    "https": Part("CPU a request over HTTPS, one core", closed.measure_https, closed.report_https),
    "punctual": Part("Open loop: lateness at sending and at the server", punctual.measure, punctual.report),
    "truth": Part("Latency of a server that takes 5 ms", truth.measure, truth.report),
    "switch": Part("From a decision to the new rate", switching.measure, switching.report),
    "workers": Part("Two workers", workers.measure, workers.report),
    "one-core": Part("Everything on one core", one_core.measure, one_core.report),
    "memory": Part("Memory", memory.measure, memory.report),
    "contaminated": Part("Disturbed runs are flagged", contaminated.measure, contaminated.report),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts asked for and print their tables; 2 where nothing can be measured here."""
    options = _parser().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("this benchmark reads /proc and binds to cores: it runs on Linux only", file=sys.stderr)
        return 2
    names = list(PARTS) if options.part in (None, "tables") else [options.part]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if options.part != "tables":
            _measure(names, options)
    except KeyboardInterrupt:
        print("stopped, with all that was started; the parts that were whole are kept", file=sys.stderr)
        return 130
    except (CannotBuild, RunFailed, ServerFailed, peers.PeerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    shown = [text for name in names if (text := _text(options.out, name))]
    print("\n\n".join(shown) or f"nothing was measured yet in {options.out}")
    return 0


def _measure(names: Sequence[str], options: argparse.Namespace) -> None:
    if options.install_locust:
        peers.install_locust(options.out)
    programs = built(options.out / "build")
    server_core, client_cores = usable_cores()
    if options.clients == "everywhere":
        client_cores = (server_core, *(core for core in client_cores if core != server_core))
    if client_cores == (server_core,):
        print("one core only: server and client share it", file=sys.stderr)
    if busy := burners(1.0):
        others = ", ".join(f"{name} {share:.0%}" for name, share in busy)
        print(f"others are at work here: {others} of a core", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="loadgen-") as scratch:
        lab = Lab(
            programs=programs,
            scratch=Path(scratch),
            home=options.out,
            engines=options.engines,
            repeats=options.repeats,
            seconds=options.seconds,
            clean_runs=options.clean_runs,
            memory_requests=options.memory_requests,
            spin_server=options.spin_server,
            server_core=server_core,
            client_cores=client_cores,
        )
        for name in names:
            _measure_part(name, lab, options)


def _measure_part(name: str, lab: Lab, options: argparse.Namespace) -> None:
    print(f"{name}: {PARTS[name].title}", file=sys.stderr)
    lab.noise.clear()
    began_s = time.monotonic()
    rows = PARTS[name].measure(lab)
    document: Row = {
        "part": name,
        "engine": lab.engines[0],
        "settings": {
            "repeats": lab.repeats,
            "seconds": lab.seconds,
            "spin_server": lab.spin_server,
            "server_core": lab.server_core,
            "client_cores": list(lab.client_cores),
        },
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "took_s": time.monotonic() - began_s,
        "rows": rows,
        "noise": list(lab.noise),
    }
    write_part(options.out, name, document)


def _text(folder: Path, name: str) -> str | None:
    document = read_part(folder, name)
    if document is None:
        return None
    part, rows = PARTS[name], document["rows"]
    return part_text(part.title, part.report(rows, document["engine"]), rows, document["noise"])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadgen", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, "tables"], help="one part only; 'tables' measures nothing")
    parser.add_argument("--repeats", type=_positive_int, default=5, help="runs of each contender (5)")
    parser.add_argument("--seconds", type=_positive, default=5.0, help="of load in a run (5)")
    parser.add_argument(
        "--engines", type=_engines, default=list(ENGINES),
        help=f"the first is held against the bars ({','.join(ENGINES)})",
    )  # fmt: skip
    parser.add_argument("--clean-runs", type=_positive_int, default=50, help="undisturbed verdicts (50)")
    parser.add_argument(
        "--memory-requests",
        type=_positive_int,
        default=10_000_000,
        help="for the peak (10 million)",
    )
    parser.add_argument(
        "--spin-server", action="store_true",
        help="the server polls all the time: arrivals without its wake-up, at the price of a core",
    )  # fmt: skip
    parser.add_argument(
        "--clients", choices=["apart", "everywhere"], default="apart",
        help="whether clients that may have several cores leave the server's alone (apart)",
    )  # fmt: skip
    parser.add_argument("--install-locust", action="store_true", help="into an environment of its own")
    parser.add_argument("--out", type=Path, default=Path(".benchmarks/loadgen"))
    return parser


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0, at most an hour")
    return number


def _engines(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ENGINES]:
        raise argparse.ArgumentTypeError(f"no engine {', '.join(unknown)}; known are {', '.join(ENGINES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
