"""Running the proxy: listening, signals, and an end at which nothing in flight is lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address

from aiohttp import web

from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.proxy import ReverseProxy
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.summary import Summary
from pytest_capacity.recording.upstream import Upstream

SWITCH_INTERVAL_S = 0.0005
"""How long the writing thread may keep the interpreter from the proxy; Python's own default is 5 ms, which
each request that comes meanwhile would be late by."""

BACKLOG = 4096


def serve(
    options: argparse.Namespace,
    upstream: Upstream,
    recording: RecordingOptions,
    tell: Callable[[str], None],
) -> Summary:
    """Serve and record until a signal, or for ``options.seconds``; ``tell`` says what the user should hear.

    Raises OSError where the port is taken or the file is there already or cannot be made.
    """
    with _listen(options.host, options.listen) as listening:
        try:
            recorder = Recorder(options.out, recording, source="recording proxy", tell=tell)
        except FileExistsError:
            raise FileExistsError(f"{options.out} is there already; choose another --out") from None
        try:
            with _short_switches(), contextlib.closing(_new_event_loop()) as loop:
                loop.run_until_complete(_serve(options, upstream, recorder, listening, tell))
        finally:
            summary = recorder.close()
    return summary


async def _serve(
    options: argparse.Namespace,
    upstream: Upstream,
    recorder: Recorder,
    listening: socket.socket,
    tell: Callable[[str], None],
) -> None:
    keep_host = (options.host_header or ("client" if upstream.scheme == "http" else "upstream")) == "client"
    proxy = ReverseProxy(
        upstream,
        recorder,
        timeout_s=options.timeout_s,
        keep_host=keep_host,
        verify_tls=not options.no_verify_tls,
    )
    # It would print a traceback for each request that is no HTTP; the client gets a 400 for it.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    server = proxy.server()
    runner = web.ServerRunner(server, shutdown_timeout=options.grace_s)

    def cut_off() -> None:
        proxy.cut_off(server)

    with _until_signalled(cut_off) as stop:
        try:
            await runner.setup()
            await web.SockSite(runner, listening, backlog=BACKLOG).start()
            tell(f"recording {_url(listening)} -> {upstream.origin} into {recorder.path}; Ctrl-C ends it")
            if not _is_here(listening):
                tell("whoever reaches this address over the network reaches the upstream")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), options.seconds)
            tell("stopping: waiting for replies in flight; once more cuts them off")
            # Not left to aiohttp, which would wait twice as long and say that the clients left.
            asyncio.get_running_loop().call_later(options.grace_s, cut_off)
        finally:
            await runner.cleanup()
            await proxy.close()


@contextlib.contextmanager
def _until_signalled(cut_off: Callable[[], None]) -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set; the second one calls ``cut_off``."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        if stop.is_set():
            cut_off()
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listening.setblocking(False)
    return listening


def _is_here(listening: socket.socket) -> bool:
    return ip_address(listening.getsockname()[0]).is_loopback


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _short_switches() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's where it is installed, else of asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
