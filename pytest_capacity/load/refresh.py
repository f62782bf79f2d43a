"""Headers that change during a load, such as a bearer token that expires."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from pytest_capacity.protocols import Encoded

JOIN_S = 1.0
"""A refresh that hangs must not hang the end of the load; its thread is a daemon."""


class TargetUnavailable(Exception):
    """The load could not begin: what the target needs before the first request was not to be had."""


def first_headers(encoded: Encoded) -> Mapping[str, str]:
    """The headers to begin with, got before anything is sent.

    Raises TargetUnavailable where the user's callable fails.
    """
    if encoded.refresh_headers is None:
        return {}
    try:
        return encoded.refresh_headers()
    except Exception as error:
        raise TargetUnavailable(
            f"the target's headers could not be got ({_in_words(error)}); no load was sent"
        ) from error


class HeaderRefresher:
    """Calls ``refresh`` every ``every_s`` seconds in a thread of its own, off the sending loop.

    ``renewed`` is given the new headers and ``failed`` the trouble in words, both in that thread.
    """

    def __init__(
        self,
        refresh: Callable[[], Mapping[str, str]],
        every_s: float,
        *,
        renewed: Callable[[Mapping[str, str]], object],
        failed: Callable[[str], object],
    ) -> None:
        self._refresh = refresh
        self._every_s = every_s
        self._renewed = renewed
        self._failed = failed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capacity-headers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop refreshing; returns soon even where the user's callable hangs."""
        self._stopped.set()
        self._thread.join(JOIN_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._once()

    def _once(self) -> None:
        try:
            headers = self._refresh()
        except Exception as error:  # noqa: BLE001 - the load goes on with the old headers
            self._tell(self._failed, f"header refresh failed: {_in_words(error)}")
        else:
            self._tell(self._renewed, headers)

    def _tell(self, listener: Callable[..., object], news: object) -> None:
        # After a stop nobody listens, and the loop that would may be closed.
        if not self._stopped.is_set():
            listener(news)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
