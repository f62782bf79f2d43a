"""Requests and replies that lie apart in a file, joined by an id; a bounded number of them waits."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.importers.job import Arrived

MOST_WAITING = 10_000


class Pairing:
    """Holds requests back until their reply is there, the file ends, or too many wait."""

    def __init__(self) -> None:
        self._waiting: dict[str, Arrived] = {}
        self.unmatched_replies = 0

    def request(self, key: str, arrived: Arrived) -> Iterator[Arrived]:
        """Add a request; gives the ones that need not wait any longer."""
        if earlier := self._waiting.pop(key, None):
            yield earlier
        self._waiting[key] = arrived
        if len(self._waiting) > MOST_WAITING:
            yield self._waiting.pop(next(iter(self._waiting)))

    def reply(self, key: str, latency_ns: int | None, seen: dict[str, Json]) -> Iterator[Arrived]:
        """Add what was observed of a reply; gives its request."""
        arrived = self._waiting.pop(key, None)
        if arrived is None:
            self.unmatched_replies += 1
            return
        arrived.row.seen.update(seen)
        if latency_ns is None or latency_ns < 0:
            yield arrived
        else:
            arrived.row.seen["latency_s"] = latency_ns / 1e9
            yield arrived._replace(latency_ns=latency_ns)

    def time_of(self, key: str) -> int | None:
        """When the request of a reply arrived."""
        arrived = self._waiting.get(key)
        return arrived.time_ns if arrived else None

    def rest(self) -> Iterator[Arrived]:
        """The requests without a reply."""
        yield from self._waiting.values()
        self._waiting.clear()
