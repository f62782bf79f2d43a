"""Exit codes of every command."""

from __future__ import annotations

from pytest_capacity.slo import Verdict

EXIT_CODES = {Verdict.PASS: 0, Verdict.MEASURED: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
USAGE, INTERRUPTED = 2, 130
NOBODY_READS = 141
"""As a shell tells of a command that SIGPIPE ended: who read the output had seen enough."""
