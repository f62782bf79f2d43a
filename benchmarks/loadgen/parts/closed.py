"""What a request costs in a closed loop on one core, beside the peers; over HTTPS beside aiohttp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.loadgen import peers
from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import Lab
from benchmarks.loadgen.servers import tls_server
from benchmarks.loadgen.tables import Report, combined, contenders, figure, of, runs_text

CONNECTIONS = 32
HEAD = ("client", "requests/s", "CPU us/request", "runs")


def measure(lab: Lab) -> list[Row]:
    """Every engine and every peer that is installed, in turn."""
    runs: dict[str, Callable[[], Answer]] = {name: partial(_engine, lab, name) for name in lab.engines}
    for name in (*peers.CLOSED, peers.LOCUST_NAME):
        why = peers.missing(name, lab.home)
        runs[name] = partial(_absent, why) if why else partial(_peer, lab, name)
    return lab.rounds(runs)


def measure_https(lab: Lab) -> list[Row]:
    """Every engine against a null server that speaks TLS."""
    return lab.rounds({name: partial(_https, lab, name) for name in lab.engines})


def _engine(lab: Lab, name: str) -> Answer:
    with lab.server() as server:
        job = Job("closed", name, server.port, lab.seconds, concurrency=CONNECTIONS)
        return _told(lab.run_engine(job, lab.one_core))


def _https(lab: Lab, name: str) -> Answer:
    with tls_server(lab.scratch, core=lab.server_core) as (server, certificate):
        job = Job(
            "closed", name, server.port, lab.seconds, concurrency=CONNECTIONS, scheme="https",
            ca_file=str(certificate),
        )  # fmt: skip
        return _told(lab.run_engine(job, lab.one_core))


def _peer(lab: Lab, name: str) -> Answer:
    with lab.server() as server:
        order = peers.Order(server.url(TAG), lab.seconds, CONNECTIONS, lab.scratch)
        cost = peers.run_closed(name, order, server, lab.one_core, lab.home)
    return _told(
        {"begin_s": cost.begin_s, "end_s": cost.end_s, "requests": cost.requests, "cpu_s": cost.cpu_s}
    )


def _absent(why: str) -> Answer:
    return {"not_there": why}


def _told(answer: Answer) -> Answer:
    if "not_there" in answer:
        return answer
    requests = answer["requests"]
    return {
        **answer,
        "qps": requests / (answer["end_s"] - answer["begin_s"]),
        "cpu_us": 1e6 * answer["cpu_s"] / requests if requests else float("nan"),
    }


def report(rows: Sequence[Row], engine: str) -> Report:
    """The costs, and ours in terms of each peer's that has a bar."""
    ours = figure(of(rows, contender=engine), "cpu_us")
    scored = [
        combined(f"closed_{other}", ours, figure(of(rows, contender=other), "cpu_us"))
        for other in ("aiohttp", "locust", "wrk", "hey")
    ]
    return Report(HEAD, _lines(rows), scored)


def report_https(rows: Sequence[Row], engine: str) -> Report:
    """The costs over HTTPS."""
    ours, theirs = (figure(of(rows, contender=name), "cpu_us") for name in (engine, "aiohttp"))
    return Report(HEAD, _lines(rows), [combined("https", ours, theirs)])


def _lines(rows: Sequence[Row]) -> list[list[str]]:
    lines = []
    for name in contenders(rows):
        own = of(rows, contender=name)
        cost = figure(own, "cpu_us")
        lines.append([name, str(figure(own, "qps")), str(cost), runs_text(cost)])
    return lines
