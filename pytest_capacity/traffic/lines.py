"""Pieces of a large file, one at a time: lines or records, gzip or not, bounded in length."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAX_LINE_BYTES = 64 * 2**20
"""No request is larger than this. A line that is does not get read: the file is not what it is taken for."""

_CHUNK_BYTES = 2**20
_GZIP_MAGIC = b"\x1f\x8b"


class TraceError(ValueError):
    """A trace, or a file to be imported, is not what it should be: what, in which file, on which line."""

    def __init__(self, what: str, *, path: Path | None = None, line: int | None = None) -> None:
        place = ", ".join([str(path)] * (path is not None) + [f"line {line}"] * (line is not None))
        super().__init__(f"{place}: {what}" if place else what)
        self.what, self.path, self.line = what, path, line

    def in_file(self, path: Path) -> TraceError:
        """The same error with the file's name; one that has a name keeps it."""
        return TraceError(self.what, path=self.path or path, line=self.line)


class Line(NamedTuple):
    """A line without its end: its number from 1, and where it begins in the (decompressed) file."""

    number: int
    offset: int
    data: bytes


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file for reading, decompressed where it begins as gzip does.

    Raises OSError where it cannot be opened, TraceError where its suffix says gzip and its content does not.
    """
    with path.open("rb") as file:
        magic = file.read(2)
    if magic == _GZIP_MAGIC:
        return gzip.GzipFile(path, "rb")
    if path.suffix == ".gz" and magic:
        raise TraceError("the suffix says gzip, the content does not", path=path)
    return path.open("rb")


def numbered_lines(
    path: Path, *, limit_bytes: int = MAX_LINE_BYTES, allow_cut: bool = False
) -> Iterator[Line]:
    r"""The lines of a file, blank ones left out; a carriage return before the end is taken away.

    Raises TraceError for a line above ``limit_bytes`` (before it is read whole), for a NUL byte (a binary
    file) and for damaged or truncated gzip. With ``allow_cut``, a truncated file ends quietly before its
    last, unfinished line: what a recorder leaves behind when it is killed.
    """
    for batch in _batches(path, b"\n", limit_bytes, allow_cut=allow_cut):
        if batch.unfinished and allow_cut:
            return
        number, offset = batch.number, batch.offset
        for piece in batch.pieces:
            data = piece.removesuffix(b"\r")
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in data:
                raise TraceError("not text: this is a binary file", path=path, line=number)
            if data and not data.isspace():
                yield Line(number, offset, data)
            number += 1
            offset += len(piece) + 1


def split_file(
    path: Path, separator: bytes, *, limit_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file between separators, numbered from 1, the last one without a separator among them.

    Raises TraceError for a piece above ``limit_bytes`` and for damaged or truncated gzip; the line that the
    error names is the piece's number.
    """
    for batch in _batches(path, separator, limit_bytes, allow_cut=False):
        yield from enumerate(batch.pieces, batch.number)


class _Batch(NamedTuple):
    """Pieces that follow each other: the first one's number and offset, and whether the last has no end."""

    number: int
    offset: int
    pieces: list[bytes]
    unfinished: bool


def _batches(path: Path, separator: bytes, limit_bytes: int, *, allow_cut: bool) -> Iterator[_Batch]:
    number, offset = 1, 0
    # What has no end yet, in parts: joining it at every chunk would copy a long line over and over.
    parts: list[bytes] = []
    length = 0
    with open_bytes(path) as file:
        while chunk := _read(file, path, number, allow_cut=allow_cut):
            # A separator of several bytes may lie across two chunks.
            across = parts[-1][1 - len(separator) :] if parts and len(separator) > 1 else b""
            parts.append(chunk)
            length += len(chunk)
            if separator in across + chunk:
                pieces = b"".join(parts).split(separator)
                parts = [pieces.pop()]
                length = len(parts[0])
                if max(map(len, pieces)) > limit_bytes:
                    at = next(i for i, piece in enumerate(pieces) if len(piece) > limit_bytes)
                    raise _too_long(limit_bytes, path, number + at)
                yield _Batch(number, offset, pieces, unfinished=False)
                number += len(pieces)
                offset += sum(map(len, pieces)) + len(pieces) * len(separator)
            if length > limit_bytes:
                raise _too_long(limit_bytes, path, number)
    if length:
        yield _Batch(number, offset, [b"".join(parts)], unfinished=True)


def read_document(path: Path, limit_bytes: int = 8 * MAX_LINE_BYTES) -> bytes:
    """A whole file of a format that cannot be read in pieces.

    Raises TraceError for a file above ``limit_bytes`` and for damaged gzip.
    """
    parts, size = [], 0
    with open_bytes(path) as file:
        while chunk := _read(file, path, None, allow_cut=False):
            parts.append(chunk)
            size += len(chunk)
            if size > limit_bytes:
                raise TraceError(f"larger than {limit_bytes >> 20:,} MiB: refused", path=path)
    return b"".join(parts)


def _read(file: io.BufferedIOBase, path: Path, number: int | None, *, allow_cut: bool) -> bytes:
    try:
        # Not ``read``: that would keep what comes before the break of a truncated file to itself.
        return file.read1(_CHUNK_BYTES)
    except EOFError as error:
        if allow_cut:
            return b""
        raise TraceError("truncated: the gzip stream ends before its end", path=path, line=number) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"damaged gzip: {error}", path=path, line=number) from error


def _too_long(limit_bytes: int, path: Path, number: int) -> TraceError:
    return TraceError(f"longer than {limit_bytes / 2**20:,.4g} MiB: refused", path=path, line=number)
