"""Recording the traffic of a model server: a reverse proxy, and middleware for ASGI and WSGI applications.

All of them write the native trace format. The public names are exported lazily, so that a server which uses
one kind of recorder does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_capacity.recording.asgi import AsgiRecorder
    from pytest_capacity.recording.options import RecordingOptions
    from pytest_capacity.recording.wsgi import WsgiRecorder

__all__ = ["AsgiRecorder", "RecordingOptions", "WsgiRecorder"]

_HOME = {
    "AsgiRecorder": "pytest_capacity.recording.asgi",
    "RecordingOptions": "pytest_capacity.recording.options",
    "WsgiRecorder": "pytest_capacity.recording.wsgi",
}


def __getattr__(name: str) -> object:
    """Import a public name's home when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
