"""What the tests' process and a load worker say to each other: a JSON document and bytes, frame by frame.

A frame is two lengths, the document and the bytes. Nothing is ever unpickled: neither side can be made to run
what it did not import by name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_LENGTHS = struct.Struct("=IQ")

MAX_DOCUMENT_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Frame:
    """One message; ``document["kind"]`` says which."""

    document: Mapping[str, Any]
    data: bytes = b""

    @property
    def kind(self) -> str:
        """What the message is about."""
        kind: str = self.document["kind"]
        return kind


def pack(document: Mapping[str, Any], *data: bytes | bytearray | memoryview) -> list[Any]:
    """A message as the buffers to be written one after the other."""
    said = json.dumps(document, separators=(",", ":")).encode()
    return [_LENGTHS.pack(len(said), sum(len(part) for part in data)), said, *data]


@dataclass(slots=True)
class Unpacker:
    """Puts frames together from what a socket gives."""

    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that are whole by now. Raises ValueError where the bytes are no frame."""
        self._rest += data
        while len(self._rest) >= _LENGTHS.size:
            said, carried = _LENGTHS.unpack_from(self._rest)
            if said > MAX_DOCUMENT_BYTES:
                raise ValueError("not a frame")
            end = _LENGTHS.size + said
            if len(self._rest) < end + carried:
                return
            document = json.loads(bytes(self._rest[_LENGTHS.size : end]))
            with memoryview(self._rest) as rest:
                frame = Frame(document, bytes(rest[end : end + carried]))
            del self._rest[: end + carried]
            yield frame
