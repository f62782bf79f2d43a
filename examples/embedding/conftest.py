"""Where the model is: a server of several processes, started in its own environment, and its traffic."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from texts import draw_text

from pytest_capacity import HttpTarget

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 6.0


def query(rng: np.random.Generator) -> dict[str, str]:
    """Draw one query as production would send it.

    A text costs by the token, and lengths vary: equal texts would hide the queueing that long ones cause.
    """
    return {"text": draw_text(rng)}


def free_port() -> int:
    """Ask the system for a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Tell whether the server says that its workers have loaded the model: until then it says 503."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
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
    pytest.fail(f"the server did not answer /health within {READY_WITHIN_S:.0f} s; {tail(log)}", False)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then end what is left of its process group, its workers among them."""
    try:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_WITHIN_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="session")
def embedding_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server as production does, apart from this process; gives its URL, stops it at the end.

    LitServe starts processes of its own. They share a process group, so that all can be ended at once. Ctrl-C
    and a CI's time-out do not reach that group; the pipe to the server's standard input does, since it closes
    however this process ends, and the server stops with it.
    """
    if not PYTHON.exists():
        pytest.fail(
            f"{PYTHON} is missing: run `make demo-embedding`, or the commands in this folder's README", False
        )
    log = tmp_path_factory.mktemp("server") / "server.log"
    port = free_port()
    # Its own interpreter must not find this one's packages, nor LitServe ask for somebody's API key.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LIT_SERVER_API_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with log.open("wb") as output:
        server = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [PYTHON, "server.py", "--port", str(port), "--with-stdin"],
            cwd=HERE,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_ready(server, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)


@pytest.fixture(scope="session")
def capacity_target(embedding_server: str) -> HttpTarget:
    """Override the plugin's fixture: from here on every capacity test knows where to send what."""
    return HttpTarget(f"{embedding_server}/embed", payloads=query)
