"""An encoded target, a request and a reply as documents and bytes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy

from pytest_capacity.protocols import Encoded, Endpoint, Judge, Judgement, Outcome, Reply, Request


def encoded_to_document(encoded: Encoded) -> tuple[dict[str, Any], list[bytes]]:
    """What a worker needs of an encoded target; bodies follow each other as bytes.

    Raises TypeError for a check that is an object: another process cannot have it.
    """
    if encoded.judge.check is not None and not isinstance(encoded.judge.check, str):
        raise TypeError("a check without an importable name cannot be sent to another process")
    document = {
        "endpoint": asdict(encoded.endpoint),
        "judge": {
            "function": encoded.judge.function,
            "settings": dict(encoded.judge.settings),
            "check": encoded.judge.check,
            "by_status": encoded.judge.by_status,
        },
        "timeout_s": encoded.timeout_s,
        "stream": encoded.stream,
        "requests": [_request_to_list(request) for request in encoded.requests],
    }
    return document, [request.body for request in encoded.requests]


def encoded_from_document(document: Mapping[str, Any], bodies: bytes) -> Encoded:
    """The encoded target as it was, without the callable that refreshes its headers."""
    endpoint = dict(document["endpoint"])
    endpoint["addresses"] = tuple(endpoint["addresses"])
    return Encoded(
        endpoint=Endpoint(**endpoint),
        requests=tuple(requests_from(document["requests"], bodies)),
        judge=Judge(**document["judge"]),
        timeout_s=document["timeout_s"],
        stream=document["stream"],
    )


def requests_from(listed: Sequence[Sequence[Any]], bodies: bytes) -> list[Request]:
    """Requests whose bodies follow each other."""
    requests = []
    start = 0
    for one in listed:
        end = start + one[4]
        requests.append(request_from(one, bodies[start:end]))
        start = end
    return requests


def request_to_document(request: Request) -> list[Any]:
    """A request without its body, whose length comes last."""
    return _request_to_list(request)


def request_from(listed: Sequence[Any], body: bytes) -> Request:
    """A request as it was."""
    operation, method, path, headers, _ = listed
    return Request(operation, method, path, tuple((name, value) for name, value in headers), body)


def _request_to_list(request: Request) -> list[Any]:
    return [request.operation, request.method, request.path, list(request.headers), len(request.body)]


def answer_to_document(reply: Reply | None, judgement: Judgement) -> dict[str, Any]:
    """The answer to one exchange without the reply's body."""
    return {
        "outcome": int(judgement.outcome),
        "reason": judgement.reason,
        "status": None if reply is None else reply.status,
        "headers": [] if reply is None else list(reply.headers.items()),
        "to_head": reply is not None and reply.to_head,
    }


def answer_from(document: Mapping[str, Any], body: bytes) -> tuple[Reply | None, Judgement]:
    """The answer as it was."""
    judgement = Judgement(Outcome(document["outcome"]), document["reason"])
    if document["status"] is None:
        return None, judgement
    headers: CIMultiDict[str] = CIMultiDict([(name, value) for name, value in document["headers"]])
    reply = Reply(document["status"], CIMultiDictProxy(headers), body, to_head=document["to_head"])
    return reply, judgement
