"""How a measurement stands, for whoever watches it."""

from __future__ import annotations

import numpy as np

from pytest_capacity.measurement.conditions import Controller, Progress
from pytest_capacity.protocols import Outcome, Probe
from pytest_capacity.stats.cohorts import RowTable
from pytest_capacity.stats.summary import failed_share
from pytest_capacity.stats.turns import TurnTable

RECENT_S = 2.0


def progress(
    table: RowTable | TurnTable, base_s: float, now_s: float, probe: Probe, controller: Controller
) -> Progress:
    """Rates and latency over the last two seconds of a load that began at ``base_s``."""
    recent = table.between(max(base_s, now_s - RECENT_S), now_s)
    span_s = max(1e-9, min(RECENT_S, now_s - base_s))
    good = recent.outcome == Outcome.GOOD
    answered = recent.done_s[good] - recent.intended_s[good]
    return Progress(
        phase="warm-up" if probe.settle_s >= probe.max_s else "measuring",
        elapsed_s=now_s - base_s,
        left_s=controller.left_s(),
        offered_qps=len(recent) / span_s,
        achieved_qps=int((~np.isnan(recent.done_s)).sum()) / span_s,
        p99_ms=float(np.quantile(answered, 0.99)) * 1000 if len(answered) else 0.0,
        error_rate=failed_share(recent),
        standing=controller.standing(),
    )
