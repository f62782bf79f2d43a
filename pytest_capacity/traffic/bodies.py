"""Bodies that lie beside a trace: each under the hash of its content, so that shared ones are stored once."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from pytest_capacity.traffic.lines import MAX_LINE_BYTES, TraceError

_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")


def bodies_directory(trace: Path) -> Path:
    """Where the bodies of a trace lie: ``a.bodies`` for ``a.trace.jsonl`` and ``a.trace.jsonl.gz``."""
    name = trace.name
    for suffix in (".gz", ".jsonl", ".trace"):
        name = name.removesuffix(suffix)
    return trace.with_name(f"{name}.bodies")


class BodyStore:
    """Stores bodies beside a trace that is being written.

    ``discard`` takes away what this store has added, for a trace that does not come about.
    """

    def __init__(self, trace: Path) -> None:
        self._directory = bodies_directory(trace)
        self._known: set[str] = set()
        self._added: list[Path] = []
        self._made_directory = False

    def put(self, data: bytes) -> str:
        """Store a body unless it is there already, and return its reference; raises OSError."""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._known:
            self._known.add(digest)
            path = self._directory / digest
            if not path.exists():
                self._write(path, data)
        return f"sha256:{digest}"

    def discard(self) -> None:
        """Remove the bodies added through this store, and their directory where it made that."""
        for path in self._added:
            path.unlink(missing_ok=True)
        if self._made_directory and not any(self._directory.iterdir()):
            self._directory.rmdir()
        self._known.clear()
        self._added.clear()

    def _write(self, path: Path, data: bytes) -> None:
        if not self._directory.exists():
            self._directory.mkdir(parents=True)
            self._made_directory = True
        temporary = self._directory / f".{secrets.token_hex(8)}.tmp"
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._added.append(path)


def stored_body(reference: str, trace: Path) -> bytes:
    """The body that a row of ``trace`` refers to.

    Raises TraceError for a malformed reference, for a body that is not there, and for one whose content is
    not what its name says.
    """
    match = _REFERENCE.fullmatch(reference)
    if not match:
        raise TraceError(f"body_ref {reference!r} must be 'sha256:' and 64 hexadecimal digits", path=trace)
    path = bodies_directory(trace) / match[1]
    try:
        if path.stat().st_size > MAX_LINE_BYTES:
            raise TraceError(f"the body is larger than {MAX_LINE_BYTES >> 20} MiB", path=path)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise TraceError(f"no body {path}; it belongs beside its trace", path=trace) from error
    if hashlib.sha256(data).hexdigest() != match[1]:
        raise TraceError("the body was altered: its content does not have the hash in its name", path=path)
    return data
