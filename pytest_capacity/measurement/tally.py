"""A probe as it was played; its requests are counted as they are told, and not all again at each look."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pytest_capacity.load.vitals import LatenessBins
from pytest_capacity.protocols import Health, Outcome, Probe, Samples


@dataclass
class ProbeTally:
    """Counts of one probe; ``late`` holds by how much its requests left late."""

    not_sent: int = 0
    gave_up: int = 0
    late: LatenessBins = field(default_factory=LatenessBins)

    @property
    def sent(self) -> int:
        """How many requests left: those told as sent and then as not sent never did."""
        return self.late.sent - self.gave_up

    def add(self, samples: Samples, left: npt.NDArray[np.bool_], start_s: float, end_s: float) -> None:
        """Take in what was told of the requests due from ``start_s`` to before ``end_s``.

        ``left`` says of each row whether it had been told as sent before.
        """
        ours = (samples.intended_s >= start_s) & (samples.intended_s < end_s)
        kept_back = ours & (samples.outcome == Outcome.NOT_SENT)
        self.not_sent += int(np.count_nonzero(kept_back))
        sent = ours & (samples.outcome == Outcome.PENDING)
        self.late.add(samples.sent_s[sent] - samples.intended_s[sent])
        told = left[kept_back] | np.isin(samples.row[kept_back], samples.row[sent])
        self.gave_up += int(np.count_nonzero(told))

    def health(self, of: Health, *, closed: bool, late_by_s: float) -> Health:
        """The generator's health with this probe's own counts."""
        # A closed loop has no schedule to be late for.
        late = LatenessBins() if closed else self.late
        return replace(
            of,
            late_p50_s=late.quantile(0.5),
            late_p99_s=late.quantile(0.99),
            late_max_s=late.max_s,
            late_share=late.share_above(late_by_s),
            not_sent=self.not_sent,
        )


@dataclass
class ProbeLog:
    """A probe as it was played, in seconds of load; ``told`` once the controller knows all its requests.

    The rows planned for it are numbered from ``first_row`` on.
    """

    probe: Probe
    start_s: float
    first_row: int = 0
    end_s: float | None = None
    told: bool = False
    tally: ProbeTally = field(default_factory=ProbeTally)
