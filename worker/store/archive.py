"""The archive of pruned commands: files of JSON lines, one for each batch.

Decides their names, and that a file is there in full and on disk, or not at all: readers take `*.jsonl.gz` and never
meet half a file. Leaves what a line holds to `statements`. A batch whose rows stay, because the process died before its
commit, is written once more with its next pruning; a reader tells such lines by their id.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..domain.key import new_id
from ..ports import ArchiveUnavailable

#: They hold what the rows held, payloads with addresses among it: nobody but the worker's own user reads them.
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class FileArchive:
    """A folder of gzipped JSON lines, in a folder for each day; implements `ports.Archive`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, commands: Sequence[Mapping[str, Any]], *, at: datetime) -> None:
        """Write commands to a file of their own, named by the day of `at` and by an id, so that names sort by time.

        Raises:
            ArchiveUnavailable: The file could not be written.
        """
        day = self._folder / f"{at:%Y-%m-%d}"
        file = day / f"{new_id()}.jsonl.gz"
        partial = file.with_suffix(".partial")
        try:
            for folder in (self._folder, day):
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            _write(partial, "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in commands).encode())
            partial.rename(file)
            for folder in (day, self._folder):
                _sync(folder)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise ArchiveUnavailable(f"{self._folder}: {error.strerror or error}") from error


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(gzip.compress(content, mtime=0))
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Have the disk know the names in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
