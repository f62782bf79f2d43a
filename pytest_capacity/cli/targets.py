"""The target that a command's options describe."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any


def make_target(options: argparse.Namespace) -> Any:
    """The HTTP target that the options describe; raises ValueError or OSError where they are wrong."""
    from pytest_capacity.targets.http import HttpTarget  # noqa: PLC0415 - --help needs none of it

    arguments: dict[str, Any] = {"method": options.method, "headers": read_headers(options)}
    if options.json_body is not None:
        try:
            arguments["json"] = json.loads(options.json_body.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"--json-body {options.json_body}: not JSON ({error})") from error
    if options.body is not None:
        arguments["body"] = options.body.read_bytes()
    return HttpTarget(options.url, timeout_s=options.timeout_s, **arguments)


def read_headers(options: argparse.Namespace) -> dict[str, str]:
    """The headers given, the bearer token among them; raises ValueError for a bad one."""
    headers = {}
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The value is not shown: it may be a credential.
            raise ValueError("--header must be 'Name: value'")
        headers[name.strip()] = value.strip()
    if options.bearer_env:
        token = os.environ.get(options.bearer_env)
        if not token:
            raise ValueError(f"--bearer-env: environment variable {options.bearer_env} is not set")
        headers["Authorization"] = f"Bearer {token}"
    return headers
