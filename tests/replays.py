"""Small traces of our own making, for tests that replay them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter

RATE_QPS = 40.0


def made_rows(seconds: float = 5.0, *, rate_qps: float = RATE_QPS, seed: int = 0) -> list[TraceRow]:
    """Poisson arrivals of two operations, three in four of them ``rank``, each with a body of its own.

    Four requests in a row are a session; each has one of 40 keys.
    """
    rng = np.random.default_rng(seed)
    times_s = np.sort(rng.random(int(seconds * rate_qps))) * seconds
    rows = []
    for number, at_s in enumerate(times_s.tolist()):
        name = "rank" if number % 4 else "embed"
        rows.append(
            TraceRow(
                t=at_s,
                id=f"r{number}",
                op=name,
                path=f"/{name}",
                headers={"accept": "application/json"},
                body={"number": number, "items": [1] * (1 + number % 5)},
                size={"items": 1 + number % 5},
                keys=(f"key-{rng.integers(40)}",),
                session=f"session-{number // 4}",
            )
        )
    return rows


def without_bodies(rows: list[TraceRow]) -> list[TraceRow]:
    """The same rows as an access log would have them."""
    for row in rows:
        row.body = None
    return rows


def write_trace(path: Path, rows: list[TraceRow] | None = None, **header: Any) -> Path:
    """Write rows (some of our own making, unless given) as a trace."""
    known: dict[str, Any] = {"name": "made", "class_": "ranking", "resolution_s": 1e-4, "source": "test"}
    with TraceWriter(path, TraceHeader(**{**known, **header})) as writer:
        for row in made_rows() if rows is None else rows:
            writer.write(row)
    return path
