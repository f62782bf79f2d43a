"""Where runs happen: one at a time, watched, side by side in rounds, repeated where they were disturbed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.loadgen.files import Row
from benchmarks.loadgen.jobs import Answer, Job
from benchmarks.loadgen.measuring import BODY
from benchmarks.loadgen.processes import Child, child
from benchmarks.loadgen.servers import Server, c_server
from benchmarks.loadgen.witness import Watching, judge_run, watching

ATTEMPTS = 3
"""A run that was disturbed twice more is kept as it is: some machines are never quiet."""
QUIET_S = 1.0
"""Between a disturbed run and the next try."""
ANSWER_S = 30.0
"""What a client may take besides its load: to start, to connect, to sort its columns."""
LOAD_FACTOR = 5
"""A verdict may take its budget twice, and changes of rate half as long again as was asked for."""

OPEN_ROW = np.dtype([("intended_ns", "i8"), ("sent_ns", "i8"), ("done_ns", "i8")])


class RunFailed(Exception):
    """A client ended without an answer; the message holds what it said."""


@dataclass
class Lab:
    """What every part is given, and the witness's word on each run so far.

    ``scratch`` is for files of one run. Servers have a core of their own, clients the others.
    """

    programs: Mapping[str, Path]
    scratch: Path
    home: Path
    engines: Sequence[str]
    repeats: int = 5
    seconds: float = 5.0
    clean_runs: int = 50
    memory_requests: int = 10_000_000
    spin_server: bool = False
    server_core: int = 0
    client_cores: Sequence[int] = (0,)
    noise: list[Row] = field(default_factory=list)
    _witness: Watching | None = None

    @property
    def one_core(self) -> list[int]:
        """The core of a client that may have one only."""
        return [self.client_cores[-1]]

    @contextmanager
    def server(
        self, *, delay_us: float = 0, burn_us: float = 0, core: int | None = None, record_max: int = 0
    ) -> Iterator[Server]:
        """A C server on its core, which records so many requests."""
        with c_server(
            self.programs["server"],
            core=self.server_core if core is None else core,
            delay_us=delay_us,
            burn_us=burn_us,
            spin=self.spin_server and not burn_us,
            record=self.scratch / "records" if record_max else None,
            record_max=record_max,
        ) as server:
            yield server

    def run_engine(
        self,
        job: Job,
        cores: Sequence[int] | None = None,
        *,
        during: Callable[[int], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Answer:
        """Have an engine do a job in a process of its own, on some cores (the clients').

        ``during`` is called with the process's number when load begins. Raises RunFailed.
        """
        command = [sys.executable, "-m", "benchmarks.loadgen.client"]
        chosen = self.client_cores if cores is None else cores
        limit_s = LOAD_FACTOR * (job.seconds + job.warm_s) + ANSWER_S
        with child(command, cores=chosen, environment=environment) as client, _at_most(limit_s, client):
            client.say(job.to_json())
            while line := client.hear():
                answer: Answer = json.loads(line)
                if "load_began_s" not in answer:
                    break
                if during is not None:
                    during(client.process.pid)
            else:
                said = client.complaints()[-2000:] or f"no answer within {limit_s:.0f} s"
                raise RunFailed(f"{job.engine}, {job.kind}: {said}")
            if self._witness is not None:
                # The engine's own processes end with the client, and would be others' work from then on.
                self._witness.look()
        if answer.get("halted"):
            raise RunFailed(f"{job.engine}, {job.kind}: the engine stopped: {answer['halted']}")
        return answer

    def run_c_client(
        self,
        port: int,
        offsets_s: np.typing.NDArray[np.float64],
        *,
        tag: int,
        cores: Sequence[int],
        lead_us: float = 100,
        connections: int = 64,
    ) -> tuple[Answer, np.typing.NDArray[np.void]]:
        """The C client's counts and rows for a schedule. Raises RunFailed."""
        schedule, request, out = (self.scratch / name for name in ("schedule", "request", "rows"))
        schedule.write_bytes(offsets_s.astype("<f8").tobytes())
        head = f"POST /predict/{tag} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        request.write_bytes(head.encode() + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        command = [str(self.programs["openclient"]), "--port", str(port), "--schedule", str(schedule),
                   "--request", str(request), "--out", str(out), "--lead-us", str(lead_us),
                   "--connections", str(connections)]  # fmt: skip
        with child(command, cores=cores) as client:
            line = client.hear()
            if not line:
                raise RunFailed(f"the C client: {client.complaints()}")
        rows = np.fromfile(out, dtype=OPEN_ROW)
        answer: Answer = json.loads(line)
        answer["begin_s"] = float(rows["intended_ns"][0]) / 1e9
        answer["end_s"] = float(rows["intended_ns"][-1]) / 1e9
        return answer, rows

    def watched(self, contender: str, run: Callable[[], Answer]) -> Row:
        """Run once more where others disturbed it, at most ``ATTEMPTS`` times; the row says how it was."""
        for attempt in range(1, ATTEMPTS + 1):
            with watching() as witness:
                self._witness = witness
                answer = run()
            if "not_there" in answer:
                return {"contender": contender, "not_there": answer["not_there"]}
            said = judge_run(witness.stop(), answer["begin_s"], answer["end_s"])
            seen = {
                "clean": said.clean,
                "foreign": said.foreign,
                "worst_slice": said.worst_slice,
                "steal": said.steal,
                "throttled_s": said.throttled_s,
                "reasons": list(said.reasons),
            }
            self.noise.append({"contender": contender, "attempt": attempt, **seen})
            if said.clean:
                break
            if attempt < ATTEMPTS:
                time.sleep(QUIET_S)
        return {"contender": contender, "attempts": attempt, **answer, **seen}

    def rounds(
        self, runs: Mapping[str, Callable[[], Answer]], repeats: int | None = None, **common: object
    ) -> list[Row]:
        """Every contender in turn, over and over, each second round backwards; ``common`` is in every row."""
        rows: list[Row] = []
        gone: set[str] = set()
        for number in range(self.repeats if repeats is None else repeats):
            for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
                if name in gone:
                    continue
                row = {"round": number, **common, **self.watched(name, runs[name])}
                if "not_there" in row:
                    gone.add(name)
                rows.append(row)
                print(_progress(row), file=sys.stderr)
        return rows


@contextmanager
def _at_most(seconds: float, client: Child) -> Iterator[None]:
    """Kill a client that takes longer: then it has nothing more to say."""
    timer = threading.Timer(seconds, client.process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def usable_cores() -> tuple[int, tuple[int, ...]]:
    """The server's core and the clients'; the same one where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return first, tuple(others) or (first,)


def _progress(row: Row) -> str:
    about = " ".join(f"{name} {row[name]}" for name in ("rate_qps", "workers", "disturbed") if name in row)
    said = row.get("not_there") or ("" if row["clean"] else "contaminated: " + ", ".join(row["reasons"]))
    return f"  round {row['round'] + 1} {row['contender']} {about} {said}".rstrip()
