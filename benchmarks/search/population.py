"""The random servers: what they are drawn from, and which are drawn.

Server ``i`` of a range comes from ``SeedSequence([number of the range, i])``. What is tuned looks at the
range ``tune`` only; what is reported at ``report`` only. One half serves first in, first out, the other in
batches; a third of all pause, a quarter start cold, and ``ODD_SHARE`` of them have each of ``ODDITIES``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pytest_capacity.simulate.spec import Cold, Neighbour, Overload, Pause, ServerSpec, Spikes
from pytest_capacity.slo import SLO

RANGES = {"tune": 1, "report": 2}
LIMIT_S = 0.05
SLO_50 = SLO(p99_ms=1000 * LIMIT_S)
ALLOWED = 0.01

PAUSES_SHARE = 1 / 3
COLD_SHARE = 1 / 4
ODD_SHARE = 0.06
FORMS = ("fifo", "batching")
ODDITIES = ("shed", "neighbour", "spikes", "heavy", "overload")
CLASSES = (*FORMS, "pauses", "cold", *ODDITIES)


@dataclass(frozen=True)
class Drawn:
    """One server of a range; ``attempt`` counts draws that were put aside because no rate kept the SLO."""

    range_name: str
    index: int
    attempt: int
    spec: ServerSpec
    tags: tuple[str, ...]

    @property
    def mark(self) -> str:
        """A few digits that change whenever the server does: results of another server are not its own."""
        return hashlib.sha256(repr(self.spec).encode()).hexdigest()[:10]


def draw(range_name: str, index: int, attempt: int = 0) -> Drawn:
    """Draw server ``index`` of a range; ``attempt`` takes the next sub-seed."""
    sub_seed = (attempt,) if attempt else ()
    rng = np.random.default_rng(np.random.SeedSequence([RANGES[range_name], index], spawn_key=sub_seed))
    form = FORMS[int(rng.random() < 0.5)]
    # Every draw is made for every server, so that a change to one part leaves the others as they were.
    forms = {"fifo": _fifo(rng), "batching": _batching(rng)}
    spec, tags = forms[form], [form]
    pauses, pause = rng.random() < PAUSES_SHARE, _pause(rng)
    cold_start, cold = rng.random() < COLD_SHARE, _cold(rng)
    which = int(rng.random() / ODD_SHARE)
    if pauses:
        spec, tags = replace(spec, pause=pause), [*tags, "pauses"]
    if cold_start:
        spec, tags = replace(spec, cold=cold), [*tags, "cold"]
    if which < len(ODDITIES):
        oddity = ODDITIES[which]
        spec, tags = _ODD[oddity](rng, spec), [*tags, oddity]
    return Drawn(range_name, index, attempt, spec, tuple(tags))


def _fifo(rng: np.random.Generator) -> ServerSpec:
    return ServerSpec(
        workers=int(rng.integers(1, 7)),
        cost_item_s=_between(rng, 0.004, 0.011),
        lognormal_sigma=_between(rng, 0.2, 0.9),
    )


def _batching(rng: np.random.Generator) -> ServerSpec:
    return ServerSpec(
        batch_max=int(rng.integers(8, 33)),
        batch_wait_s=_between(rng, 0.001, 0.006),
        cost_base_s=_between(rng, 0.004, 0.012),
        cost_item_s=_between(rng, 0.0004, 0.0014),
    )


def _pause(rng: np.random.Generator) -> Pause:
    return Pause(_between(rng, 9, 25), _between(rng, 0.05, 0.09), jitter=_between(rng, 0.05, 0.4))


def _cold(rng: np.random.Generator) -> Cold:
    return Cold(_between(rng, 2, 5), _between(rng, 600, 3000))


def _shed(rng: np.random.Generator, spec: ServerSpec) -> ServerSpec:
    """Refuse what would wait for a third to one and a half of the limit, or one to three full batches."""
    held = spec.workers * LIMIT_S / spec.cost_item_s if spec.batch_max == 1 else 2.0 * spec.batch_max
    return replace(spec, queue_max=max(2, round(held * _between(rng, 0.35, 1.5))))


def _neighbour(rng: np.random.Generator, spec: ServerSpec) -> ServerSpec:
    slow = Neighbour(_between(rng, 1, 4), _between(rng, 8, 30), _between(rng, 1.15, 1.6))
    return replace(spec, neighbour=slow)


def _spikes(rng: np.random.Generator, spec: ServerSpec) -> ServerSpec:
    low_s = _between(rng, 0.08, 0.2)
    return replace(spec, spikes=Spikes(1 / _between(rng, 40, 150), low_s, _between(rng, 1.5, 3) * low_s))


def _heavy(rng: np.random.Generator, spec: ServerSpec) -> ServerSpec:
    """Sizes with a heavy tail, by a law or from a list, on cheaper items: the largest must fit the limit."""
    cheaper = replace(spec, cost_item_s=spec.cost_item_s * _between(rng, 0.35, 0.5))
    if rng.random() < 0.5:
        return replace(cheaper, lognormal_sigma=_between(rng, 1.2, 1.4))
    sizes = np.exp(rng.normal(-0.72, 1.2, 60)).round(3)
    return replace(cheaper, lognormal_sigma=None, sizes=tuple(sizes.tolist()))


def _overload(rng: np.random.Generator, spec: ServerSpec) -> ServerSpec:
    """Collapse once half to twice of what is served within the limit waits."""
    per_item_s = spec.cost_item_s + spec.cost_base_s / spec.batch_max
    held = spec.workers * LIMIT_S / per_item_s
    factor, recover_s = _between(rng, 1.2, 2.0), _between(rng, 0.3, 3.0)
    return replace(spec, overload=Overload(held * _between(rng, 0.6, 2.0), factor, recover_s))


_ODD: dict[str, Callable[[np.random.Generator, ServerSpec], ServerSpec]] = {
    "shed": _shed,
    "neighbour": _neighbour,
    "spikes": _spikes,
    "heavy": _heavy,
    "overload": _overload,
}


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform, rounded to six digits: a server can be typed in again."""
    return float(f"{rng.uniform(low, high):.6g}")
