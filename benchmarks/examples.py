"""What the two example servers take: searches beside sustain runs and an outside open-loop tool.

``python -m benchmarks.examples ranking|embedding [--searches N] [--budget-s S] [--loadtest PATH] ...``

Starts the example's server (``make demo`` sets it up), runs N searches, then sustain runs at 0.9 and 1.1 of
their median, and, where its path is given, npm's ``loadtest``, which sends open loop at an even pace.
With ``--judge`` it finds the rate that ``hey -q`` (``--hey PATH``) or ``loadtest`` shows the server to hold
with one request over and over, and judges 0.7 and 1.3 times that rate, ten times each, with the same request.
hey's ten workers never have more than ten requests in flight, loadtest sends on whatever is unanswered.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from pytest_capacity import HttpTarget
from pytest_capacity.load.engines import engine_named
from pytest_capacity.measurement import Conditions, Question, Requirement, SearchRun, SustainRun
from pytest_capacity.slo import SLO

EXAMPLES = Path(__file__).parent.parent / "examples"
PATHS = {"ranking": "/rank", "embedding": "/embed"}
HEALTH = {"ranking": "/healthz", "embedding": "/health"}
LIMITS_MS = {"ranking": 50.0, "embedding": 100.0}
MOST_QPS = {"ranking": 2000.0, "embedding": 150.0}
BODIES = 500
OUTSIDE_S = 20
LADDER_S, FIRST_QPS = 10, 300.0


def example(name: str, examples: Path = EXAMPLES) -> ModuleType:
    """The example's conftest, which knows its traffic."""
    folder = examples.resolve() / name
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("example", folder / "conftest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def serving(name: str, examples: Path = EXAMPLES) -> Iterator[str]:
    """The example's server, started and stopped; gives its URL."""
    folder = examples.resolve() / name
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    python = folder / ".venv" / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing: run make demo first")
    commands = {
        "ranking": [str(python), "-m", "uvicorn", "app:app", "--port", str(port), "--no-access-log"],
        "embedding": [str(python), "server.py", "--port", str(port)],
    }
    server = subprocess.Popen(
        commands[name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not answers(port, HEALTH[name]):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the {name} server did not start: run make demo first")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int, path: str) -> bool:
    """Whether the server answers its health check."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False


def outside(
    loadtest: str, url: str, rate: float, bodies: Path, seconds: int = OUTSIDE_S
) -> tuple[float, float]:
    """The p99 in ms and the requests a second that ``loadtest`` tells of some seconds at a rate."""
    output = subprocess.run(
        [
            *(loadtest, "-t", str(seconds), "--rps", f"{rate:.0f}", "-k"),
            *("-m", "POST", "-T", "application/json", "-R", str(bodies), url),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=False,
    ).stdout
    p99 = re.search(r"99%\s+([\d.]+)", output)
    achieved = re.search(r"(?:Effective rps|Requests per second):\s+([\d.]+)", output)
    return float(p99[1]) if p99 else float("inf"), float(achieved[1]) if achieved else 0.0


def held(tool: str, shown: Callable[[float], tuple[float, float]], limit_ms: float) -> float:
    """The highest rate of a ladder, 15 % a rung, at which an outside tool sees 99 % within the limit.

    The first run only warms the server; a rung that fails is tried once more, since a pause of the machine
    in ten seconds is enough for that. Raises SystemExit where not even the lowest holds.
    """
    rate, best, failed = FIRST_QPS, 0.0, 0
    shown(rate)
    while failed < 2:
        p99_ms, achieved = shown(rate)
        print(f"{tool} at {rate:.0f}/s: p99 {p99_ms:.1f} ms, {achieved:.0f}/s", flush=True)
        if p99_ms > limit_ms or achieved < 0.9 * rate:
            failed += 1
        else:
            best, rate, failed = achieved, rate * 1.15, 0
    if not best:
        raise SystemExit(f"{tool} sees more than {limit_ms:g} ms at p99 even at {rate:g}/s")
    return best


def heyed(hey: str, url: str, body: Path, rate: float) -> tuple[float, float]:
    """The p99 in ms and the requests a second that hey tells of ten seconds at a rate, over ten workers."""
    command = [hey, "-z", "10s", "-c", "10", "-q", f"{rate / 10:g}", "-m", "POST", "-T", "application/json"]
    said = subprocess.run(
        [*command, "-D", str(body), url], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    p99, achieved = re.search(r"99%+ in ([\d.]+)", said), re.search(r"Requests/sec:\s+([\d.]+)", said)
    return float(p99[1]) * 1000 if p99 else float("inf"), float(achieved[1]) if achieved else 0.0


def held_by_tool(given: argparse.Namespace, url: str, limit_ms: float, body: object, folder: Path) -> float:
    """The rate that the outside tool which was named shows the server to hold."""
    if given.hey:
        path = folder / "body.json"
        path.write_text(json.dumps(body))
        return held("hey -q", lambda rate: heyed(given.hey, url, path, rate), limit_ms)
    bodies = write_bodies(lambda _rng: body, folder)
    return held("loadtest", lambda rate: outside(given.loadtest, url, rate, bodies, LADDER_S), limit_ms)


def judge_around(rate: float, url: str, limit_ms: float, *, body: object, runs: int) -> None:
    """Judge 0.7 and 1.3 times the rate that an outside tool shows, and print the verdicts."""
    encoded = json.dumps(body).encode()
    target = HttpTarget(url, body=encoded, headers={"Content-Type": "application/json"})
    for share in (0.7, 1.3):
        for seed in range(runs):
            requirement = Requirement(SLO(p99_ms=limit_ms), share * rate)
            run = SustainRun(target, requirement, Conditions(engine_named("fast"), seed)).run()
            assert run.result
            print(
                f"sustain at {share:g} x {rate:.0f}/s, run {seed}: {run.verdict}, {run.result.load_s:.0f} s, "
                f"{run.result.bad_share:.2%} late; {'; '.join(d.text for d in run.doubts)}",
                flush=True,
            )


def write_bodies(query: Callable[[np.random.Generator], object], folder: Path) -> Path:
    """A request generator for ``loadtest`` that draws from the example's traffic."""
    rng = np.random.default_rng(1)
    drawn = json.dumps([json.dumps(query(rng)) for _ in range(BODIES)])
    script = folder / "bodies.js"
    script.write_text(
        f"const bodies = {drawn};\nmodule.exports = (params, options, client, callback) => {{\n"
        "  const body = bodies[Math.floor(Math.random() * bodies.length)];\n"
        "  options.headers['Content-Length'] = Buffer.byteLength(body);\n"
        "  options.headers['Content-Type'] = 'application/json';\n  options.body = body;\n"
        "  const request = client(options, callback);\n  request.write(body);\n  return request;\n};\n"
    )
    return script


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PATHS))
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("--budget-s", type=float, default=60.0)
    parser.add_argument("--soak-s", type=float, default=60.0)
    parser.add_argument("--loadtest", help="the path of npm's loadtest")
    parser.add_argument("--judge", action="store_true", help="judge around what hey or loadtest shows")
    parser.add_argument("--hey", help="the path of hey")
    parser.add_argument("--runs", type=int, default=10, help="at each share of that rate (10)")
    given = parser.parse_args()
    if given.judge and not (given.hey or given.loadtest):
        parser.error("--judge needs --hey or --loadtest")
    slo = SLO(p99_ms=LIMITS_MS[given.name])
    query = example(given.name).query
    with serving(given.name) as url, tempfile.TemporaryDirectory() as folder:
        if given.judge:
            body, whole = query(np.random.default_rng(1)), url + PATHS[given.name]
            rate = held_by_tool(given, whole, LIMITS_MS[given.name], body, Path(folder))
            judge_around(rate, whole, LIMITS_MS[given.name], body=body, runs=given.runs)
            return
        target = HttpTarget(url + PATHS[given.name], payloads=query)
        found: list[float] = []
        for seed in range(given.searches):
            question = Question(slo, budget_s=given.budget_s, max_qps=MOST_QPS[given.name])
            measured = SearchRun(target, question, Conditions(engine_named("fast"), seed)).run()
            capacity = measured.capacity
            assert capacity
            print(
                f"search {seed}: {capacity.capacity_qps or 0:.1f}/s ({capacity.ci_low_qps or 0:.1f}-"
                f"{capacity.ci_high_qps or 0:.1f}), {capacity.status}, {measured.verdict}, "
                f"{capacity.load_s:.0f} s; {'; '.join(d.text for d in measured.doubts)}",
                flush=True,
            )
            if capacity.capacity_qps:
                found.append(capacity.capacity_qps)
        middle = statistics.median(found)
        for share in (0.9, 1.1):
            requirement = Requirement(slo, share * middle, budget_s=given.soak_s, min_s=given.soak_s * 0.6)
            soak = SustainRun(target, requirement, Conditions(engine_named("fast"), 1)).run()
            assert soak.result
            print(
                f"soak at {share:g} x median = {share * middle:.1f}/s: {soak.verdict}, "
                f"{soak.result.bad_share:.2%} late; {'; '.join(d.text for d in soak.doubts)}",
                flush=True,
            )
        if given.loadtest:
            bodies = write_bodies(query, Path(folder))
            for share in (0.6, 0.8, 0.9, 1.0, 1.1, 1.2):
                rate = share * middle
                p99_ms, sent = outside(given.loadtest, url + PATHS[given.name], rate, bodies)
                print(
                    f"loadtest at {share:g} x median = {rate:.0f}/s: p99 {p99_ms:g} ms, {sent:.0f}/s sent",
                    flush=True,
                )


if __name__ == "__main__":
    main()
