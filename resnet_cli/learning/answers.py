"""A teacher's answers on disk: each given once, and found again by every training that shows the same crops.

In: rows of probabilities. Out: the same rows, from a file in the user's cache.
"""

import os
import shutil
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_cli.errors import ResnetError

_LARGEST = 10_000_000_000  # bytes of all files of answers in the cache
_SURE = 0.01  # how far a row of fp16 probabilities may sum to something else than 1


class Answers:
    """Rows of probabilities on disk, each written once and read often; threads may do both at the same time.

    A row that was never written, or that a crash has cut, does not sum to 1, and counts as absent.

    Args:
        path: the file; it is made as long as it may get, and takes disk for rows that are written alone.
        rows: how many there may be.
        width: numbers a row.
    """

    def __init__(self, path: Path, rows: int, width: int) -> None:
        self._size, self._lock = 2 * width, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._file = path.open("r+b", buffering=0)
            weakref.finalize(self, self._file.close)
            if path.stat().st_size < rows * self._size:  # others may have had more views
                self._file.truncate(rows * self._size)
            os.utime(path)
        except OSError as error:
            raise ResnetError(f"cannot keep the teacher's answers in {path}: {error.strerror}", "free some disk") from error

    def read(self, row: int) -> NDArray[np.float16] | None:
        """float16 (width,), or None where it is absent."""
        with self._lock:
            self._file.seek(row * self._size)
            values = np.frombuffer(self._file.read(self._size), np.float16)
        return values if abs(float(values.sum(dtype=np.float32)) - 1) < _SURE else None

    def write(self, row: int, values: NDArray[np.float16]) -> None:
        """Keep one row; where the disk is full it is asked for again."""
        with suppress(OSError), self._lock:
            self._file.seek(row * self._size)
            self._file.write(values.tobytes())


class Assumed:
    """Stands for answers that are all there, to measure how fast a training is then; they say nothing.

    Args:
        width: numbers a row.
    """

    def __init__(self, width: int) -> None:
        self._row = np.full(width, 1 / width, np.float16)

    def read(self, row: int) -> NDArray[np.float16] | None:
        """The same probability for every class."""
        return self._row

    def write(self, row: int, values: NDArray[np.float16]) -> None:
        """Keeps nothing."""


def has_room(file: Path, size: int) -> bool:
    """Whether a file of answers may take so many bytes of its folder; those that were used longest ago make room."""
    cache = file.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        others = sorted((path for path in cache.glob("*.f16") if path != file), key=lambda path: path.stat().st_mtime)
        held = 512 * file.stat().st_blocks if file.exists() and hasattr(os, "statvfs") else 0  # of its own, which has holes
        if size > _LARGEST or size - held > shutil.disk_usage(cache).free // 2:
            return False
        taken = sum(path.stat().st_size for path in others)
        while others and taken + size > _LARGEST:  # whoever reads one at the moment keeps it until the end
            taken -= others[0].stat().st_size
            others.pop(0).unlink()
        return True
    except OSError:
        return False
