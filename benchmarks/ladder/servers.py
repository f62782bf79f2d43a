"""Model servers on paper, one for each class: first in, first out, some slots, work by size or by cache.

``pytest_capacity.simulate`` draws sizes by itself and has no cache: it cannot play a recording's payloads.
Where both can say the same (equal sizes) a test holds them together.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pytest_capacity.protocols import Floats, Ints


class WorkModel(Protocol):
    """How much work requests make, in the order in which they come: a cache remembers those before."""

    def work(self, sizes: Mapping[str, Floats], key: Ints) -> Floats:
        """Work of each request, in units of the model's own."""
        ...


class BySize:
    """A part that is the same for all and one that grows with the size: ranking, vision, plain encoding."""

    def __init__(self, unit: str, mean_size: float, base: float = 0.05) -> None:
        self._unit, self._mean, self._base = unit, mean_size, base

    def work(self, sizes: Mapping[str, Floats], key: Ints) -> Floats:
        del key
        return self._base + sizes[self._unit] / self._mean


class EmbeddingCache:
    """An LRU cache of embeddings: what is not there must be fetched, which takes six times as long."""

    def __init__(self, entries: int, hit: float = 1.0, miss: float = 6.0) -> None:
        self._entries, self._hit, self._miss = entries, hit, miss

    def work(self, sizes: Mapping[str, Floats], key: Ints) -> Floats:
        del sizes
        cache: OrderedDict[int, None] = OrderedDict()
        work = np.full(len(key), self._hit)
        for row, one in enumerate(key.tolist()):
            if one in cache:
                cache.move_to_end(one)
                continue
            work[row] = self._miss
            cache[one] = None
            if len(cache) > self._entries:
                cache.popitem(last=False)
        return work


class PrefixCache:
    """A language model that need not read again what it has of a conversation; LRU by conversation."""

    def __init__(self, tokens: float, mean_tokens: float, base: float = 0.05) -> None:
        self._tokens, self._mean, self._base = tokens, mean_tokens, base

    def work(self, sizes: Mapping[str, Floats], key: Ints) -> Floats:
        cache: OrderedDict[int, float] = OrderedDict()
        held = 0.0
        read = sizes["tokens_in"].copy()
        after = (sizes["tokens_in"] + sizes["tokens_out"]).tolist()
        for row, (one, asked) in enumerate(zip(key.tolist(), sizes["tokens_in"].tolist(), strict=True)):
            known = cache.pop(one, 0.0)
            read[row] -= min(known, asked)
            cache[one] = after[row]
            held += after[row] - known
            while held > self._tokens and len(cache) > 1:
                held -= cache.popitem(last=False)[1]
        return self._base + read / self._mean


def latencies(arrivals_s: Floats, work_s: Floats, slots: int) -> Floats:
    """Seconds from arrival to reply of requests served in order by equal slots."""
    free = [0.0] * slots
    done = np.empty(len(arrivals_s))
    for row, (at_s, takes_s) in enumerate(zip(arrivals_s.tolist(), work_s.tolist(), strict=True)):
        end_s = max(free[0], at_s) + takes_s
        heapq.heapreplace(free, end_s)
        done[row] = end_s
    return done - arrivals_s
