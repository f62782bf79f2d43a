"""Climb the ladder: ``python -m benchmarks.ladder``.

For each class of servers and each rung: by how much the capacity found so differs from that under replayed
traffic. All on paper, from public traces: some minutes on one core.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.ladder import recordings
from benchmarks.ladder.measuring import ClassResult, Error, measure
from benchmarks.ladder.rungs import NAMES, RUNGS
from benchmarks.ladder.servers import BySize, EmbeddingCache, PrefixCache, WorkModel
from pytest_capacity.traffic.pattern import Traffic

NAIVE_LEAST, NAIVE_CLASSES = 0.2, 3
CALIBRATED_MOST, CALIBRATED_MEDIAN = 0.06, 0.03
PREFIX_TOKENS, EMBEDDINGS = 5_120_000, 100


@dataclass(frozen=True)
class ServerClass:
    """A class of models: its recording, its server, and whether the bars are about it."""

    read: Callable[[Path], Traffic]
    make_model: Callable[[Traffic], WorkModel]
    slots: int
    counts: bool = True


def _by_size(unit: str) -> Callable[[Traffic], WorkModel]:
    return lambda recorded: BySize(unit, float(recorded.sizes[unit].mean()))


CLASSES = {
    "ranking": ServerClass(recordings.retail_baskets, _by_size("items"), 4),
    "recommendation": ServerClass(recordings.nasa_pages, lambda _: EmbeddingCache(EMBEDDINGS), 4),
    "nlp": ServerClass(
        recordings.mooncake_conversations,
        lambda recorded: PrefixCache(PREFIX_TOKENS, float(recorded.sizes["tokens_in"].mean())),
        4,
    ),
    "vision": ServerClass(recordings.images, _by_size("image_tokens"), 4),
    "azure-conv": ServerClass(
        lambda folder: recordings.azure_tokens(folder, "conv"), _by_size("tokens_in"), 4, counts=False
    ),
    "azure-code": ServerClass(
        lambda folder: recordings.azure_tokens(folder, "code"), _by_size("tokens_in"), 16, counts=False
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print tables or JSON; 1 where a bar is missed, 2 where the traces are not there."""
    options = _parser().parse_args(arguments)
    if not options.traces.is_dir():
        print(f"no traces in {options.traces}: the ladder needs the recordings", file=sys.stderr)
        return 2
    results = []
    for name in options.classes:
        chosen = CLASSES[name]
        recorded = chosen.read(options.traces)
        result = measure(
            name,
            recorded,
            functools.partial(chosen.make_model, recorded),
            chosen.slots,
            rungs=options.rungs,
            seeds=options.seeds,
        )
        results.append(result)
        if not options.json:
            print(table_of(result), flush=True)
    bars = bars_of([result for result in results if CLASSES[result.name].counts])
    if options.json:
        print(json.dumps({"classes": [asdict(result) for result in results], "bars": bars}, indent=1))
    else:
        print("\n".join(f"{'met   ' if met else 'MISSED'} {text}" for text, met in bars.items()))
    return int(not all(bars.values()))


def table_of(result: ClassResult) -> str:
    """A class in lines."""
    recorded = f"{result.requests:,} requests recorded at {result.recorded_qps:.4g}/s"
    found = f"capacity {result.capacity_qps:.4g}/s, transfer error {result.transfer:+.1%}"
    lines = [f"{result.name}: {recorded}; {found}"]
    lines += [
        f"  {error.rung}  {error.error:+8.1%}  ({error.low:+.1%} to {error.high:+.1%})  {NAMES[error.rung]}"
        for error in result.errors
    ]
    return "\n".join(lines)


def bars_of(results: Sequence[ClassResult]) -> dict[str, bool]:
    """What is asked of the ladder, and whether it holds."""
    bars = {}
    for name in ("L0", "L1"):
        errors = _errors(results, name)
        if errors:
            wrong = sum(abs(error.error) >= NAIVE_LEAST for error in errors)
            text = f"{name} errs by {NAIVE_LEAST:.0%} or more in {wrong} of {len(errors)} classes"
            bars[f"{text} ({NAIVE_CLASSES} asked)"] = wrong >= NAIVE_CLASSES
    for name in ("L4", "L5"):
        errors = _errors(results, name)
        sizes = [abs(error.error) for error in errors]
        if sizes:
            far = float(np.abs([[error.low, error.high] for error in errors]).max())
            text = f"{name} errs by {far:.1%} at most at the end of an interval"
            bars[f"{text} ({CALIBRATED_MOST:.0%} allowed)"] = far <= CALIBRATED_MOST
            worst, median = max(sizes), float(np.median(sizes))
            bars[f"{name} errs by {worst:.1%} at most ({CALIBRATED_MOST:.0%} allowed)"] = (
                worst <= CALIBRATED_MOST
            )
            bars[f"{name} errs by {median:.1%} at the median ({CALIBRATED_MEDIAN:.0%} allowed)"] = (
                median <= CALIBRATED_MEDIAN
            )
    return bars


def _errors(results: Sequence[ClassResult], name: str) -> list[Error]:
    return [error for result in results for error in result.errors if error.rung == name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument(
        "--traces", type=Path, default=Path("../shared/traces"), help="where the recordings are"
    )
    parser.add_argument("--classes", type=_chosen(CLASSES), default=list(CLASSES), help=", ".join(CLASSES))
    parser.add_argument("--rungs", type=_chosen(RUNGS), default=RUNGS, help=", ".join(RUNGS))
    parser.add_argument("--seeds", type=int, default=20, help="of each curve (20)")
    parser.add_argument("--json", action="store_true")
    return parser


def _chosen(known: Sequence[str] | dict[str, ServerClass]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; known are {', '.join(known)}")
        return names

    return read


if __name__ == "__main__":
    sys.exit(main())
