"""Where the model is: a server started for the tests, in its own environment, and the traffic it gets."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_capacity import HttpTarget

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 5.0
USERS = 5_000
ITEMS = 20_000


def query(rng: np.random.Generator) -> dict[str, object]:
    """Draw one query as production would send it.

    Candidate lists vary in length, because scoring costs by the candidate: equal lists would hide the
    queueing that long ones cause. A few users and items are asked for far more often than the rest.
    """
    length = int(np.clip(rng.lognormal(np.log(30), 0.6), 10, 100))
    # The square of a uniform number favours the small numbers without any being out of reach.
    return {
        "user": f"u{int(USERS * rng.random() ** 2)}",
        "items": [int(item) for item in ITEMS * rng.random(length) ** 2],
    }


def free_port() -> int:
    """Ask the system for a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Tell whether the server answers its health check."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tail(log: Path, lines: int = 15) -> str:
    """Show the end of the server's log, which usually holds the reason."""
    text = log.read_text(errors="replace").strip() or "(empty)"
    return f"the end of {log}:\n" + "\n".join(text.splitlines()[-lines:])


def wait_until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the server answers; fail with its log when it dies or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the server died at its start, exit status {server.returncode}; {tail(log)}", False)
        if is_ready(port):
            return
        time.sleep(0.05)
    pytest.fail(f"the server did not answer /healthz within {READY_WITHIN_S:.0f} s; {tail(log)}", False)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, and end it if it does not."""
    server.terminate()
    try:
        server.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def ranking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server as production does, apart from this process; gives its URL, stops it at the end."""
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is missing: run `make demo`, or the commands in this folder's README", False)
    log = tmp_path_factory.mktemp("server") / "server.log"
    port = free_port()
    command = [PYTHON, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", str(port)]
    # Its own interpreter must not find this one's packages; one OpenMP thread is what production sets too.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["OMP_NUM_THREADS"] = "1"
    with log.open("wb") as output:
        # In this process group, so that Ctrl-C or a CI's time-out reaches it even where pytest is killed.
        server = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [*command, "--no-access-log"],
            cwd=HERE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)


@pytest.fixture(scope="session")
def capacity_target(ranking_server: str) -> HttpTarget:
    """Override the plugin's fixture: from here on every capacity test knows where to send what."""
    return HttpTarget(f"{ranking_server}/rank", payloads=query)
