"""A suite without capacity tests pays for none of the packages that measure."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "aiohttp", "tdigest", "yaml", "uvloop")

PROBE = """
import sys, pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:hypothesispytest"])
loaded = [name for name in {heavy!r} if name in sys.modules]
print("loaded:", loaded, "plugin:", "pytest_capacity.plugin" in sys.modules)
sys.exit(code)
"""


def test_a_run_without_capacity_tests_imports_nothing_that_measures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")

    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY)],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "loaded: [] plugin: True" in done.stdout


@pytest.mark.parametrize("module", ["pytest_capacity", "pytest_capacity.slo", "pytest_capacity.cli"])
def test_importing_the_public_modules_costs_nothing(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import pytest_capacity

    for name in pytest_capacity.__all__:
        assert getattr(pytest_capacity, name).__name__ == name
    assert set(pytest_capacity.__all__) <= set(dir(pytest_capacity))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pytest_capacity.nonsense  # noqa: B018
