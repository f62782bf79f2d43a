"""Jobs that go through the product's own measuring loop: memory, a change of rate, a judged measurement."""

from __future__ import annotations

import json
import os
import time

from benchmarks.loadgen.engines import make_engine
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.processes import tree_memory_bytes
from benchmarks.loadgen.scripted import Scripted
from benchmarks.loadgen.stalling import stall_once
from pytest_capacity.load.guard import Ceilings
from pytest_capacity.measurement import Conditions, LoadRun, Requirement, SustainRun
from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.slo import slo_from_arguments
from pytest_capacity.targets.http import HttpTarget

BODY = b'{"features": [' + b"0.125, " * 25 + b"0.5" + b" " * 6 + b"]}"
"""Two hundred bytes of JSON."""
TIMEOUT_S = 5.0
CEILINGS = Ceilings(max_qps=1e6, max_requests=10**9, max_s=3600)
SETTLE_REQUESTS = 50_000
"""Connections, buffers and first tables are there after so many; what follows is what requests cost."""
MEMORY_EVERY_S = 1.0


def target_of(job: Job) -> HttpTarget:
    """What every job sends: a POST of 200 bytes, a reply of 200 bytes."""
    return HttpTarget(
        f"{job.base_url}{TAG}",
        body=BODY,
        headers={"Content-Type": "application/json"},
        timeout_s=TIMEOUT_S,
        check=stall_once if job.stall else None,
    )


def _conditions(job: Job) -> Conditions:
    return Conditions(
        engine=make_engine(job.engine, job.workers),
        seed=job.seed,
        ceilings=CEILINGS,
        arrivals="poisson" if job.poisson else "constant",
        max_in_flight=job.max_in_flight,
    )


def memory(job: Job) -> Answer:
    """Record requests in a closed loop until there are enough, and see what the memory grew by."""
    meter = _MemoryMeter(job.most_requests)
    controller = Scripted(
        [Probe(0, "closed", concurrency=job.concurrency, max_s=job.seconds)], enough=meter.enough
    )
    begin_s = time.monotonic()
    run = LoadRun(target_of(job), _conditions(job), largest_limit_ms=None, qps=0.0)
    with run:
        run.play(controller)
        meter.read(len(run.table))
    return {
        "begin_s": begin_s,
        "end_s": time.monotonic(),
        "requests": meter.requests,
        "base_requests": meter.base_requests,
        "base_bytes": meter.base_bytes,
        "end_bytes": meter.end_bytes,
        "peak_bytes": meter.peak_bytes,
    }


class _MemoryMeter:
    """Reads the memory of the tree of processes now and then while requests are counted."""

    def __init__(self, most_requests: int) -> None:
        self._most = most_requests
        self._read_s = 0.0
        self.requests = self.base_requests = self.base_bytes = self.end_bytes = self.peak_bytes = 0

    def enough(self, observation: Observation) -> bool:
        """Whether all requests are there."""
        if time.monotonic() - self._read_s >= MEMORY_EVERY_S or not self.base_bytes:
            self.read(observation.sent)
        return observation.sent >= self._most

    def read(self, requests: int) -> None:
        """Read the memory now, after so many requests."""
        self._read_s = time.monotonic()
        self.requests, self.end_bytes = requests, tree_memory_bytes(os.getpid())
        self.peak_bytes = max(self.peak_bytes, self.end_bytes)
        if not self.base_bytes and requests >= min(SETTLE_REQUESTS, self._most // 4):
            self.base_requests, self.base_bytes = requests, self.end_bytes


def switch(job: Job) -> Answer:
    """Change between two rates over and over; the server's records say when each change was there."""
    rates = [job.rate_qps, job.second_rate_qps] * max(1, round(job.seconds / 4))
    # A probe ends a second before its schedule does, so that no change meets an empty plan.
    probes = [Probe(number, "open", rate_qps=rate, max_s=3.0) for number, rate in enumerate(rates)]
    controller = Scripted(probes)
    begin_s = time.monotonic()
    with LoadRun(target_of(job), _conditions(job), largest_limit_ms=None, qps=max(rates)) as run:
        run.play(controller)
    # Decision i leads to probe i + 1; those at odd places are steps up. The last one ends the load.
    decided_s = [at_s for number, at_s in enumerate(controller.decided_s[:-1]) if number % 2 == 0]
    return {"begin_s": begin_s, "end_s": time.monotonic(), "decided_s": decided_s}


def sustain(job: Job) -> Answer:
    """Judge the null server as a user would, and tell what was doubted."""
    slo = slo_from_arguments({"p99_ms": job.p99_ms})
    requirement = Requirement(slo, job.rate_qps, budget_s=job.seconds + 4, min_s=job.seconds)
    run = SustainRun(target_of(job), requirement, _conditions(job))
    begin_s = time.monotonic()
    print(json.dumps({"load_began_s": begin_s}), flush=True)
    measured = run.run()
    health = measured.health
    return {
        "begin_s": begin_s,
        "end_s": time.monotonic(),
        "verdict": None if measured.verdict is None else measured.verdict.name,
        "doubts": [doubt.kind for doubt in measured.doubts],
        "message": measured.message or measured.stop_reason,
        "requests": len(measured.samples),
        "late_p99_us": 1e6 * health.late_p99_s,
        "late_max_us": 1e6 * health.late_max_s,
        "loop_stall_ms": 1e3 * health.loop_stall_s,
    }
