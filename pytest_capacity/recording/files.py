"""The files of a recording: written in whole pieces, so that whatever ends the process leaves a trace.

Each piece goes out by one write, as a gzip member of its own where the file is compressed (members one after
another are valid gzip, RFC 1952 section 2.2). A piece that could not be written whole is cut off again.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
from collections.abc import Sequence
from pathlib import Path

COMPRESSION = 5
_CLOSED = -1
_SUFFIXES = (".gz", ".jsonl", ".trace")


class PartFile:
    """One file, open for appending lines; ``size_bytes`` is what lies on the disk.

    Raises FileExistsError where there is such a file, and OSError where it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size_bytes = path, 0
        self._compressed = path.suffix == ".gz"
        _make_directory(path.parent)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def piece(self, lines: Sequence[str]) -> bytes:
        """Lines as they will lie in the file."""
        return self._piece(lines, COMPRESSION)

    def _piece(self, lines: Sequence[str], compression: int) -> bytes:
        # What cannot be encoded are lone surrogates, and this writes them as JSON does.
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        return gzip.compress(data, compression, mtime=0) if self._compressed else data

    def append(self, piece: bytes) -> None:
        """Write a piece whole or not at all; raises OSError where it could not be written."""
        left = memoryview(piece)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size_bytes)
                os.lseek(self._descriptor, self.size_bytes, os.SEEK_SET)
            raise
        self.size_bytes += len(piece)

    def header_piece(self, line: str) -> bytes:
        """A line as it will lie in the file, of one length for lines of one length."""
        return self._piece([line], 0)

    def overwrite(self, piece: bytes) -> None:
        """Put a piece in the place of the first one, which is as long; raises OSError.

        Nothing is taken away first: whatever ends the process, or fills the disk, a header is there.
        """
        os.pwrite(self._descriptor, piece, 0)

    def close(self) -> None:
        """Make sure that the file lies on the disk; raises OSError where it does not. Again: nothing."""
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor == _CLOSED:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # Not to be taken for a file of this name: the next number would not help.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def split_suffix(name: str) -> tuple[str, str]:
    """``("rank", ".trace.jsonl.gz")`` for ``rank.trace.jsonl.gz``."""
    stem = name
    for ending in _SUFFIXES:
        stem = stem.removesuffix(ending)
    return stem, name[len(stem) :]


def numbered(path: Path, number: int) -> Path:
    """``rank-2.trace.jsonl.gz`` for the second of ``rank.trace.jsonl.gz``; the first is the path itself."""
    stem, suffix = split_suffix(path.name)
    return path if number == 1 else path.with_name(f"{stem}-{number}{suffix}")


def open_free(path: Path, number: int) -> PartFile:
    """Open the file of this number, or of the next that is not there yet; raises OSError."""
    while True:
        with contextlib.suppress(FileExistsError):
            return PartFile(numbered(path, number))
        number += 1
