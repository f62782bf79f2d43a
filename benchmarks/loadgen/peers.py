"""Other load generators, where they are installed: how each is told to send, and what a request costs it.

None is needed. Requests are counted by the server, CPU by the system when the process has ended (wait4), so
that no peer's own word is taken; locust alone, whose start costs more than a run, counts for itself
(locust_user.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loadgen.measuring import BODY
from benchmarks.loadgen.processes import child, on_cores
from benchmarks.loadgen.servers import Server

LOCUST = "locust==2.47.0"
LOCUST_USER = Path(__file__).parent / "locust_user.py"
WAIT_S = 60.0


class PeerFailed(Exception):
    """A peer is installed but ended badly; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a peer is to do; the folder is for its files. ``rate_qps`` of 0 asks for a closed loop."""

    url: str
    seconds: float
    connections: int
    folder: Path
    rate_qps: float = 0.0
    threads: int = 1
    """Of wrk only; it shares the connections among them."""

    @property
    def body(self) -> Path:
        path = self.folder / "body.json"
        path.write_bytes(BODY)
        return path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a peer did between two moments of CLOCK_MONOTONIC."""

    begin_s: float
    end_s: float
    requests: int
    cpu_s: float


def _wrk(order: Order) -> list[str]:
    script = order.folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [[{BODY.decode()}]]\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    load = [f"-t{order.threads}", f"-c{order.connections}", f"-d{_whole(order.seconds)}s"]
    return [*load, "-s", str(script), *([f"-R{order.rate_qps:g}"] if order.rate_qps else []), order.url]


def _hey(order: Order) -> list[str]:
    each = order.rate_qps / order.connections
    return ["-z", f"{order.seconds:g}s", "-c", str(order.connections), "-cpus", "1", "-m", "POST",
            "-T", "application/json", "-D", str(order.body), *(["-q", f"{each:g}"] if each else []),
            order.url]  # fmt: skip


def _vegeta(order: Order) -> list[str]:
    targets = order.folder / "targets"
    targets.write_text(f"POST {order.url}\nContent-Type: application/json\n@{order.body}\n")
    workers = ["-max-workers", str(order.connections), "-workers", str(order.connections)]
    return ["attack", "-targets", str(targets), "-duration", f"{order.seconds:g}s",
            "-rate", f"{order.rate_qps:g}", *workers, "-output", os.devnull]  # fmt: skip


def _autocannon(order: Order) -> list[str]:
    return ["-c", str(order.connections), "-d", str(_whole(order.seconds)), "-m", "POST", "-H",
            "Content-Type=application/json", "-i", str(order.body), "--no-progress", order.url]  # fmt: skip


def _whole(seconds: float) -> int:
    return max(1, round(seconds))


CLOSED: Mapping[str, Callable[[Order], list[str]]] = {
    "wrk": _wrk,
    "hey": _hey,
    "vegeta": _vegeta,
    "autocannon": _autocannon,
}
OPEN: Mapping[str, Callable[[Order], list[str]]] = {"wrk2": _wrk, "hey": _hey, "vegeta": _vegeta}
"""Those that can be told a rate; their sends are judged at the server."""

LOCUST_NAME = "locust"
NAMES = (*CLOSED, "wrk2", LOCUST_NAME)


def missing(name: str, folder: Path) -> str | None:
    """Why this peer cannot be measured here, in words; None where it can."""
    if name == LOCUST_NAME:
        return (
            None if locust_python(folder) else "not installed (--install-locust makes an environment for it)"
        )
    return None if shutil.which(name) else "not installed"


def locust_python(folder: Path) -> Path | None:
    """The Python of the environment that ``install_locust`` made."""
    python = folder.resolve() / "locust" / "bin" / "python"
    return python if python.exists() else None


def install_locust(folder: Path) -> None:
    """Make an environment for locust in ``folder``; the project's own stays as it is.

    Raises PeerFailed where pip does.
    """
    if locust_python(folder) is not None:
        return
    place = folder.resolve() / "locust"
    with tempfile.TemporaryDirectory(dir=_made(folder)) as temporary:
        made = Path(temporary) / "locust"
        for command in (
            [sys.executable, "-m", "venv", str(made)],
            [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--quiet", LOCUST],
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise PeerFailed(f"locust could not be installed: {done.stderr.strip()[-500:]}")
        made.replace(place)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_closed(name: str, order: Order, server: Server, cores: Sequence[int], folder: Path) -> Cost:
    """Let a peer send as fast as it can. Raises PeerFailed; ends the server, whose count it needs."""
    if name == LOCUST_NAME:
        return _run_locust(order, cores, folder)
    begin_s = time.monotonic()
    cpu_s = _run([name, *CLOSED[name](order)], cores, order.seconds)
    end_s = time.monotonic()
    server.finish()
    return Cost(begin_s, end_s, int(server.counts["replies"]), cpu_s)


def run_open(name: str, order: Order, cores: Sequence[int] | None) -> tuple[float, float]:
    """Let a peer send at its rate; returns when it began and ended. Raises PeerFailed."""
    begin_s = time.monotonic()
    _run([name, *OPEN[name](order)], cores, order.seconds)
    return begin_s, time.monotonic()


def _run(command: Sequence[str], cores: Sequence[int] | None, seconds: float) -> float:
    """CPU seconds that a command and its children took, after it has ended."""
    with tempfile.TemporaryFile("w+") as said, child(command, cores=cores, stdout=said.fileno()) as started:
        process = started.process
        until_s = time.monotonic() + seconds + WAIT_S
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until_s:
                raise PeerFailed(f"{command[0]} did not end")
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            text = (started.complaints() + said.read()).strip()
            raise PeerFailed(f"{command[0]} ended with {process.returncode}: {text[-500:]}")
        return float(usage.ru_utime + usage.ru_stime)


def _run_locust(order: Order, cores: Sequence[int], folder: Path) -> Cost:
    python = locust_python(folder)
    assert python is not None
    command = [str(python), str(LOCUST_USER), order.url, str(order.connections), str(order.seconds),
               str(order.body)]  # fmt: skip
    done = subprocess.run(
        on_cores(command, cores), check=False, capture_output=True, text=True, timeout=order.seconds + WAIT_S
    )
    if done.returncode:
        raise PeerFailed(f"locust ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return Cost(answer["begin_s"], answer["end_s"], answer["requests"], answer["cpu_s"])
