"""What sends requests over the network: each engine's own way."""

from __future__ import annotations

from pytest_capacity.load.fast_sender import FastSender
from pytest_capacity.load.sending import MakeSender


def maker_of(name: str) -> MakeSender:
    """What makes the sender of the engine of that name. Raises ValueError for a name that none has."""
    if name == "fast":
        return FastSender
    if name == "aiohttp":
        # A worker of the other engine is ready a quarter of a second sooner without it.
        from pytest_capacity.load.aiohttp_sender import AiohttpSender  # noqa: PLC0415

        return AiohttpSender
    raise ValueError(f"no engine is called {name!r}")


def needs_collections(name: str) -> bool:
    """Whether requests leave behind what only a garbage collection frees: failed ones of aiohttp do."""
    return name == "aiohttp"
