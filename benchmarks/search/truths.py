"""The truth of each server of the population, found once and kept beside the results."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search.files import Appending, Row, read_rows
from benchmarks.search.pool import results_of
from benchmarks.search.population import SLO_50, draw
from pytest_capacity.simulate.arriving import Arriving, poisson
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.simulate.truth import find_truth

MOST_ATTEMPTS = 20


@dataclass(frozen=True)
class Known:
    """A server with its long-run capacity and condition number."""

    range_name: str
    index: int
    spec: ServerSpec
    tags: tuple[str, ...]
    capacity_qps: float
    condition_number: float
    mark: str


def truths_path(folder: Path, range_name: str) -> Path:
    """Where a range's truths are kept."""
    return folder / f"truths-{range_name}.jsonl"


def known_servers(folder: Path, range_name: str) -> dict[int, Known]:
    """The servers whose truth is in the folder; one that is drawn otherwise by now is passed over."""
    known = {}
    for row in read_rows(truths_path(folder, range_name)):
        drawn = draw(range_name, row["server"], row["attempt"])
        if drawn.mark == row["mark"]:
            known[drawn.index] = Known(
                range_name, drawn.index, drawn.spec, drawn.tags, row["capacity"], row["condition"], drawn.mark
            )
    return known


def find_truths(
    folder: Path, range_name: str, indexes: Sequence[int], *, processes: int, effort: float = 1.0
) -> dict[int, Known]:
    """Find what is missing of the truths of these servers, and give all of them, in order."""
    known = known_servers(folder, range_name)
    jobs = [(range_name, index, effort) for index in indexes if index not in known]
    if jobs:
        with Appending(truths_path(folder, range_name)) as out:
            for row in results_of(_truth, jobs, processes, f"truths of {range_name}"):
                out.add(row)
        known = known_servers(folder, range_name)
    return {index: known[index] for index in indexes}


def arrivals_alone(seed: int) -> Arriving:
    """Poisson arrivals, once the server before is gone.

    A played server is a cycle of references that holds millions of numbers but few objects: left to itself
    the collector would let a dozen of them pile up.
    """
    gc.collect()
    return poisson(seed)


def _truth(job: tuple[str, int, float]) -> Row:
    """The first draw of a server that keeps the SLO at some rate."""
    range_name, index, effort = job
    start_s = time.monotonic()
    for attempt in range(MOST_ATTEMPTS):
        drawn = draw(range_name, index, attempt)
        truth = find_truth(drawn.spec, SLO_50, arrivals_alone, seed=index, effort=effort)
        if truth.capacity_qps is not None:
            return {
                "server": index,
                "attempt": attempt,
                "mark": drawn.mark,
                "capacity": truth.capacity_qps,
                "condition": truth.condition_number,
                "effort": effort,
                "tags": list(drawn.tags),
                "wall_s": round(time.monotonic() - start_s, 1),
            }
    raise RuntimeError(f"no draw of server {index} of {range_name} keeps the SLO")
