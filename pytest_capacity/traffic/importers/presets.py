"""Headers of public data sets and of inference tables, so that their columns need not be spelt out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_capacity.traffic.times import Unit


@dataclass(frozen=True)
class Columns:
    """Which column is what. ``duration`` is taken from the time to get the arrival, ``latency`` is only kept.

    Records with one ``group`` are one request with so many items. ``sampled`` says that the recording is
    known to be a sample of unknown share; ``note`` is told to the user.
    """

    time: str | None = None
    unit: Unit | None = None
    duration: str | None = None
    latency: str | None = None
    op: str | None = None
    key: str | None = None
    session: str | None = None
    id: str | None = None
    method: str | None = None
    path: str | None = None
    status: str | None = None
    body: str | None = None
    sampling: str | None = None
    group: str | None = None
    sizes: Mapping[str, str] = field(default_factory=dict)
    sampled: bool = False
    note: str = ""

    def replaced(self, **given: Any) -> Columns:
        """With the columns that are given, None meaning not given."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


AZURE_LLM = Columns(
    time="TIMESTAMP", unit="iso", sizes={"tokens_in": "ContextTokens", "tokens_out": "GeneratedTokens"}
)
BURSTGPT = Columns(
    time="Timestamp",
    unit="s",
    op="Model",
    sizes={"tokens_in": "Request tokens", "tokens_out": "Response tokens"},
)
BURSTGPT_SESSIONS = replace(BURSTGPT, session="Session ID")
AZURE_FUNCTIONS = Columns(time="end_timestamp", unit="s", duration="duration", op="func")
NASA_HTTP = Columns(
    time="time",
    unit="s",
    op="method",
    method="method",
    path="url",
    key="url",
    session="host",
    status="response",
)
DATABRICKS_SERVING = Columns(
    time="timestamp_ms",
    unit="ms",
    latency="execution_time_ms",
    id="databricks_request_id",
    status="status_code",
    body="request",
    sampling="sampling_fraction",
)
DATABRICKS_GATEWAY = replace(
    DATABRICKS_SERVING, time="request_time", unit=None, latency="execution_duration_ms"
)
OPEN_BANDIT = Columns(
    time="timestamp",
    unit="iso",
    key="item_id",
    sampled=True,
    note="Open Bandit's small files are a sample: burstiness and cache reuse are thinned away",
)
ONLINE_RETAIL = Columns(
    time="InvoiceDate", unit="iso", group="InvoiceNo", key="CustomerID", sizes={"pieces": "Quantity"}
)

_DATABRICKS = {"databricks_request_id", "status_code", "request", "sampling_fraction"}

# The more telling header first: one may contain another.
_KNOWN: tuple[tuple[set[str], Columns], ...] = (
    ({"TIMESTAMP", "ContextTokens", "GeneratedTokens"}, AZURE_LLM),
    ({"Timestamp", "Session ID", "Model", "Request tokens", "Response tokens"}, BURSTGPT_SESSIONS),
    ({"Timestamp", "Model", "Request tokens", "Response tokens"}, BURSTGPT),
    ({"app", "func", "end_timestamp", "duration"}, AZURE_FUNCTIONS),
    ({"host", "time", "method", "url", "response", "bytes"}, NASA_HTTP),
    (_DATABRICKS | {"timestamp_ms", "execution_time_ms"}, DATABRICKS_SERVING),
    (_DATABRICKS | {"request_time", "execution_duration_ms"}, DATABRICKS_GATEWAY),
    ({"timestamp", "item_id", "position", "click", "propensity_score"}, OPEN_BANDIT),
    ({"InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "CustomerID"}, ONLINE_RETAIL),
)


def preset_for(names: Collection[str]) -> Columns | None:
    """The columns of a table whose header is known, None for any other."""
    return next((columns for telling, columns in _KNOWN if telling <= set(names)), None)
