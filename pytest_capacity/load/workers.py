"""Load workers as this process sees them: started once, kept for the whole run, gone with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import site
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

import pytest_capacity.protocols
from pytest_capacity.load.frames import Frame, Unpacker, pack
from pytest_capacity.protocols import Floats, Ints

START_S = 20.0
"""Starting takes a quarter of a second; a machine that is busy with other things may stretch it."""

END_S = 2.0

READ_BYTES = 262_144

_FOREIGN_HOOKS = ("COV_CORE_", "COVERAGE_PROCESS_")
"""Variables by which coverage.py starts itself in every process: not in one that must be on time."""


class WorkerLost(Exception):
    """A worker did not start, or ended by itself; the message says how."""


class WorkerProcess:
    """One worker and the socket to it. ``send`` may be called from any thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, "-m", "pytest_capacity.load.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=worker_environment(),
                # With -m the working folder is searched first: a json.py there must not replace Python's.
                cwd="/",
            )
        self.owner = os.getpid()
        self._socket = ours
        self._sending = threading.Lock()
        self._unpacker = Unpacker()
        self.started = False

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def send(
        self, document: Mapping[str, Any], *data: bytes | memoryview, descriptor: int | None = None
    ) -> None:
        """Send a frame, with a file descriptor where one is given. Raises WorkerLost where nobody reads."""
        buffers = pack(document, *data)
        with self._sending:
            try:
                if descriptor is not None:
                    socket.send_fds(self._socket, [buffers.pop(0)], [descriptor])
                for buffer in buffers:
                    self._socket.sendall(buffer)
            except OSError as error:
                raise WorkerLost(self.obituary()) from error

    def listen(self, take: Callable[[Frame], bool]) -> None:
        """Give every frame to ``take`` until that returns False. Raises WorkerLost at the worker's end."""
        buffer = memoryview(bytearray(READ_BYTES))
        while True:
            try:
                count = self._socket.recv_into(buffer)
            except OSError as error:
                raise WorkerLost(self.obituary()) from error
            if not count:
                raise WorkerLost(self.obituary())
            going_on = True
            for frame in self._unpacker.feed(buffer[:count]):
                going_on = take(frame) and going_on
            if not going_on:
                return

    def obituary(self) -> str:
        """How the worker ended, with the last line that it said."""
        try:
            status = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "a load worker does not listen any more"
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"a load worker was lost ({how}{': ' + lines[-1][:200] if lines else ''})"

    def end(self) -> None:
        """Have it end, by force if need be."""
        # A listener that waits for it would keep the socket open.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


def worker_environment() -> dict[str, str]:
    """This process's environment without coverage's hooks; with this package where it is not installed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_HOOKS)}
    root = str(Path(pytest_capacity.protocols.__file__).parent.parent)
    if root not in {*site.getsitepackages(), site.getusersitepackages()}:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return environment


_idle: list[WorkerProcess] = []
_lock = threading.Lock()


def borrow(count: int) -> list[WorkerProcess]:
    """So many workers, idle ones first; give each back or end it. Raises OSError where none can start."""
    found: list[WorkerProcess] = []
    with _lock:
        while _idle and len(found) < count:
            worker = _idle.pop()
            # After a fork these are the parent's; their sockets are only copies here.
            if worker.owner == os.getpid():
                found.append(worker)
    try:
        while len(found) < count:
            found.append(WorkerProcess())
    except BaseException:
        for worker in found:
            worker.end()
        raise
    return found


def give_back(worker: WorkerProcess) -> None:
    """Keep a worker whose session was closed for the next one."""
    with _lock:
        _idle.append(worker)


@atexit.register
def end_idle() -> None:
    """End the workers that nobody uses; they would end with this process all the same."""
    with _lock:
        workers = [worker for worker in _idle if worker.owner == os.getpid()]
        _idle.clear()
    for worker in workers:
        worker.end()


@contextlib.contextmanager
def shared_columns(columns: Sequence[Floats | Ints]) -> Any:
    """A file in memory that holds columns behind each other, as a descriptor to hand over; closed afterwards.

    Their numbers, floating or whole, take eight bytes each.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("capacity-schedule")
    else:
        # Deleted as soon as it is made: the descriptor is all that is left of it.
        descriptor, path = tempfile.mkstemp(prefix="capacity-schedule")
        Path(path).unlink()
    with os.fdopen(descriptor, "wb") as file:
        for column in columns:
            kind = np.float64 if column.dtype.kind == "f" else np.int64
            file.write(np.ascontiguousarray(column, dtype=kind).data)
        file.flush()
        yield file.fileno()
