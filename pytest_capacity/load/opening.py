"""What any engine refuses to open."""

from __future__ import annotations

from pytest_capacity.protocols import Encoded


def check_openable(encoded: Encoded, max_in_flight: int) -> None:
    """Raises ValueError for an endpoint without addresses, no request, or no request in flight."""
    if not encoded.endpoint.addresses and encoded.endpoint.unix_path is None:
        raise ValueError("the endpoint has no addresses; resolve and check it first (load.guard)")
    if not encoded.requests or max_in_flight < 1:
        raise ValueError("an engine needs at least one request and max_in_flight of at least 1")
