"""Trying a target before any load: one request of each operation, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pytest_capacity.load.guard import REFUSED_CREDENTIALS
from pytest_capacity.measurement.waiting import unless_interrupted
from pytest_capacity.protocols import Encoded, Judgement, LoadSession, Outcome, Reply, Request, Target
from pytest_capacity.results.measured import PreflightReply
from pytest_capacity.slo import SLO, AnySLO

SMOKE_REQUESTS = 20


class PreflightFailed(Exception):
    """The target did not answer well before any load was sent; the message says how."""


@dataclass(frozen=True, slots=True)
class Leniency:
    """Which operations may fail their trial: what the load is to show then, a single reply need not.

    ``because`` holds why, by operation. Of the others those in ``shares`` may, as long as they are together
    no more than ``allowed_share`` of all requests.
    """

    because: Mapping[str, str]
    shares: Mapping[str, float]
    allowed_share: float = 0.0

    def excuses(self, operation: str, spent_share: float) -> str | None:
        """Why an operation may fail where so large a share of all requests has; None where it may not."""
        because = self.because.get(operation)
        share = self.shares.get(operation)
        if because is None and share is not None and spent_share + share <= self.allowed_share:
            return f"{share:.2g} of all requests, where {self.allowed_share:g} may fail"
        return because


STRICT = Leniency({}, {})


def leniency(slo: AnySLO, shares: Mapping[str, float], seen_failing: Collection[str]) -> Leniency:
    """Who may fail in recorded traffic of which each operation has a share.

    Those of which the recording saw no request go well, those that no bound judges, and those too rare for
    the error rate to be exceeded.
    """
    because = dict.fromkeys(seen_failing, "the recording saw it fail, too")
    if isinstance(slo, SLO):
        return Leniency(because, shares, slo.error_rate)
    unjudged = (name for name in shares if name not in slo.by_operation)
    return Leniency({**dict.fromkeys(unjudged, "no bound judges it"), **because}, {})


class Preflight:
    """Sends single requests and keeps what came of them in ``replies``; ``interrupted`` ends it.

    ``warnings`` tells which operations failed without ending it.
    """

    def __init__(
        self,
        target: Target,
        encoded: Encoded,
        interrupted: threading.Event | None,
        lenient: Leniency = STRICT,
    ) -> None:
        self._target, self._encoded, self._interrupted = target, encoded, interrupted
        self._leniency = lenient
        self._good = list(encoded.requests)
        self.replies: list[PreflightReply] = []
        self.warnings: list[str] = []

    def try_operations(self, session: LoadSession) -> None:
        """Send one request of each operation; raises PreflightFailed at the first bad reply that matters.

        Where none is good, or the server does not answer any more, even those that may fail matter.
        """
        first_of = {request.operation: request for request in reversed(self._encoded.requests)}
        spent_share, failed = 0.0, set()
        for operation in self._in_order(self._encoded.operations):
            reply = self._try_one(session, first_of[operation])
            if not reply.text:
                continue
            because = self._leniency.excuses(operation, spent_share)
            if because is None or reply.status in REFUSED_CREDENTIALS:
                raise _failed(reply)
            spent_share += 0.0 if operation in self._leniency.because else self._leniency.shares[operation]
            failed.add(operation)
            self.warnings.append(f"operation {operation!r} failed before the load: {reply.text} ({because})")
        self._good = [request for request in self._encoded.requests if request.operation not in failed]
        if not self._good:
            raise _failed(self.replies[0])
        if self.replies[-1].text and self.replies[-1].status is None:
            self._try_strictly(session, self._good[0])

    def smoke(self, session: LoadSession) -> None:
        """Send some requests of the operations that did not fail; raises PreflightFailed at a bad reply."""
        for number in range(SMOKE_REQUESTS):
            self._try_strictly(session, self._good[number % len(self._good)])

    def _in_order(self, operations: Sequence[str]) -> list[str]:
        """Those that may not fail first: of a server that is down one request is enough."""
        return sorted(operations, key=lambda name: self._leniency.excuses(name, 0.0) is not None)

    def _try_strictly(self, session: LoadSession, request: Request) -> None:
        reply = self._try_one(session, request)
        if reply.text:
            raise _failed(reply)

    def _try_one(self, session: LoadSession, request: Request) -> PreflightReply:
        started_s = session.now_s()
        reply, judgement = unless_interrupted(lambda: session.exchange(request), self._interrupted)
        text = "" if judgement.outcome is Outcome.GOOD else self._explain(reply, judgement, request)
        latency_ms = (session.now_s() - started_s) * 1000
        tried = PreflightReply(request.operation, reply.status if reply else None, latency_ms, text)
        self.replies.append(tried)
        return tried

    def _explain(self, reply: Reply | None, judgement: Judgement, request: Request) -> str:
        if reply is None:
            return f"no reply from {request.operation}: {judgement.reason}"
        text = self._target.explain(reply, request)
        # A bad status explains itself; what the user's check disliked does not stand in the reply.
        return f"{text} ({judgement.reason})" if judgement.outcome is Outcome.BAD_REPLY else text


def _failed(reply: PreflightReply) -> PreflightFailed:
    return PreflightFailed(f"{reply.text}. No load was sent.")
