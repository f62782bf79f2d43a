"""A recorder that begins with the first request, for middleware: servers fork after making the app."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from pathlib import Path

from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.summary import Summary

_LOG = logging.getLogger("pytest_capacity.recording")


class LazyRecorder:
    """Opens a recorder when it is first asked for one, and in each process its own."""

    def __init__(self, out: Path | str, options: RecordingOptions, source: str) -> None:
        self._out, self._options, self._source = out, options, source
        self._lock = threading.Lock()
        self._recorder: Recorder | None = None
        self._process: int | None = None

    def get(self) -> Recorder | None:
        """The recorder; None where it could not be opened, which is logged once, or was closed."""
        if self._process == os.getpid():
            return self._recorder
        with self._lock:
            if self._process != os.getpid():
                self._recorder = self._open()
                self._process = os.getpid()
            return self._recorder

    def close(self) -> Summary | None:
        """End the recording for good, and log its summary; None where there is none in this process."""
        with self._lock:
            recorder = self._recorder if self._process == os.getpid() else None
            self._recorder, self._process = None, os.getpid()
        if recorder is None:
            return None
        atexit.unregister(self.close)
        summary = recorder.close()
        _LOG.info("%s", "; ".join(summary.lines()))
        return summary

    def _open(self) -> Recorder | None:
        try:
            recorder = Recorder(
                self._out, self._options, source=self._source, tell=_LOG.warning, exclusive=False
            )
        except OSError as error:
            _LOG.warning("nothing is recorded: %s cannot be opened: %s", self._out, error.strerror or error)
            return None
        atexit.register(self.close)
        return recorder
