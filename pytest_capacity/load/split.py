"""One schedule over several workers: each row goes to exactly one, in its order and at its time.

The union of what the workers send is the schedule itself, so that Poisson arrivals stay Poisson whatever the
number of workers.
"""

from __future__ import annotations

import numpy as np

from pytest_capacity.protocols import Ints


def split_rows(count: int, workers: int, session: Ints | None = None) -> list[Ints]:
    """The rows of each worker, ascending: in turn, or all of one ``session`` on one worker.

    ``session`` names each row's session by a number; rows with a negative one belong to none. Raises
    ValueError for fewer than one worker or a column of another length.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers cannot send anything")
    rows = np.arange(count, dtype=np.int64)
    place = rows % workers
    if session is not None:
        if len(session) != count:
            raise ValueError(f"{len(session)} sessions do not match {count} rows")
        place = np.where(session >= 0, session % workers, place)
    return [np.flatnonzero(place == worker) for worker in range(workers)]


def split_concurrency(concurrency: int, workers: int) -> list[int]:
    """How many requests each worker keeps in flight; they differ by one at most, and some may be 0."""
    each, more = divmod(concurrency, workers)
    return [each + (worker < more) for worker in range(workers)]
