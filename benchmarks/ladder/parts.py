"""A recording cut in two for each repeat, and what each rung sends of one part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ladder.rungs import profile_mix, typical_row
from pytest_capacity import HttpTarget
from pytest_capacity.load.engines import engine_named
from pytest_capacity.measurement import Conditions, load_recorded
from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.calibrate_command import calibrate_file
from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.pattern import Traffic, observe
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter, read_rows

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Part:
    """One half of a recording, as a trace of its own."""

    path: Path
    header: TraceHeader
    rows: list[TraceRow]
    traffic: Traffic


@dataclass(frozen=True)
class Site:
    """Where requests go, and how a request is made of its sizes."""

    url: str
    body_for: Callable[[TraceRow], Any]


def halves(t_s: Floats, cycle_s: float, repeat: int) -> tuple[tuple[Ints, Floats], tuple[Ints, Floats]]:
    """Rows and times of both halves, cut for every other repeat at another place of the circle of traffic.

    The repeat between has the halves exchanged: so what tells them apart cancels in the mean of both.
    """
    shifted_s = (t_s - cycle_s * (repeat // 2 * _GOLDEN % 1)) % cycle_s
    order = np.argsort(shifted_s, kind="stable")
    first = int(np.searchsorted(shifted_s[order], cycle_s / 2))
    # To the microsecond, as they were recorded.
    times_s = np.round(shifted_s[order], 6)
    one, other = (order[:first], times_s[:first]), (order[first:], times_s[first:] - times_s[first])
    return (other, one) if repeat % 2 else (one, other)


def cut(trace: Path, repeat: int, folder: Path) -> tuple[Part, Part]:
    """The part that the rungs are made of, and the one held out as the reference."""
    header, rows = read_rows(trace)
    every = list(rows)
    traffic = observe(load_recording(trace)).traffic
    pairs = zip(("known", "held-out"), halves(traffic.t_s, traffic.cycle_s, repeat), strict=True)
    known, held_out = (
        part_of(folder / f"{name}.trace.jsonl", header, [every[row] for row in chosen.tolist()], t_s)
        for name, (chosen, t_s) in pairs
    )
    return known, held_out


def part_of(path: Path, header: TraceHeader, rows: Sequence[TraceRow], t_s: Floats) -> Part:
    """Rows at new times, written as a trace."""
    placed = [replace(row, t=at_s) for row, at_s in zip(rows, t_s.tolist(), strict=True)]
    with TraceWriter(path, replace(header, start=None)) as writer:
        for row in placed:
            writer.write(row)
    return Part(path, header, placed, observe(load_recording(path)).traffic)


def prepared(rung: str, known: Part, held_out: Part, site: Site, seed: int) -> tuple[HttpTarget, Conditions]:
    """What a user would write at this rung: the target and the conditions of the search."""
    conditions = Conditions(engine_named("fast"), seed)
    if rung in ("L0", "L1"):
        row = known.rows[typical_row(rung, known.traffic)]
        even = replace(conditions, arrivals="constant") if rung == "L0" else conditions
        return HttpTarget(site.url, json=row.body), even
    if rung == "L2":
        return HttpTarget(site.url, payloads=[row.body for row in known.rows]), conditions
    trace = _trace_of(rung, known, held_out, seed)
    return HttpTarget(site.url, body_for=site.body_for), replace(conditions, trace=load_recorded(trace, seed))


def _trace_of(rung: str, known: Part, held_out: Part, seed: int) -> Path:
    if rung == "R":
        return held_out.path
    if rung == "L5":
        return known.path
    if rung == "L4":
        model = known.path.with_name("workload.yaml")
        calibrate_file(known.path, model, seed)
        return model
    path = known.path.with_name("profile.trace.jsonl")
    t_s, row = profile_mix(known.traffic, seed)
    return part_of(path, known.header, [known.rows[one] for one in row.tolist()], t_s).path
