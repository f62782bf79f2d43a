"""What ``pytest-capacity import`` answers: a recorded file made into a trace, or a trace exported."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_capacity.traffic.exports import EXPORTS, Exported
from pytest_capacity.traffic.importers.job import ImportOptions
from pytest_capacity.traffic.importing import Imported, compose, import_file


def answer(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[str]]:
    """Import: one document, the same in lines, and what to know besides.

    Raises TraceError, with file and line, for what cannot be imported, ValueError for options that make no
    sense, OSError for what cannot be read or written. Then nothing is written.
    """
    _check(options)
    if options.to:
        return _exported(EXPORTS[options.to](options.file, options.out))
    asked = import_options(options)
    if options.arrivals is None:
        return _imported(
            import_file(options.file, options.out, asked, format_name=options.format, name=options.name)
        )
    return _imported(
        compose(
            options.arrivals,
            options.payloads,
            options.out,
            asked,
            arrivals_format=options.format,
            payloads_format=options.payloads_format,
            name=options.name,
        )
    )


def import_options(options: argparse.Namespace) -> ImportOptions:
    """How a file is to be read; raises ValueError for a malformed ``--size`` or ``--sampling``."""
    sizes = {}
    for text in options.size:
        name, equals, column = text.partition("=")
        if not (name and equals and column):
            raise ValueError(f"--size {text}: give NAME=COLUMN, such as tokens_in=ContextTokens")
        sizes[name] = column
    if options.sampling is not None and not 0 < options.sampling <= 1:
        raise ValueError(f"--sampling {options.sampling:g} must be above 0 and at most 1")
    return ImportOptions(
        time_col=options.time_col,
        time_unit=options.time_unit,
        sizes=sizes,
        op_col=options.op_col,
        key_col=options.key_col,
        session_col=options.session_col,
        duration_col=options.duration_col,
        group_col=options.group_col,
        sampling=options.sampling,
        mixed_zones=options.mixed_zones,
        plain_keys=options.plain_keys,
        allow_cut=options.allow_cut,
    )


def _check(options: argparse.Namespace) -> None:
    if (options.arrivals is None) != (options.payloads is None):
        raise ValueError("--arrivals and --payloads go together")
    if (options.file is None) == (options.arrivals is None):
        raise ValueError("give a FILE to import, or --arrivals and --payloads")
    if options.to and options.file is None:
        raise ValueError("--to exports a trace: give it as FILE")


def _imported(found: Imported) -> tuple[dict[str, Any], list[str], list[str]]:
    header = found.header
    document: dict[str, Any] = {
        "rows": found.rows,
        "dropped": found.dropped,
        "out": str(found.path),
        "clock": header.clock,
        "resolution_s": header.resolution_s,
        "sampling": header.sampling,
    }
    if found.bodies_left_out:
        document["bodies_left_out"] = found.bodies_left_out
    if "composed" in header.extra:
        document["composed"] = header.extra["composed"]
    share = "unknown share" if header.sampling is None else f"{header.sampling * 100:g} %"
    lines = [
        f"{found.rows:,} rows of {found.format} -> {found.path}",
        f"  times of {header.clock}, resolution {header.resolution_s:g} s, sampling {share}",
    ]
    lines += [
        f"  dropped {count:,}: {reason}, first on line {found.first_dropped[reason]}"
        for reason, count in found.dropped.items()
    ]
    lines += [f"  {count:,} without their body: {reason}" for reason, count in found.bodies_left_out.items()]
    notes = [f"note: {text}" for text in found.notes]
    return document, lines, [*notes, *(f"warning: {text}" for text in found.warnings)]


def _exported(found: Exported) -> tuple[dict[str, Any], list[str], list[str]]:
    document = {"rows": found.rows, "dropped": found.dropped, "out": [str(path) for path in found.paths]}
    lines = [f"{found.rows:,} rows -> {', '.join(str(path) for path in found.paths)}"]
    lines += [f"  dropped {count:,}: {reason}" for reason, count in found.dropped.items()]
    return document, lines, [f"note: {text}" for text in found.notes]
