"""What a measured client process is asked to do, and what it answers: JSON both ways."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

WARM_TAG, TAG = 1, 2
"""Requests name in their path what they are for; 0 is for what is sent before any load."""

Kind = Literal["closed", "open", "memory", "switch", "sustain"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one engine; what a kind does not use is left as it is.

    ``columns`` is a file for the times of every request of the measured part, ``most_requests`` an end that
    comes before ``seconds`` are over. ``path`` is followed by the tag.
    """

    kind: Kind
    engine: str
    port: int
    seconds: float
    warm_s: float = 1.0
    workers: int = 1
    scheme: Literal["http", "https"] = "http"
    ca_file: str | None = None
    rate_qps: float = 0.0
    second_rate_qps: float = 0.0
    poisson: bool = False
    concurrency: int = 32
    max_in_flight: int = 1024
    most_requests: int = 0
    seed: int = 0
    columns: str = ""
    p99_ms: float = 0.0
    stall: bool = False

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/predict/"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        """Raises TypeError for a member that is none of a job's."""
        return Job(**json.loads(text))


Answer = dict[str, Any]
"""``begin_s`` and ``end_s`` by CLOCK_MONOTONIC enclose the measured part; ``not_there`` what is missing."""
