"""Making a target of what ``capacity_target`` returns."""

from __future__ import annotations

from typing import cast

from pytest_capacity.protocols import Target
from pytest_capacity.targets.http import HttpTarget


def as_target(value: object) -> Target:
    """The target that ``value`` is or names: a URL becomes an HttpTarget.

    Raises ValueError for a URL that cannot be loaded, TypeError for anything that is neither.
    """
    if isinstance(value, str):
        return HttpTarget(value)
    if not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("encode", "describe", "explain")
    ):
        # bytes and str have an encode of their own, but no describe.
        return cast("Target", value)
    hint = "; create one, as in HttpTarget(url)" if isinstance(value, type) else ""
    raise TypeError(
        "a capacity target is a URL such as 'http://127.0.0.1:8000/predict' or an HttpTarget, "
        f"not {value!r:.80}{hint}"
    )
