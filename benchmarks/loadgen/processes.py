"""What processes burn, read from /proc, and children that never outlive this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc: ``cpu_s`` is its own time, ``reaped_s`` that of the children it has waited for."""

    pid: int
    parent: int
    name: str
    cpu_s: float
    reaped_s: float


def read_process(pid: int) -> Process | None:
    """One process as it is now; None where it has gone.

    The CPU clock of a process counts in nanoseconds, its line in /proc in ticks of 10 ms.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # A name may hold spaces and brackets: the last bracket ends it.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    user, system, reaped_user, reaped_system = (int(field) for field in fields[11:15])
    return Process(
        pid=pid,
        parent=int(fields[1]),
        name=head.partition("(")[2],
        cpu_s=cpu_clock_s(pid) or (user + system) / TICKS_A_SECOND,
        reaped_s=(reaped_user + reaped_system) / TICKS_A_SECOND,
    )


def cpu_clock_s(pid: int) -> float | None:
    """The CPU time of a process and all its threads so far, exactly; None where it has gone.

    The number of its clock is made as clock_getcpuclockid(3) makes it.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def processes() -> dict[int, Process]:
    """Every process on the machine that we can see."""
    names = (entry for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208 - ten times as fast
    return {one.pid: one for name in names if (one := read_process(int(name))) is not None}


def tree_of(root: int, everyone: Mapping[int, Process]) -> set[int]:
    """The process ``root`` and all that descend from it."""
    found = {root}
    # Parents have smaller numbers than their children but for the wrap-around: hence the loop.
    while more := {one.pid for one in everyone.values() if one.parent in found and one.pid not in found}:
        found |= more
    return found


def cpu_of(pids: Iterable[int], everyone: Mapping[int, Process]) -> float:
    """CPU seconds that these processes and the children they have waited for took so far."""
    return sum(everyone[pid].cpu_s + everyone[pid].reaped_s for pid in pids if pid in everyone)


def tree_cpu_s(root: int) -> float:
    """CPU seconds of a process and all that descend from it, so far."""
    everyone = processes()
    return cpu_of(tree_of(root, everyone), everyone)


def tree_memory_bytes(root: int) -> int:
    """Memory of a process and its descendants, shared pages divided among those that share them (PSS)."""
    total = 0
    for pid in tree_of(root, processes()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


@dataclass(frozen=True, slots=True)
class Child:
    """A child with pipes for standard input and output; what it complains of is kept in a file."""

    process: subprocess.Popen[str]
    errors: IO[str]

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line of its standard output; empty where it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def complaints(self) -> str:
        """What it wrote to standard error so far."""
        self.errors.seek(0)
        return self.errors.read().strip()


@contextlib.contextmanager
def child(
    command: Sequence[str],
    *,
    cores: Iterable[int] | None = None,
    environment: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
) -> Iterator[Child]:
    """A child in a session of its own, ended with all that it started when the block ends."""
    process = None
    with tempfile.TemporaryFile("w+") as errors:
        try:
            with _interruptions_wait():
                process = subprocess.Popen(
                    on_cores(command, cores),
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
            yield Child(process, errors)
        finally:
            if process is not None:
                end(process)


@contextlib.contextmanager
def _interruptions_wait() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back for a moment: in the midst of starting, a child would have no name yet.

    Only the main thread is interrupted by either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _frame: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    for arrived in came:
        signal.raise_signal(arrived)


def on_cores(command: Sequence[str], cores: Iterable[int] | None) -> list[str]:
    """The command, bound to some cores."""
    return [*(["taskset", "-c", ",".join(map(str, cores))] if cores is not None else []), *command]


def end(process: subprocess.Popen[str]) -> None:
    """End a child of ``child`` and its whole session, kindly first; what is stopped goes on to end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            os.killpg(process.pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
            break
    # What it started and left behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
