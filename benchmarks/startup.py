"""What the plugin costs a suite without capacity tests: ``python benchmarks/startup.py [PAIRS]``.

Runs pytest on one empty test with the plugin and with an empty one in its place, in turn, and prints the
median of the paired differences with a 90 % interval of it. The empty one pays for what ``-p`` itself costs:
a look through all that is installed, which a run that loads its plugins by itself makes anyway. Other plugins
stay out: they would import what is ours to pay.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGIN = "pytest_capacity.plugin"
EMPTY = "empty_plugin"
BOUND_MS = 5.0


def main() -> int:
    """Measure, print, and tell by the exit code whether the bound holds."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_plain.py").write_text("def test_plain(): pass\n")
        Path(folder, f"{EMPTY}.py").touch()
        run(folder, with_plugin=True)
        run(folder, with_plugin=False)
        differences_ms = []
        for number in range(pairs):
            order = (True, False) if number % 2 else (False, True)
            took_s = {with_plugin: run(folder, with_plugin=with_plugin) for with_plugin in order}
            differences_ms.append((took_s[True] - took_s[False]) * 1000)
    median = statistics.median(differences_ms)
    low, high = interval(differences_ms)
    print(f"{median:.1f} ms ({low:.1f} to {high:.1f}, 90 %) for {pairs} pairs; {BOUND_MS:g} ms allowed")
    return 0 if median < BOUND_MS else 1


def run(folder: str, *, with_plugin: bool) -> float:
    """Seconds that a process of pytest takes, from its start to its end."""
    plugin = PLUGIN if with_plugin else EMPTY
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": folder}
    # Without bytecode on disk pytest would compile the plugin anew each time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started_s = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started_s


def interval(values: list[float]) -> tuple[float, float]:
    """The median's 90 % interval by bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return medians[100], medians[1900]


if __name__ == "__main__":
    sys.exit(main())
