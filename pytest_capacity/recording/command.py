"""The command ``pytest-capacity record``: its options, and what they ask for."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, TextIO

from pytest_capacity.recording.options import BODIES, RecordingOptions
from pytest_capacity.recording.upstream import Upstream, parse_upstream

_KILOBYTE, _MEGABYTE = 1_000, 1_000_000
_HERE = frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = command.add_argument
    add("--upstream", required=True, metavar="URL", help="the server: http://HOST:PORT or https://HOST:PORT")
    add("--listen", required=True, type=int, metavar="PORT", help="where clients ask instead; 0: a free port")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--out", required=True, type=Path, metavar="FILE", help="NAME.trace.jsonl, or NAME.trace.jsonl.gz")
    add("--seconds", type=float, help="for how long (until Ctrl-C or SIGTERM)")
    add("--json", action="store_true", help="print the summary as one JSON document, and nothing else")
    _add_proxy_options(command)
    _add_content_options(command)
    _add_size_options(command)


def record(options: argparse.Namespace, out: TextIO, err: TextIO) -> int:
    """Record until told to stop, and print a summary.

    Returns 0, or 1 where the recording could not be written to its end. Raises ValueError for options that
    cannot be, and OSError where the port is taken or the file cannot be made.
    """
    upstream = parse_upstream(options.upstream)
    _check(options, upstream)
    recording = recording_options(options)
    from pytest_capacity.recording.serving import serve  # noqa: PLC0415 - --help needs no aiohttp

    summary = serve(options, upstream, recording, lambda text: print(text, file=err, flush=True))
    print("\n".join(summary.lines()), file=err if options.json else out)
    if options.json:
        print(json.dumps(summary.document(), indent=1), file=out)
    return 1 if summary.failed else 0


def recording_options(options: argparse.Namespace) -> RecordingOptions:
    """What to keep, from the options; raises ValueError for what contradicts itself."""
    operations = [one.partition("=")[::2] for one in options.op]
    if any(not name or not pattern for name, pattern in operations):
        raise ValueError("--op must be NAME=PATTERN, as in rank=/v2/models/rank/*")
    return RecordingOptions(
        name=options.name,
        model_class=options.model_class,
        sample=options.sample,
        key_fields=tuple(options.key_field),
        session_field=options.session_field,
        session_header=options.session_header,
        drop_fields=tuple(options.drop_field),
        hash_fields=tuple(options.hash_field),
        keep_headers=tuple(options.keep_header),
        ignore=tuple(options.ignore),
        operations=tuple(operations),
        bodies=options.bodies,
        max_body_bytes=int(options.max_body_kb * _KILOBYTE),
        reference_bytes=int(options.reference_kb * _KILOBYTE),
        rotate_bytes=_megabytes(options.rotate_mb, "--rotate-mb"),
        max_bytes=_megabytes(options.max_mb, "--max-mb"),
        hold_s=options.hold_s,
    )


def _check(options: argparse.Namespace, upstream: Upstream) -> None:
    if not 0 <= options.listen < 2**16:
        raise ValueError(f"--listen {options.listen} is no port")
    if upstream.port == options.listen and upstream.host in _HERE and options.host in _HERE:
        raise ValueError("--upstream and --listen are the same port: the proxy would ask itself")
    for name in ("timeout_s", "grace_s", "hold_s", "max_body_kb", "reference_kb", "seconds"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--{name.replace('_', '-')} {value} must be 0 or more")
    if not options.timeout_s:
        raise ValueError("--timeout-s must be above 0")


def _megabytes(value: float | None, name: str) -> int | None:
    if value is None:
        return None
    if not (math.isfinite(value) and value * _MEGABYTE >= 1):
        raise ValueError(f"{name} {value} must be above 0")
    return int(value * _MEGABYTE)


def _add_proxy_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("proxy").add_argument
    add("--timeout-s", type=float, default=300.0, help="how long the upstream may say nothing (300)")
    add(
        "--host-header",
        choices=("client", "upstream"),
        help="whose name the upstream is asked by (client's for http, its own for https)",
    )
    add("--no-verify-tls", action="store_true", help="accept any certificate of the upstream")
    add("--grace-s", type=float, default=10.0, help="how long replies may take to end at the stop (10)")


def _add_content_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "what is kept",
        "Credentials in headers, queries and fields are always left out. FIELD is a name, or the end of a "
        "path such as user.id, in JSON bodies, forms and queries.",
    )
    add = group.add_argument
    many: dict[str, Any] = {"action": "append", "default": []}
    add("--name", help="the trace's name (the file's)")
    add("--class", dest="model_class", metavar="CLASS", help="the kind of model, such as ranking")
    add("--op", metavar="NAME=PATTERN", help="name the operation of these paths", **many)
    add("--ignore", metavar="PATTERN", help="do not record these paths, such as /healthz", **many)
    add("--key-field", metavar="FIELD", help="what caches are keyed by; noted as a salted hash", **many)
    add("--session-field", metavar="FIELD", help="what tells sessions apart; noted as a salted hash")
    add("--session-header", metavar="NAME", help="the same, a header; it may be a credential")
    add("--drop-field", metavar="FIELD", help="leave out of what is kept", **many)
    add("--hash-field", metavar="FIELD", help="replace by a salted hash of the same type", **many)
    add("--keep-header", metavar="NAME", help="keep a header that is no credential", **many)
    add("--bodies", choices=BODIES, default="all", help="json: only those whose fields can be redacted (all)")


def _add_size_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("how much is kept").add_argument
    add("--sample", type=float, default=1.0, metavar="SHARE", help="of sessions, or of requests without (1)")
    add("--max-mb", type=float, metavar="MB", help="stop recording at this size in all; proxying goes on")
    add("--rotate-mb", type=float, metavar="MB", help="begin another file at this size")
    add("--max-body-kb", type=float, default=1_000.0, metavar="KB", help="leave larger bodies out (1000)")
    add(
        "--reference-kb",
        type=float,
        default=64.0,
        metavar="KB",
        help="store larger bodies beside the trace, each once (64)",
    )
    add(
        "--hold-s",
        type=float,
        default=60.0,
        help="how long a request that goes on may hold back those after it, which a kill (not a signal to "
        "stop) loses: rows are written in the order of arrival (60)",
    )
