"""Who else used the processors during a measurement: it explains a late generator, and decides nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_capacity.load.machine import ProcessorTimes, process_cpu_s, read_processors
from pytest_capacity.protocols import Endpoint, Health

LISTENING = "0A"
LEAST_S = 1.0
"""Processor times count in hundredths of a second: shares of a shorter time are noise."""


class Bystanders:
    """Compares processor times since an era began; the server's own and the generator's are left out."""

    def __init__(self, endpoint: Endpoint, generator: Iterable[int]) -> None:
        self._generator = {os.getpid(), *generator}
        self._endpoint = endpoint
        self._server: set[int] | None = None
        self._began: ProcessorTimes | None = None
        self._ours_s = 0.0

    def begin(self) -> None:
        """Begin an era."""
        if self._server is None:
            # Once: looking through every process's files takes some milliseconds.
            self._server = listeners(self._endpoint)
        self._began = read_processors()
        self._ours_s = self._cpu_s()

    def explain(self, health: Health) -> Health:
        """The health with the shares that others took since the era began."""
        now = read_processors() if self._began is not None else None
        if self._began is None or now is None or now.at_s - self._began.at_s < LEAST_S:
            return health
        past_s = now.at_s - self._began.at_s
        foreign = now.busy_cores_since(self._began) - (self._cpu_s() - self._ours_s) / past_s
        return replace(
            health,
            steal_share=now.steal_share_since(self._began),
            foreign_share=max(0.0, foreign) / now.cores,
            throttled_s=max(0.0, now.throttled_s - self._began.throttled_s),
        )

    def _cpu_s(self) -> float:
        return sum(process_cpu_s(pid) for pid in self._generator | (self._server or set()))


def listeners(endpoint: Endpoint) -> set[int]:
    """This machine's processes that hold the endpoint's listening socket; none for another machine's."""
    inodes = _listening_inodes(endpoint)
    return _holders(inodes) if inodes else set()


def _listening_inodes(endpoint: Endpoint) -> set[str]:
    if endpoint.unix_path is not None:
        return set()
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == LISTENING and port == endpoint.port:
                inodes.add(f"socket:[{fields[9]}]")
    return inodes if _is_here(endpoint) else set()


def _is_here(endpoint: Endpoint) -> bool:
    return any(address.startswith("127.") or address == "::1" for address in endpoint.addresses) or (
        endpoint.host in {"localhost", socket.gethostname()}
    )


def _holders(inodes: set[str]) -> set[int]:
    holders = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(str(file.readlink()) in inodes for file in (entry / "fd").iterdir()):
                holders.add(int(entry.name))
        except OSError:
            # It ended meanwhile, or belongs to somebody else.
            continue
    return holders
