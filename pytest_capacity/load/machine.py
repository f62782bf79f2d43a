"""What this machine's processors did meanwhile: idle time, time stolen, time held back by a quota.

Read from ``/proc`` and the control group's files; where these are missing (macOS) nothing is known.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class ProcessorTimes:
    """Sums since the machine started, in seconds, over the processors that this process may use.

    ``group_s`` is what the process's control group has used, ``throttled_s`` how long its quota held it back,
    and ``quota_cores`` that quota; None or 0 where there is none.
    """

    at_s: float
    cores: int
    idle_s: float
    busy_s: float
    steal_s: float
    group_s: float | None = None
    quota_cores: float | None = None
    throttled_s: float = 0.0

    def idle_cores_since(self, before: ProcessorTimes) -> float:
        """How many cores were free for this process on the average, its group's quota heeded."""
        past_s = max(self.at_s - before.at_s, 1e-9)
        idle = max(0.0, self.idle_s - before.idle_s) / past_s
        if self.quota_cores is None or self.group_s is None or before.group_s is None:
            return idle
        left = self.quota_cores - (self.group_s - before.group_s) / past_s
        return max(0.0, min(idle, left))

    def busy_cores_since(self, before: ProcessorTimes) -> float:
        """How many cores worked on the average, whoever they worked for."""
        return max(0.0, self.busy_s - before.busy_s) / max(self.at_s - before.at_s, 1e-9)

    def steal_share_since(self, before: ProcessorTimes) -> float:
        """The share of the cores' time that the hypervisor gave to other machines."""
        past_s = max(self.at_s - before.at_s, 1e-9)
        return max(0.0, self.steal_s - before.steal_s) / past_s / self.cores


def read_processors() -> ProcessorTimes | None:
    """The processors' times up to now; None where the system does not tell them."""
    try:
        stat = Path("/proc/stat").read_text(encoding="ascii")
        usable = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return None
    times = parse_stat(stat, usable)
    if times is None:
        return None
    idle_s, busy_s, steal_s = times
    group_s, throttled_s = _group_times()
    return ProcessorTimes(
        time.monotonic(), len(usable), idle_s, busy_s, steal_s, group_s, _quota_cores(), throttled_s
    )


def parse_stat(stat: str, usable: set[int]) -> tuple[float, float, float] | None:
    """Idle, busy and stolen seconds of the usable processors in ``/proc/stat``; None where none is there."""
    idle = busy = steal = 0
    found = False
    # What follows the processors' lines is long and of no interest here.
    for line in stat.partition("\nintr")[0].splitlines():
        name, *fields = line.split()
        if not (name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable):
            continue
        found = True
        ticks = [int(field) for field in fields[:8]] + [0] * (8 - len(fields[:8]))
        user, nice, system, waiting, io_wait, interrupt, soft_interrupt, stolen = ticks
        idle += waiting + io_wait
        busy += user + nice + system + interrupt + soft_interrupt
        steal += stolen
    return (idle / _TICKS_PER_S, busy / _TICKS_PER_S, steal / _TICKS_PER_S) if found else None


def _group_times() -> tuple[float | None, float]:
    """Seconds used by and held back from the control group (version 2)."""
    try:
        lines = Path("/sys/fs/cgroup/cpu.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, 0.0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    try:
        return int(values["usage_usec"]) / 1e6, int(values.get("throttled_usec", 0)) / 1e6
    except (KeyError, ValueError):
        return None, 0.0


def _quota_cores() -> float | None:
    """How many cores' time the control group may use; None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def process_cpu_s(pid: int) -> float:
    """The processor time that a process has used, in seconds; 0 where that is not to be had."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    except (OSError, ValueError, IndexError):
        return 0.0
