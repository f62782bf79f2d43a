"""Trying a target before any load: one request of each operation, one after the other."""

from __future__ import annotations

import threading

from pytest_capacity.measurement.waiting import unless_interrupted
from pytest_capacity.protocols import Encoded, Judgement, LoadSession, Outcome, Reply, Request, Target
from pytest_capacity.results.measured import PreflightReply

SMOKE_REQUESTS = 20


class PreflightFailed(Exception):
    """The target did not answer well before any load was sent; the message says how."""


class Preflight:
    """Sends single requests and keeps what came of them in ``replies``; ``interrupted`` ends it."""

    def __init__(self, target: Target, encoded: Encoded, interrupted: threading.Event | None) -> None:
        self._target, self._encoded, self._interrupted = target, encoded, interrupted
        self.replies: list[PreflightReply] = []

    def try_operations(self, session: LoadSession) -> None:
        """Send one request of each operation; raises PreflightFailed at the first bad reply."""
        first_of = {request.operation: request for request in reversed(self._encoded.requests)}
        for operation in self._encoded.operations:
            self._try_one(session, first_of[operation])

    def smoke(self, session: LoadSession) -> None:
        """Send some requests; raises PreflightFailed at the first bad reply."""
        for number in range(SMOKE_REQUESTS):
            self._try_one(session, self._encoded.requests[number % len(self._encoded.requests)])

    def _try_one(self, session: LoadSession, request: Request) -> None:
        started_s = session.now_s()
        reply, judgement = unless_interrupted(lambda: session.exchange(request), self._interrupted)
        text = "" if judgement.outcome is Outcome.GOOD else self._explain(reply, judgement, request)
        latency_ms = (session.now_s() - started_s) * 1000
        self.replies.append(
            PreflightReply(request.operation, reply.status if reply else None, latency_ms, text)
        )
        if text:
            raise PreflightFailed(f"{text}. No load was sent.")

    def _explain(self, reply: Reply | None, judgement: Judgement, request: Request) -> str:
        if reply is None:
            return f"no reply from {request.operation}: {judgement.reason}"
        text = self._target.explain(reply, request)
        # A bad status explains itself; what the user's check disliked does not stand in the reply.
        return f"{text} ({judgement.reason})" if judgement.outcome is Outcome.BAD_REPLY else text
