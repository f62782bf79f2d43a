"""What ``pytest-capacity calibrate`` does: fit a model to a trace, store it, tell how close it comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.calibration import calibrate
from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.fidelity import (
    Statistic,
    as_json,
    as_lines,
    fidelity,
    judged_enough,
    not_judged,
    within_tolerance,
)
from pytest_capacity.traffic.generation import generate
from pytest_capacity.traffic.pattern import observe
from pytest_capacity.traffic.workload import as_text, write_text
from pytest_capacity.traffic.workload_reading import parse_workload

OUTSIDE, NOT_JUDGED, TOO_FEW = "outside its tolerance", "not judged", "too few values"
"""How notes begin on a statistic that is outside, on some that were not judged, on most that were not."""

MOST_NAMED = 5
"""So many statistics are named in a note."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One JSON document, the same in lines for people, and whether the model was shown to be close.

    It was where no statistic is outside its tolerance and enough of them could be judged.
    """

    document: dict[str, Json]
    lines: list[str]
    within_tolerance: bool


def calibrate_file(trace: Path, out: Path, seed: int = 0, *, spread: bool = True) -> Calibrated:
    """Fit a model to a trace, write it to ``out``, and compare a cycle generated from it with the trace.

    What a coarse clock put together is spread within its tick first, unless ``spread`` is False.

    Raises TraceError, with file and line, for a bad trace, ValueError for a negative seed, OSError where a
    file cannot be read or written; ``out`` is then as it was before.
    """
    if seed < 0:
        raise ValueError(f"--seed {seed} must be 0 or more")
    recording = load_recording(trace)
    header = recording.header
    observed = observe(recording, spread=spread, seed=seed)
    text = as_text(
        calibrate(
            observed.traffic,
            seed=seed,
            name=header.name,
            class_=header.class_,
            tick_s=observed.tick_s,
            notes=observed.warnings,
        )
    )
    # What is judged is the model as a reader of the file has it.
    model = parse_workload(text)
    vector = fidelity(observed.traffic, generate(model, seed))
    # Whoever replays the model has to know, and may not have the recording.
    text = as_text(replace(model, notes=(*model.notes, *notes_on(vector))))
    write_text(out, text)
    good = within_tolerance(vector) and judged_enough(vector)
    document: dict[str, Json] = {
        "out": str(out),
        "bytes": len(text.encode("utf-8")),
        "rows": len(recording),
        "mean_qps": observed.traffic.rate_qps,
        "clock": header.clock,
        "resolution_s": header.resolution_s,
        "spread_within_s": observed.tick_s,
        "sampling": header.sampling,
        "seed": seed,
        "within_tolerance": good,
        "not_judged": len(not_judged(vector)),
        "fidelity": as_json(vector),
        "warnings": list(observed.warnings),
    }
    return Calibrated(document, _lines(document, vector, observed.warnings), good)


def notes_on(vector: Sequence[Statistic]) -> list[str]:
    """What a model's file says of the statistics that are outside their tolerance, or were not judged."""
    notes = [f"{OUTSIDE}: {one.name}" for one in vector if one.ok is False]
    unknown = [one.name for one in not_judged(vector)]
    if not judged_enough(vector):
        known = sum(one.ok is not None for one in vector)
        notes.append(f"{TOO_FEW}: {len(unknown)} of {len(unknown) + known} statistics could not be judged")
    elif unknown:
        notes.append(f"{NOT_JUDGED}: {', '.join(unknown[:MOST_NAMED])}{_more(len(unknown) - MOST_NAMED)}")
    return notes


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _lines(document: dict[str, Json], vector: tuple[Statistic, ...], warnings: Iterable[str]) -> list[str]:
    lines = [
        f"{document['rows']:,} requests at {document['mean_qps']:.4g}/s, seed {document['seed']}",
        *as_lines(vector),
    ]
    lines += [f"warning: {warning}" for warning in warnings]
    return [*lines, f"{_in_short(vector)}; wrote {document['out']} ({document['bytes']:,} bytes)"]


def _in_short(vector: tuple[Statistic, ...]) -> str:
    outside = sum(one.ok is False for one in vector)
    if outside:
        return f"{outside} of {len(vector)} outside their tolerance"
    if not not_judged(vector):
        return "all within tolerance"
    judged = sum(one.ok is True for one in vector)
    why = "their notes say why" if judged_enough(vector) else TOO_FEW
    return f"{judged} within their tolerances, {len(vector) - judged} could not be judged ({why})"
