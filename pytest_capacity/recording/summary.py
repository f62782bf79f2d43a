"""What became of a recording, for people and as JSON. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

DROP_REASONS = {
    "limit": "the recording had reached its size limit",
    "write_error": "they could not be written",
    "queue_full": "the recorder could not keep up",
    "unreadable": "no row could be made of them",
    "closed": "they came after the recording had been closed",
}


@dataclass(slots=True)
class Summary:
    """Counts of a recording.

    ``rows`` lie on the disk, in ``files`` and the ``bodies`` directories, ``size_bytes`` in all; of them,
    ``unfinished`` had not ended when they were due, and of ``bodies_left_out`` the body is missing, by
    reason. ``dropped`` were lost, by reason (the keys of ``DROP_REASONS``); ``sampled_out`` and ``ignored``
    were not wanted. ``upgraded`` connections (websockets) passed through and are no requests. ``trouble``
    tells why recording stopped before its end; it ``failed`` unless a limit was asked for and reached.
    """

    out: str
    sampling: float
    rows: int = 0
    size_bytes: int = 0
    files: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    sampled_out: int = 0
    ignored: int = 0
    unfinished: int = 0
    upgraded: int = 0
    bodies_left_out: Counter[str] = field(default_factory=Counter)
    trouble: str | None = None
    failed: bool = False

    def document(self) -> dict[str, Any]:
        """The summary as one JSON document."""
        return {
            "out": self.out,
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "sampling": self.sampling,
            "sampled_out": self.sampled_out,
            "ignored": self.ignored,
            "unfinished": self.unfinished,
            "upgraded": self.upgraded,
            "bodies_left_out": dict(self.bodies_left_out),
            "bytes": self.size_bytes,
            "files": self.files,
            "bodies": self.bodies,
            "trouble": self.trouble,
        }

    def lines(self) -> list[str]:
        """The summary in words."""
        places = self.files + self.bodies
        said = [f"recorded {self.rows:,} requests, {self.size_bytes:,} bytes, in {', '.join(places)}"]
        if self.sampling < 1:
            said.append(f"a sample of {self.sampling:g}: {self.sampled_out:,} more were left out")
        if self.ignored:
            said.append(f"{self.ignored:,} more were ignored, as asked")
        for reason, count in sorted(self.dropped.items()):
            said.append(f"dropped {count:,} requests: {DROP_REASONS[reason]}")
        if self.unfinished:
            said.append(f"{self.unfinished:,} had not ended when they were written, so without their replies")
        for reason, count in sorted(self.bodies_left_out.items()):
            said.append(f"{count:,} without their body: {reason}")
        if self.upgraded:
            said.append(f"{self.upgraded:,} websocket connections passed through; they are not recorded")
        if self.trouble:
            said.append(f"recording stopped before its end: {self.trouble}")
        return said
