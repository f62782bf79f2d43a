"""Where records lie, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pytest_capacity.protocols import Json
from pytest_capacity.results.record import Record, json_text
from pytest_capacity.results.schema import SCHEMA_VERSION

_STEM_CHARACTERS = 30
_NAME_CHARACTERS = 48
_IGNORE = "# Created by pytest-capacity.\n*\n"


def artifact_path(directory: Path | str, nodeid: str, attempt: int = 1) -> Path:
    """The file of a test's record: ``directory/test_file/test_name-param-a1b2c3d.json``.

    The hash is of the whole node id, which keeps tests of one name apart. Every part is short and holds
    letters, digits, ``_``, ``.`` and ``-`` only. From the second attempt on its number stands before the
    suffix.
    """
    file, _, test = nodeid.partition("::")
    plain, _, parameters = test.partition("[")
    name = _slug(f"{plain.rpartition('::')[2]}-{parameters}", _NAME_CHARACTERS)
    stem = _slug(PurePosixPath(file.replace("\\", "/")).stem, _STEM_CHARACTERS)
    digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:7]
    rerun = f".attempt{attempt}" if attempt > 1 else ""
    folder = Path(directory) / stem if test else Path(directory)
    return folder / f"{name if test else stem}-{digest}{rerun}.json"


def store_record(directory: Path | str, record: Record) -> Path:
    """Write a record to its place under the artifact directory and return its path.

    The path is that of the record's own node id, in which secrets are masked.

    Raises OSError, naming the place and a way out, where it cannot be written.
    """
    path = artifact_path(directory, record["nodeid"], record["attempt"])
    make_artifact_directory(Path(directory))
    write_json_atomically(path, record)
    return path


def make_artifact_directory(directory: Path) -> None:
    """Make the artifact directory where there is none, with a ``.gitignore`` that keeps it out of commits.

    A directory that was there before is left as it is. Raises OSError where it cannot be made.
    """
    with _clearly(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir()
        except FileExistsError:
            # Also where a file has this name, which the next call tells.
            directory.mkdir(exist_ok=True)
        else:
            (directory / ".gitignore").write_text(_IGNORE, encoding="utf-8")


def write_json_atomically(path: Path, document: Json | Mapping[str, Any]) -> None:
    """Write a document so that readers find the old file or the whole new one, never a part.

    Missing directories are made. Raises OSError, naming the place and a way out, and ValueError where the
    document holds NaN or an infinity; nothing is left behind then.
    """
    data = (json_text(document) + "\n").encode("utf-8", "replace")
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with _clearly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_record(path: Path | str) -> Record:
    """Read a stored record.

    Raises OSError where there is no such file and ValueError, naming it, where it holds no record or one of
    a later schema than this version knows.
    """
    try:
        document = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no capacity record: {error}") from error
    version = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(version, int) or "nodeid" not in document:
        raise ValueError(f"{path} is no capacity record: it has no schema version and node id")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written by a newer pytest-capacity: its schema is {version}, "
            f"this version reads up to {SCHEMA_VERSION}"
        )
    return cast("Record", document)


@contextlib.contextmanager
def _clearly(path: Path) -> Iterator[None]:
    """Say of any failure to write which artifact it concerns and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the artifact {path}: {error.strerror or error}; "
            "choose another directory with --capacity-dir",
        ) from error


def _slug(text: str, characters: int) -> str:
    """Letters, digits, ``_``, ``.`` and ``-`` only, no dot or dash at either end, never empty."""
    safe = re.sub(r"[^A-Za-z0-9_.]+", "-", text)
    return re.sub(r"\.{2,}", ".", safe)[:characters].strip("-.") or "test"
