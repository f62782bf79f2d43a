"""The C programs of the benchmark, compiled at first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.loadgen.processes import child

SOURCE = Path(__file__).parent / "csrc"
PROGRAMS = ("server", "openclient")
FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


class CannotBuild(Exception):
    """There is no C compiler, or it refused a program; the message says which and why."""


def compiler() -> str | None:
    """The C compiler that is there, if any: what CC names, else gcc or cc."""
    return next(
        (found for name in (os.environ.get("CC"), "gcc", "cc") if name and (found := shutil.which(name))),
        None,
    )


def built(folder: Path) -> dict[str, Path]:
    """Every program by its name, compiled into ``folder`` where its source has changed since.

    Raises CannotBuild.
    """
    found = compiler()
    if found is None:
        raise CannotBuild("no C compiler (gcc or cc) is installed: the servers of this benchmark are in C")
    folder.mkdir(parents=True, exist_ok=True)
    return {name: _compiled(found, name, folder) for name in PROGRAMS}


def _compiled(compiler_path: str, name: str, folder: Path) -> Path:
    digest = hashlib.sha256(" ".join([compiler_path, *FLAGS]).encode())
    for path in (SOURCE / "common.h", SOURCE / f"{name}.c"):
        digest.update(path.read_bytes())
    program = folder.resolve() / f"{name}-{digest.hexdigest()[:12]}"
    if program.exists():
        return program
    # Renamed when whole: two that start at once, or one that is stopped, leave no half of a program.
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f"{name}-")
    os.close(descriptor)
    try:
        # As a child of ours it ends with its own children where we are interrupted.
        with child([compiler_path, *FLAGS, "-o", temporary, str(SOURCE / f"{name}.c")]) as started:
            if started.process.wait():
                raise CannotBuild(f"{compiler_path} refused {name}.c:\n{started.complaints()}")
        Path(temporary).chmod(0o755)
        Path(temporary).replace(program)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return program
