"""Results as JSON, one file for each part, replaced as a whole."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def write_part(folder: Path, part: str, document: Row) -> Path:
    """Write a part's results atomically; NaN becomes null."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.json"
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f"{part}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(_plain(document), file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def read_part(folder: Path, part: str) -> Row | None:
    """A part's results; None where there are none yet."""
    path = folder / f"{part}.json"
    if not path.exists():
        return None
    document: Row = json.loads(path.read_text(encoding="utf-8"))
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
