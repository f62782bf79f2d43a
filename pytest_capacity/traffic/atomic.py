"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, under another name beside ``path`` until the block ends without an error.

    On an error it is removed, and what lay at ``path`` stays. A suffix ``.gz`` compresses. Missing
    directories are made. Raises OSError, naming the path, where it cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as raw:
            if path.suffix == ".gz":
                # Without a name and a time, equal content makes equal files.
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as compressed:
                    yield cast("IO[bytes]", compressed)
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        temporary.replace(path)
    except OSError as error:
        # An error of whoever writes here, about another file, tells its own story.
        if error.filename not in (None, str(temporary), str(path), *map(str, path.parents)):
            raise
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
