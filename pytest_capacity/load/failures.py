"""What it means that a connection could not be made."""

from __future__ import annotations

import errno
import os
import ssl

from pytest_capacity.protocols import Outcome

OUR_OWN_LIMITS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""What runs out on this machine: open files, local ports, memory. No evidence about the server."""

MAX_CHARACTERS = 200


def why_not_connected(error: Exception) -> tuple[Outcome, str]:
    """The outcome of a request for which ``error`` was met instead of a connection, and a reason."""
    number = getattr(error, "errno", None)
    if number in OUR_OWN_LIMITS:
        return Outcome.NOT_SENT, f"this machine could open no further connection: {in_words(error)}"
    return Outcome.CONNECT, f"no connection: {in_words(error)}"


def in_words(error: Exception | None) -> str:
    """A transport's error in one line."""
    if error is None:
        return "the server closed it without a reply"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{one_line(str(error))}; verify_tls=False accepts it all the same"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """Text on one line, cut where it is very long."""
    return " ".join(text.split())[:MAX_CHARACTERS]
