"""Traffic of our own making for tests: bursty, with sizes, keys and sessions."""

from __future__ import annotations

import numpy as np

from pytest_capacity.protocols import Floats
from pytest_capacity.traffic.pattern import Traffic, plain_traffic


def steady(rate_qps: float = 20.0, duration_s: float = 100.0, seed: int = 0) -> Traffic:
    """Poisson arrivals and nothing else."""
    rng = np.random.default_rng(seed)
    count = int(rate_qps * duration_s)
    return plain_traffic(np.sort(rng.random(count)) * duration_s)


def eventful(seed: int = 0, windows: int = 60) -> Traffic:
    """Ten minutes of two operations whose rate and sizes change every ten seconds, with keys and sessions.

    Keys are Zipf-like, sessions of one to six requests some seconds apart.
    """
    rng = np.random.default_rng(seed)
    rate = rng.gamma(4, 2.5, windows)
    starts = np.sort(np.repeat(np.arange(windows) * 10.0, rng.poisson(rate * 10 / 3.5)))
    starts += rng.random(len(starts)) * 10
    requests = rng.integers(1, 7, len(starts))
    session = np.repeat(np.arange(len(starts)), requests)
    gaps = rng.exponential(4, len(session))
    first = np.concatenate([[0], np.cumsum(requests)[:-1]])
    gaps[first] = 0
    passed = np.cumsum(gaps)
    t_s = starts[session] + passed - passed[first][session]
    order = np.argsort(t_s, kind="stable")
    t_s, session = t_s[order], session[order]
    level = rng.normal(0, 0.4, int(t_s[-1] // 10) + 1)[(t_s // 10).astype(int)]
    items = np.rint(np.exp(rng.normal(2.5, 0.6, len(t_s)) + level)) + 1
    return plain_traffic(
        t_s,
        operation=(rng.random(len(t_s)) < 0.3).astype(np.int64),
        operations=("rank", "embed"),
        key=popular_keys(len(t_s), rng),
        session=session,
        sizes={"items": items, "bytes": items * 30 + rng.integers(0, 40, len(t_s))},
    )


def popular_keys(count: int, rng: np.random.Generator, distinct: int = 400) -> np.typing.NDArray[np.int64]:
    """Keys numbered by their first appearance, the n-th most popular drawn in proportion to 1/n."""
    shares: Floats = 1 / np.arange(1, distinct + 1)
    drawn = rng.choice(distinct, count, p=shares / shares.sum())
    _, first, number = np.unique(drawn, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)
