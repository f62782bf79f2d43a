"""How HTTP replies are judged, and what a server's complaint says in one line."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from pytest_capacity.protocols import GOOD, Json, Judgement, Outcome, Reply

REASON_CHARACTERS = 200
"""A reason is read in one line of a terminal or a table."""

PARSED_BYTES = 65_536
"""A longer error page is not worth the parsing: this runs between two sends."""

BODILESS_STATUSES = frozenset({204, 205, 304})


def judge_reply(
    reply: Reply, settings: Mapping[str, Json], check: Callable[[Reply], object] | None
) -> Judgement:
    """Judge a reply by its status, then by the user's check.

    ``settings["good_statuses"]`` lists the good statuses; without it they are 200 to 299. A good status with
    an empty body is a bad reply unless the status or a HEAD has none, ``settings["empty_is_good"]`` is true,
    or a check says otherwise: a model that answers nothing has not answered. ``check`` passes a reply with
    True or None, refuses it with False or a string saying why; what it raises is the reason too.
    """
    if not _good_status(reply.status, settings.get("good_statuses")):
        said = server_says(reply)
        return Judgement(Outcome.BAD_STATUS, f"status {reply.status}" + (f": {said}" if said else ""))
    if check is not None:
        return _checked(reply, check)
    has_none = reply.status in BODILESS_STATUSES or reply.to_head or settings.get("empty_is_good")
    if not reply.body and not has_none:
        return Judgement(
            Outcome.BAD_REPLY,
            f"status {reply.status} with an empty body (if that is a good answer, pass a check that says so)",
        )
    return GOOD


def _good_status(status: int, good_statuses: Json) -> bool:
    if isinstance(good_statuses, (list, tuple)):
        return status in good_statuses
    return 200 <= status <= 299


def _checked(reply: Reply, check: Callable[[Reply], object]) -> Judgement:
    try:
        answer = check(reply)
        good = answer is None or (not isinstance(answer, str) and bool(answer))
    except Exception as error:  # noqa: BLE001 - whatever the user's check raises is its verdict on the reply
        return Judgement(Outcome.BAD_REPLY, one_line(f"the check raised {type(error).__name__}: {error}"))
    if good:
        return GOOD
    reason = answer if isinstance(answer, str) and answer else f"the check {name_of(check)} refused the reply"
    return Judgement(Outcome.BAD_REPLY, one_line(reason))


def server_says(reply: Reply) -> str:
    """The server's own reason in one line, empty where it gave none.

    Understands FastAPI's and pydantic's lists of errors, an ``error``, ``message``, ``detail`` or ``title``
    in JSON, the title of an HTML page, and plain text.
    """
    body = reply.body[:PARSED_BYTES]
    text = body.decode("utf-8", "replace").strip()
    if not text:
        return ""
    if text[0] in "{[" and len(body) == len(reply.body):
        try:
            return one_line(_from_json(json.loads(text)) or text)
        except (ValueError, RecursionError):
            return one_line(text)
    title = re.search(r"<(title|h1)[^>]*>(.*?)</\1>", text, re.IGNORECASE | re.DOTALL)
    if title:
        return one_line(html.unescape(title[2]))
    if text.startswith("<"):
        return one_line(html.unescape(re.sub(r"<[^>]*>", " ", text)))
    return one_line(text)


def _from_json(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_from_json, value[:3])))
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("msg"), str) and isinstance(value.get("loc"), list):
        return _from_pydantic(value)
    for key in ("detail", "error", "message", "msg", "reason", "title", "errors"):
        if key in value and (found := _from_json(value[key])):
            return found
    return ""


def _from_pydantic(error: dict[str, Any]) -> str:
    """One entry of FastAPI's 422: ``{"loc": ["body", "items"], "msg": "Field required"}``."""
    place = ".".join(str(part) for part in error["loc"] if part != "body")
    message: str = error["msg"]
    if message.lower() in {"field required", "missing"}:
        return f"field '{place}' required" if place else "a body is required"
    return f"{place}: {message}" if place else message


def one_line(text: str) -> str:
    """``text`` without control characters, on one line, cut to some 200 characters."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= REASON_CHARACTERS else plain[: REASON_CHARACTERS - 3] + "..."


def name_of(function: Callable[..., object]) -> str:
    """A function as ``module:qualname``, for people."""
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{module}:{qualname}" if module else qualname


def by_name_or_object(check: Callable[[Reply], object] | None) -> Callable[[Reply], object] | str | None:
    """``"module:name"`` where importing that gives the very same function in any process, else ``check``.

    Functions of ``__main__`` stay objects: another process has another ``__main__``.
    """
    if not isinstance(check, FunctionType):
        return check
    module, name = check.__module__, check.__qualname__
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not check:
        return check
    return f"{module}:{name}"
