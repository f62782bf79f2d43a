"""What a search knows so far: the evidence that still holds, how warm the server was, and what follows."""

from __future__ import annotations

import math

from pytest_capacity.search.beliefs import LOW, MIDDLE, Beliefs
from pytest_capacity.search.stage import Stage
from pytest_capacity.search.tail import Saturation
from pytest_capacity.search.warmup import LIKELY, WarmUp, is_warm
from pytest_capacity.search.weighing import is_doubted
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO
from pytest_capacity.stats.intervals import share_limits

IDLE = 0.4
"""A capacity of less than this share of the throughput under full load gives little work: what is slow for
want of warmth would stay so."""
IDLE_DOUBT = 0.03
"""The doubt about such a server's warmth that is borne."""
COLD_EXPONENT = 1.2
"""A server that takes a tenth longer for each request has 12 % less capacity: its limit does not stretch."""
MOST_BLUR = 0.06
"""A cold start that leaves the capacity open by more than this, as a standard deviation, was not followed far
enough."""
MOST_SLOWDOWN = 1.25
"""Windows of a server that was slower than this tell little of the one that it became."""


class Knowledge:
    """What stands in the windows of a stage under an SLO; ``update`` lets ``beliefs`` follow from it."""

    def __init__(self, slo: SLO, stage: Stage) -> None:
        self._slo, self._stage = slo, stage
        self.beliefs = Beliefs(slo)
        self.warm_up: WarmUp | None = None
        self.blur = 0.0
        self._warm_since = 0
        self._believed: tuple[WarmUp | None, list[Window]] = (None, [])

    def begin_anew(self) -> None:
        """Leave out all windows so far: they tell of another server than the one there is now."""
        self._warm_since = len(self._stage.windows)

    def evidence(self) -> list[Window]:
        """The windows that say something of the server as it now is."""
        return [
            window
            for window in self._stage.windows[self._warm_since :]
            if window.is_evidence and window.evidence.seconds > 0 and not is_doubted(window, self._slo)
        ]

    def update(self) -> None:
        """Let the beliefs follow from the evidence there is."""
        found = self.evidence()
        if found and self.warm_up is self._believed[0] and found == self._believed[1]:
            return
        self._believed = (self.warm_up, found)
        warm = [window for window in found if self._slowdown(window)[0] < math.log(MOST_SLOWDOWN)]
        if not warm and self.saturation is None:
            warm = found[-1:]
        for window in warm:
            window.slowdown = math.exp(self._slowdown(window)[0])
        # What is not known of the cold start moves all windows together.
        requests = [window.sent for window in warm]
        errors = [self._slowdown(window)[1] * window.sent for window in warm]
        self.blur = COLD_EXPONENT * sum(errors) / max(sum(requests), 1)
        self.beliefs.take(warm, self.saturation, self.blur)

    @property
    def is_steady(self) -> bool:
        """Whether the server got steady, and a cold start was followed to where it is known what it costs."""
        warm_up = self.warm_up
        if warm_up is None or warm_up.warmth is None:
            return warm_up is None or warm_up.steady
        # Little work cannot show much: a server that seems slow must be warm with little doubt.
        doubt = IDLE_DOUBT if self.is_idle else LIKELY
        return warm_up.steady and self.blur <= MOST_BLUR and is_warm(self._stage, warm_up.warmth, doubt)

    def _slowdown(self, window: Window) -> tuple[float, float]:
        """The logarithm of how much slower than in the end the server was then, and its deviation."""
        warmth = self.warm_up.warmth if self.warm_up else None
        return warmth.slowdown(window.requests_before + window.sent / 2) if warmth else (0.0, 0.0)

    @property
    def saturation(self) -> Saturation | None:
        """Where the server saturates, if the warm-up told."""
        return self.warm_up.saturation if self.warm_up else None

    def is_held(self, rate: float) -> bool:
        """Whether all windows at a rate together show, at 95 %, that every bound holds there."""
        windows = [window.counts() for window in self.evidence() if window.rate_qps >= 0.999 * rate]
        if not windows:
            return False
        for index, bound in enumerate(self._slo.bounds):
            counts = [counts[index] for counts in windows]
            total, bad = sum(count.total for count in counts), sum(count.bad for count in counts)
            effect = max((count.effect for count in counts), default=1.0)
            if share_limits(bad, total, effect, LOW)[1] > bound.allowed_share:
                return False
        return True

    @property
    def is_idle(self) -> bool:
        """Whether the capacity seems so far below what is served under full load that little is done."""
        if self.saturation is None or self.beliefs.is_empty:
            return False
        return self.beliefs.quantile(MIDDLE) < IDLE * self.saturation.qps

    def slower_now(self) -> float:
        """By what factor the server's capacity is still below that of the warm one."""
        warmth = self.warm_up.warmth if self.warm_up else None
        return math.exp(COLD_EXPONENT * warmth.slowdown(self._stage.requests)[0]) if warmth else 1.0
