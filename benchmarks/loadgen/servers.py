"""The servers under load, each in a process of its own and on 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.loadgen.processes import Child, child, cpu_clock_s

RECORD = np.dtype([("arrival_ns", "i8"), ("reply_ns", "i8"), ("tag", "i4"), ("connection", "i4")])
END_S = 30.0
"""Writing some hundred megabytes of records may take a while on a slow disk."""


class ServerFailed(Exception):
    """A server did not start or ended badly; the message holds what it said."""


@dataclass
class Server:
    """A server that runs; what it counted and recorded is there after ``finish``."""

    child: Child
    port: int
    record_path: Path | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    records: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=RECORD))

    def url(self, tag: int = 0, scheme: str = "http") -> str:
        """An address whose requests the server records under this tag."""
        return f"{scheme}://127.0.0.1:{self.port}/predict/{tag}"

    def cpu_s(self) -> float:
        """CPU seconds that it took so far."""
        return cpu_clock_s(self.child.process.pid) or 0.0

    def finish(self) -> None:
        """End it by the end of its standard input and read what it tells; twice is once.

        Raises ServerFailed where it ended badly, or recorded only a part.
        """
        if self.counts:
            return
        try:
            said, _ = self.child.process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            raise ServerFailed("the server did not end") from None
        if code := self.child.process.returncode:
            raise ServerFailed(f"the server ended with {code}: {self.child.complaints()}")
        self.counts = json.loads(said.strip() or "{}")
        if self.record_path is not None:
            self.records = np.fromfile(self.record_path, dtype=RECORD)
            self.record_path.unlink()
            if self.counts.get("unrecorded"):
                raise ServerFailed(f"{self.counts['unrecorded']} requests went unrecorded: raise record_max")

    def arrivals_s(self, tag: int) -> npt.NDArray[np.float64]:
        """When the requests of a tag came in, in seconds of CLOCK_MONOTONIC, ascending."""
        times: npt.NDArray[np.float64] = np.sort(self.records["arrival_ns"][self.records["tag"] == tag]) / 1e9
        return times

    def service_s(self, tag: int) -> npt.NDArray[np.float64]:
        """How long the server itself took for each request of a tag that it answered."""
        rows = self.records[(self.records["tag"] == tag) & (self.records["reply_ns"] > 0)]
        times: npt.NDArray[np.float64] = (rows["reply_ns"] - rows["arrival_ns"]) / 1e9
        return times


@contextlib.contextmanager
def c_server(
    program: Path,
    *,
    core: int | None = None,
    delay_us: float = 0,
    burn_us: float = 0,
    spin: bool = False,
    record: Path | None = None,
    record_max: int = 0,
) -> Iterator[Server]:
    """The C server; with ``record`` it keeps the times of up to ``record_max`` requests for ``finish``.

    ``spin`` makes it poll all the time, so that an arrival is stamped without the delay of a wake-up: it
    takes a core, and needs one that nobody else uses. Raises ServerFailed.
    """
    command = [str(program), "--delay-us", str(delay_us), "--burn-us", str(burn_us)]
    command += ["--cpu", str(core)] if core is not None else []
    command += ["--spin"] if spin else []
    command += ["--record", str(record), "--record-max", str(record_max)] if record else []
    with _started(command, record) as server:
        yield server


@contextlib.contextmanager
def tls_server(folder: Path, *, core: int | None = None) -> Iterator[tuple[Server, Path]]:
    """A null server for HTTPS on Python, and the certificate that vouches for it. Raises ServerFailed."""
    certificate, key = make_certificate(folder)
    command = [sys.executable, "-m", "benchmarks.loadgen.tlsserver", str(certificate), str(key)]
    with _started(command, None, cores=None if core is None else [core]) as server:
        yield server, certificate


@contextlib.contextmanager
def _started(
    command: Sequence[str], record: Path | None, cores: Sequence[int] | None = None
) -> Iterator[Server]:
    with child(command, cores=cores) as started:
        word, _, port = started.hear().partition(" ")
        if word != "port":
            raise ServerFailed(f"{Path(command[0]).name} did not start: {started.complaints()}")
        yield Server(started, int(port), record)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 signed by itself, made by openssl, and its key.

    Raises ServerFailed where that is not to be had.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
               "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
               "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise ServerFailed("no openssl to make a certificate with: install openssl") from None
    if done.returncode:
        raise ServerFailed(f"openssl made no certificate: {done.stderr.strip()}")
    return certificate, key
