"""The generator's health over a whole probe, of which an engine tells each part that was played by itself."""

from __future__ import annotations

from dataclasses import replace

from pytest_capacity.protocols import Health


class Healths:
    """Joins what is told of the parts of one probe; ``now`` is the probe's health so far."""

    def __init__(self) -> None:
        self.now = Health()
        self._before = Health()

    def tell(self, health: Health) -> None:
        """Take what an engine tells of the present part."""
        self.now = joined(self._before, health)

    def end_era(self) -> None:
        """Another part of the same probe begins, of which the engine tells from nothing."""
        self._before = self.now

    def begin(self) -> None:
        """Another probe begins."""
        self._before = Health()


def joined(before: Health, health: Health) -> Health:
    """The health of two parts of a probe; what others took of the processor is the later part's, or more."""
    if not before.wall_s:
        return health
    return replace(
        health,
        not_sent=before.not_sent + health.not_sent,
        loop_stall_s=max(before.loop_stall_s, health.loop_stall_s),
        cpu_s=before.cpu_s + health.cpu_s,
        wall_s=before.wall_s + health.wall_s,
        gc_collections=before.gc_collections + health.gc_collections,
        connection_waits=before.connection_waits + health.connection_waits,
        spin_s=before.spin_s + health.spin_s,
        throttled_s=before.throttled_s + health.throttled_s,
        steal_share=max(before.steal_share, health.steal_share),
        foreign_share=max(before.foreign_share, health.foreign_share),
    )
