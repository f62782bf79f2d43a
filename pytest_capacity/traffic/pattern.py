"""What scaling, statistics and models look at of traffic: when, which operation, how large, whose key.

The same columns describe a recording and what a workload model generates, so that either can be scaled and
compared with the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.quantised import dequantize, is_quantised

if TYPE_CHECKING:
    from pytest_capacity.traffic.columns import Recording


COARSE_TICK_REQUESTS = 0.2
"""A tick in which so many requests come on average hides how they came."""

ONE_MOMENT = "a recording needs two arrivals or more, at different times"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests in columns, in order of arrival; row ``i`` of each belongs to the same request.

    ``t_s`` lies within ``[0, cycle_s)``: after ``cycle_s`` seconds the traffic may begin anew without a seam,
    at its own mean rate. ``operation`` indexes ``operations``. ``sizes`` holds NaN where a row lacks a unit.
    ``key`` and ``session`` number distinct ones from 0 on, -1 where a row has none; ``further_keys`` are
    those beside a row's first, where they are known.

    Raises ValueError where the columns do not fit each other, or times go back or leave the cycle.
    """

    t_s: Floats
    cycle_s: float
    operation: Ints
    operations: tuple[str, ...]
    key: Ints
    session: Ints
    sizes: Mapping[str, Floats] = field(default_factory=dict)
    further_keys: FurtherKeys = field(default_factory=FurtherKeys)

    def __post_init__(self) -> None:
        columns = (self.operation, self.key, self.session, *self.sizes.values())
        if not len(self.t_s) or any(len(column) != len(self.t_s) for column in columns):
            raise ValueError("traffic needs at least one row, and columns of one length")
        if not (self.t_s[0] >= 0 and self.t_s[-1] < self.cycle_s and (np.diff(self.t_s) >= 0).all()):
            raise ValueError(f"arrival times must ascend within [0, {self.cycle_s:g}) seconds")

    def __len__(self) -> int:
        return len(self.t_s)

    @property
    def rate_qps(self) -> float:
        """Mean rate over a whole cycle."""
        return len(self.t_s) / self.cycle_s

    @property
    def key_count(self) -> int:
        """One more than the highest key."""
        highest = int(self.key.max())
        return max(highest, int(self.further_keys.key.max()) if len(self.further_keys) else highest) + 1

    def keys_of(self, rows: Ints) -> Ints:
        """All keys of these rows, in no order."""
        first = self.key[rows]
        return np.concatenate([first[first >= 0], self.further_keys.of(rows)])

    @property
    def session_count(self) -> int:
        """One more than the highest session."""
        return int(self.session.max()) + 1


def plain_traffic(
    t_s: Floats,
    *,
    operation: Ints | None = None,
    operations: tuple[str, ...] = ("request",),
    key: Ints | None = None,
    session: Ints | None = None,
    sizes: Mapping[str, Floats] | None = None,
    further_keys: FurtherKeys | None = None,
) -> Traffic:
    """Traffic from ascending times; its cycle is the span and one mean gap, so that the seam is a usual gap.

    Raises ValueError for fewer than two rows, or where all came at one moment: no rate follows from that.
    """
    count = len(t_s)
    span_s = float(t_s[-1] - t_s[0]) if count else 0.0
    if count < 2 or not span_s > 0:
        raise ValueError(ONE_MOMENT)
    none = np.full(count, -1, dtype=np.int64)
    return Traffic(
        t_s=t_s - t_s[0],
        cycle_s=span_s * count / (count - 1),
        operation=np.zeros(count, dtype=np.int64) if operation is None else operation.astype(np.int64),
        operations=operations,
        key=none if key is None else key.astype(np.int64),
        session=none if session is None else session.astype(np.int64),
        sizes=dict(sizes or {}),
        further_keys=further_keys or FurtherKeys(),
    )


def without_queries(traffic: Traffic) -> Traffic:
    """The same traffic, operations that differ in a query only being one: ``/rank?user=7`` is ``/rank``."""
    plain = [name.partition("?")[0] or name for name in traffic.operations]
    names = tuple(dict.fromkeys(plain))
    place = np.array([names.index(name) for name in plain], dtype=np.int64)
    return replace(traffic, operation=place[traffic.operation], operations=names)


@dataclass(frozen=True, slots=True)
class Observed:
    """A recording's traffic, and what must be known to judge it.

    ``tick_s`` is the clock's tick within which arrivals were spread, None where they stand as recorded.
    ``warnings`` say in words why its statistics may not be those of the real traffic.
    """

    traffic: Traffic
    tick_s: float | None
    warnings: tuple[str, ...]


def observe(recording: Recording, *, spread: bool = True, seed: int = 0) -> Observed:
    """The traffic of a recording; what a coarse clock put together is spread over its tick.

    ``spread`` False leaves it together. Raises TraceError where the recording has fewer than two arrivals at
    different times.
    """
    resolution_s = recording.header.resolution_s
    quantised = is_quantised(recording.t_s, resolution_s) and resolution_s is not None
    t_s = recording.t_s
    if not t_s[-1] > t_s[0]:
        # Spread within one tick they would have a rate, which is the tick's and not the traffic's.
        raise TraceError(ONE_MOMENT, path=Path(recording.path))
    if quantised and spread and resolution_s is not None:
        t_s = dequantize(t_s, resolution_s, seed)
    try:
        traffic = plain_traffic(
            t_s,
            operation=recording.operation,
            operations=recording.operations,
            key=recording.key,
            session=recording.session,
            sizes=recording.sizes,
            further_keys=recording.further_keys,
        )
    except ValueError as error:
        raise TraceError(str(error), path=Path(recording.path)) from error
    tick_s = resolution_s if quantised and spread else None
    return Observed(traffic, tick_s, tuple(_warnings(recording, traffic.rate_qps)))


def _warnings(recording: Recording, rate_qps: float) -> list[str]:
    header, found = recording.header, []
    # An importer may have spread the arrivals already: the tick is as coarse as before.
    if header.resolution_s is not None and header.resolution_s * rate_qps >= COARSE_TICK_REQUESTS:
        tick = f"the clock's tick is {header.resolution_s:g} s"
        found.append(f"{tick}: bursts shorter than three ticks are not known")
    if header.clock != "arrival":
        found.append(f"times are those of {header.clock}: arrivals came earlier, at other distances")
    if header.sampling is None or header.sampling < 1:
        share = "an unknown share" if header.sampling is None else f"{header.sampling * 100:g} %"
        found.append(f"{share} of the traffic was recorded: bursts, sessions and reuse are thinned")
    if header.prefix_block is not None and not recording.key_count:
        found.append(
            "prefixes of prompts are not modelled: without a key for each conversation its reuse is lost"
        )
    if len(np.unique(recording.weight)) > 1:
        found.append("rows have different weights, which are not followed: the mix is that of the rows")
    return found
