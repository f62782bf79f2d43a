"""What any engine refuses to open."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_capacity.load.sending import operation_numbers
from pytest_capacity.load.wire import head_of
from pytest_capacity.protocols import Encoded, Request


def check_openable(encoded: Encoded, max_in_flight: int) -> None:
    """Raises ValueError for an endpoint without addresses, no request, or no request in flight."""
    if not encoded.endpoint.addresses and encoded.endpoint.unix_path is None:
        raise ValueError("the endpoint has no addresses; resolve and check it first (load.guard)")
    if not encoded.requests or max_in_flight < 1:
        raise ValueError("an engine needs at least one request and max_in_flight of at least 1")


def check_requests(encoded: Encoded, requests: Sequence[Request]) -> None:
    """Raises ValueError for a request that cannot be written, or of an operation that is not known."""
    operation_numbers(encoded, requests)
    for request in requests:
        head_of(request, "", {})
