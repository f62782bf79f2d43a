"""Who else used the processors meanwhile: each run is called clean or contaminated, with the reason.

Busy time of the whole machine less that of the processes that take part is what others burnt. Busy is what is
not idle: the kernel measures idleness exactly, while user and system time are sampled at ticks.

A part of it belongs to no process: on the way to sleep and back a core is neither idle nor in a process.
Loopback traffic sends a server there some ten thousand times a second, so this is taken off, at a price for
each switch between tasks. What processes burn that can be seen is never taken off.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loadgen.processes import TICKS_A_SECOND, cpu_of, processes, tree_of

EVERY_S = 1.0
"""A reading takes two or three milliseconds of CPU: more of them would be what disturbs the run."""

MOST_FOREIGN = 0.05
"""Of one core, over the whole run. /proc counts in 10 ms a core, and a machine at rest burns 1-2 %."""
MOST_FOREIGN_SLICE = 0.15
"""Of one core, in a second: 150 ms of another's work there can set the p99 of a run of some seconds."""
SWITCH_S = 3e-6
"""Measured beside busy time and the time of all tasks (cpuacct.usage of the root group): 0.8 to 2.9 us a
switch in closed loops of two generators with 2 and 32 connections, and in open loops of 1,000 to 40,000/s."""
MOST_STEAL = 0.01
"""Of one core: what the hypervisor took away comes in pieces of milliseconds, and a p99 sees 1 %."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment, in seconds: of all cores, of the processes that take part, of the cgroup.

    ``others_s`` is the time of all other processes that can be seen, ``switches`` how often any core went
    from one task to another, idleness included.
    """

    at_s: float
    busy_s: float
    own_s: float
    steal_s: float = 0.0
    throttled_s: float = 0.0
    others_s: float = 0.0
    switches: float = 0.0


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What others took during a run, as shares of one core, and why it counts as contaminated."""

    foreign: float
    worst_slice: float
    steal: float
    throttled_s: float
    reasons: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.reasons


def judge_run(readings: Sequence[Reading], begin_s: float, end_s: float) -> Witnessed:
    """Judge the run between two moments by the readings around it.

    Raises ValueError where there are no two readings that enclose some of it.
    """
    inside = [
        number
        for number in range(len(readings) - 1)
        if readings[number].at_s < end_s and readings[number + 1].at_s > begin_s
    ]
    if not inside:
        raise ValueError("the witness was not there")
    first, last = readings[inside[0]], readings[inside[-1] + 1]
    foreign, steal = _foreign(first, last), _steal(first, last)
    # In a shorter slice, as the last one may be, the 10 ms that /proc counts in would look like much.
    slices = [(readings[number], readings[number + 1]) for number in inside]
    long = [_foreign(one, next_one) for one, next_one in slices if next_one.at_s - one.at_s >= EVERY_S / 2]
    worst = max(long, default=foreign)
    throttled_s = last.throttled_s - first.throttled_s
    checks = (
        (foreign > MOST_FOREIGN, f"others took {foreign:.1%} of a core"),
        (worst > MOST_FOREIGN_SLICE, f"others took {worst:.0%} of a core for {EVERY_S:g} s"),
        (steal > MOST_STEAL, f"{steal:.1%} of a core was stolen"),
        (throttled_s > 0, f"throttled by the cgroup for {1000 * throttled_s:.0f} ms"),
    )
    return Witnessed(foreign, worst, steal, throttled_s, tuple(text for holds, text in checks if holds))


def _foreign(first: Reading, last: Reading) -> float:
    """Below zero where rounding says that nobody but us was busy.

    What no process has that can be seen is the machine's own work at our traffic up to ``SWITCH_S`` for each
    switch; beyond that it is that of processes in other containers, or of such as have ended.
    """
    not_ours_s = (last.busy_s - first.busy_s) - (last.own_s - first.own_s)
    # Who ended, and was waited for by nobody, takes along what was burnt before: then the sum falls.
    others_s = max(0.0, last.others_s - first.others_s)
    nobodys_s = not_ours_s - others_s
    switching_s = min(max(nobodys_s, 0.0), SWITCH_S * (last.switches - first.switches))
    return (not_ours_s - switching_s) / (last.at_s - first.at_s)


def _steal(first: Reading, last: Reading) -> float:
    return (last.steal_s - first.steal_s) / (last.at_s - first.at_s)


def parse_stat(text: str, at_s: float) -> tuple[float, float]:
    """Seconds of busy and of stolen time of all cores since some fixed moment, from /proc/stat.

    ``at_s`` times the number of cores stands for all the time there was: only differences mean something.
    Where the kernel counts interrupts by themselves (the irq column moves), they belong to no process and
    are left out: on loopback they are the participants' own packets.
    """
    lines = text.splitlines()
    cores = sum(line.startswith("cpu") and line[3].isdigit() for line in lines)
    ticks = [int(word) for word in lines[0].split()[1:]]
    idle, waiting, interrupt, soft_interrupt = ticks[3:7]
    steal = ticks[7] if len(ticks) > 7 else 0
    spent = idle + waiting + steal
    if interrupt:
        spent += interrupt + soft_interrupt
    return cores * at_s - spent / TICKS_A_SECOND, steal / TICKS_A_SECOND


def parse_switches(text: str) -> float:
    """How often the cores went from one task to another since the machine started, from /proc/stat."""
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith("ctxt ")), 0.0)


THROTTLED = (
    ("/sys/fs/cgroup/cpu.stat", "throttled_usec", 1e-6),
    ("/sys/fs/cgroup/cpu/cpu.stat", "throttled_time", 1e-9),
)


def throttled_s() -> float:
    """Seconds that this cgroup was kept from the processors so far; 0 where nothing is counted."""
    for path, name, unit_s in THROTTLED:
        with contextlib.suppress(OSError):
            for line in Path(path).read_text(encoding="ascii").splitlines():
                if line.startswith(name + " "):
                    return unit_s * int(line.split()[1])
    return 0.0


def read_now(root: int) -> Reading:
    """The counters now; ``root`` and its descendants are those that take part."""
    text = Path("/proc/stat").read_text(encoding="ascii")
    at_s = time.monotonic()
    everyone = processes()
    busy_s, steal_s = parse_stat(text, at_s)
    own = tree_of(root, everyone)
    return Reading(
        at_s,
        busy_s,
        cpu_of(own, everyone),
        steal_s,
        throttled_s(),
        cpu_of(everyone.keys() - own, everyone),
        parse_switches(text),
    )


def burners(seconds: float, most: int = 5) -> list[tuple[str, float]]:
    """Who else is busy now, by name, with their shares of one core: to say what disturbs a machine."""
    before = processes()
    time.sleep(seconds)
    after = processes()
    own = tree_of(os.getpid(), after)
    shares = [
        (one.name, (one.cpu_s - before[pid].cpu_s) / seconds)
        for pid, one in after.items()
        if pid in before and pid not in own
    ]
    return sorted((share for share in shares if share[1] > 0.005), key=lambda share: -share[1])[:most]


class Watching:
    """A thread that reads every second, beginning at once."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._readings: list[Reading] = []
        self._reading = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="witness", daemon=True)
        self._thread.start()

    def stop(self) -> list[Reading]:
        """All readings, with a last one of now."""
        self._stopped.set()
        self._thread.join()
        return self._readings

    def look(self) -> None:
        """Read once more now: while all who took part are alive, for what the dead burnt nobody can tell."""
        with self._reading:
            self._readings.append(read_now(self._root))

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        self.look()
        while not self._stopped.wait(EVERY_S):
            self.look()
        self.look()


@contextlib.contextmanager
def watching(root: int | None = None) -> Iterator[Watching]:
    """Watch while the block runs; this process and its descendants take part."""
    witness = Watching(os.getpid() if root is None else root)
    try:
        yield witness
    finally:
        witness.stop()
