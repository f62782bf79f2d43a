"""How near a search comes on virtual FIFO servers: ``python -m benchmarks.search [SEEDS] [BUDGET_S]``.

The truth is found by bisection on 300,000 requests a rate, with common random numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.slo import SLO
from tests.virtual import Drive, VirtualServer

LIMIT_S = 0.05
Service = Callable[[float, np.random.Generator], float]
SERVERS: dict[str, tuple[int, Service, float, float]] = {
    "two workers": (2, lambda _now, rng: float(rng.lognormal(-0.125, 0.5)) * 0.008, 100, 250),
    "six workers, heavy sizes": (6, lambda _now, rng: float(rng.lognormal(-0.32, 0.8)) * 0.006, 300, 1000),
    "one worker": (1, lambda _now, rng: float(rng.lognormal(-0.02, 0.2)) * 0.005, 100, 200),
}


def truth(workers: int, service: Service, low: float, high: float) -> float:
    """The rate at which one request in a hundred is late."""
    for _ in range(9):
        rate = (low + high) / 2
        rng, server = np.random.default_rng(9), VirtualServer(workers, service)
        arrivals = np.cumsum(rng.exponential(1 / rate, 300_000))
        late = np.mean([server.serve(at, rng) - at > LIMIT_S for at in arrivals])
        low, high = (low, rate) if late > 0.01 else (rate, high)
    return (low + high) / 2


def main() -> None:
    """Print a line for each server."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    budget_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    for name, (workers, service, low, high) in SERVERS.items():
        capacity = truth(workers, service, low, high)
        runs = [
            Drive(VirtualServer(workers, service), LIMIT_S, seed).search(
                CapacitySearch(SLO(p99_ms=50), budget_s=budget_s)
            )
            for seed in range(seeds)
        ]
        found = [(r.capacity_qps, r.ci_low_qps, r.ci_high_qps) for r in runs]
        known = [(c, lo, hi) for c, lo, hi in found if c and lo and hi]
        errors = np.abs([c / capacity - 1 for c, _, _ in known])
        covered = np.mean([lo <= capacity <= hi for _, lo, hi in known])
        width = np.median([hi / lo - 1 for _, lo, hi in known])
        print(
            f"{name}: capacity {capacity:.1f}/s, {len(known)} of {seeds} found; error median "
            f"{np.median(errors):.1%} p90 {np.quantile(errors, 0.9):.1%}; covered {covered:.0%}; "
            f"width {width:.1%}"
        )


if __name__ == "__main__":
    main()
